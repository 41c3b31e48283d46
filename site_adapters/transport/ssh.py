"""SSH by paramiko, and the only file that knows it: kept-open connections, pinned host keys, framed commands.

Settings that cost others dearly: TCP_NODELAY and stdin closed at once, or paramiko is 15 times slower and can lose the
connection under threads; at most 5 channels, as sshd allows 10 and frees them late.
"""

from __future__ import annotations

import base64
import io
import logging
import math
import select
import socket
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, TypeVar

import paramiko

from site_adapters.command import Command
from site_adapters.errors import (
    CredentialRefused,
    HostKeyChanged,
    SiteError,
    SiteUnreachable,
)
from site_adapters.transport import FileChunk
from site_adapters.transport.door import Door
from site_adapters.transport.files import read_chunk
from site_adapters.transport.framing import Answers, Program, program, refusal_of, result_of

T = TypeVar("T")

_KEY_CLASSES = (paramiko.Ed25519Key, paramiko.ECDSAKey, paramiko.RSAKey)
_BROKEN = (OSError, EOFError, paramiko.SSHException)
_GRACE_S = 0.5
_REFUSED_WAIT_S = (5.0, 300.0)  # a refused login is tried again after the first, doubling to the second

# It logs each failure with a traceback; all of them are raised to the caller in words.
logging.getLogger("paramiko").setLevel(logging.CRITICAL)


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where to log in; `host_key` is the pinned line `ssh-ed25519 AAAA…`. `jump` is passed through first."""

    host: str
    port: int
    host_key: str
    connect_timeout_s: float = 10.0
    keepalive_s: int = 15
    channels_max: int = 5
    jump: Jump | None = None


@dataclass(frozen=True, slots=True)
class Jump:
    """A host before the login node, with its own pinned key and login."""

    endpoint: Endpoint
    username: str
    key_text: str = field(repr=False)


class SshConnection:
    """One login at one site, opened at first use and kept; opened anew after it broke."""

    def __init__(
        self, endpoint: Endpoint, username: str, key_text: str, *, door: Door, environment: Mapping[str, str]
    ) -> None:
        self._endpoint, self._username, self._key_text = endpoint, username, key_text
        self._door, self._environment = door, dict(environment)
        self._channels = threading.BoundedSemaphore(endpoint.channels_max)
        self._logging_in = threading.Lock()
        self._lock = threading.Lock()  # of what follows; never held while waiting
        self._line: _Line | None = None
        self._closed = False
        self._last_used = time.monotonic()
        self._refused: tuple[float, float, str] | None = None  # until, waited, why
        self.let_in = False  # the site has accepted this login at least once

    @property
    def username(self) -> str:
        return self._username

    def run(self, command: Command[T]) -> T:
        result = self.run_many([command])[0]
        if isinstance(result, SiteError):
            raise result
        return result

    def run_many(self, commands: Sequence[Command[T]]) -> list[T | SiteError]:
        if not commands:
            return []
        try:
            sent = program(commands, environment=self._environment)
        except ValueError:
            return self._run_sound(commands)
        deadline = time.monotonic() + max(c.deadline_s for c in commands)
        try:
            answers, broken = self._exchange(sent, deadline)
        except SiteError as exc:
            return [exc for _ in commands]  # nothing of the program ran
        results: list[T | SiteError] = []
        for number, (command, output) in enumerate(zip(commands, answers.outputs(), strict=True)):
            result = result_of(command, output, number == answers.overflow, broken)
            results.append(result)
        return results

    def read_file(self, path: str, *, offset: int, limit: int) -> FileChunk:
        return self.run(read_chunk(path, offset=offset, limit=limit))

    def close(self) -> None:
        with self._lock:
            self._closed = True
            line, self._line = self._line, None
        if line is not None:
            line.close()

    def rest(self, *, idle_s: float) -> None:
        """Close what was not used for so long; the next use logs in again."""
        with self._lock:
            line = self._line
            if line is None or line.users or time.monotonic() - self._last_used <= idle_s:
                return
            self._line = None
        line.close()

    def _run_sound(self, commands: Sequence[Command[T]]) -> list[T | SiteError]:
        """Commands of which some cannot be put into words of a shell: those are refused, the others run."""
        refusals = [refusal_of(command) for command in commands]
        sound = [c for c, refusal in zip(commands, refusals, strict=True) if refusal is None]
        ran = self.run_many(sound)
        answered = iter(ran)
        return [next(answered) if refusal is None else refusal for refusal in refusals]

    # ------------------------------------------------------------ one exchange

    def _exchange(self, sent: Program, deadline: float) -> tuple[Answers, str]:
        """Hand the program over and read to its end; returns the answers and why they broke off, if they did.

        Raises `SiteError` only where nothing of the program can have run.
        """
        answers = Answers(sent)
        with self._channel(deadline) as (line, channel):
            self._send(channel, sent)
            broken = _receive(channel, answers, deadline)
            # A program that we no longer listen to keeps its session at sshd, and may be stuck: leave the line to it.
            status = channel.exit_status
            line.retired = line.retired or (bool(broken) and status < 0)
        # A program that was run ends with 0, or is killed, or has said that it began.
        if broken and not answers.begun and 0 < status < 128:
            raise SiteUnreachable(f"{self._endpoint.host} runs no commands for {self._username}: {answers.noise}")
        return answers, broken

    def _send(self, channel: paramiko.Channel, sent: Program) -> None:
        try:
            channel.exec_command(sent.loader)
            channel.sendall(sent.text)
        except _BROKEN as exc:
            raise SiteUnreachable(f"{self._endpoint.host}: the connection broke while sending: {exc}") from exc
        with suppress(*_BROKEN):  # everything was sent: whether it ran shows in what can still be read
            channel.shutdown_write()

    @contextmanager
    def _channel(self, deadline: float) -> Iterator[tuple[_Line, paramiko.Channel]]:
        if not self._channels.acquire(timeout=max(0.0, deadline - time.monotonic())):
            raise SiteUnreachable(f"{self._endpoint.host}: all channels of {self._username} stayed busy")
        try:
            line, channel = self._open_channel(deadline)
            sound = False
            try:
                # paramiko waits without end where a peer stops reading or answering.
                with self._door.watchdog.at(deadline + _GRACE_S, line.close):
                    try:
                        yield line, channel
                        sound = True
                    finally:
                        with suppress(*_BROKEN):
                            channel.close()
            finally:
                self._leave(line, sound=sound)
        finally:
            self._channels.release()

    def _open_channel(self, deadline: float) -> tuple[_Line, paramiko.Channel]:
        """A session. sshd frees closed ones late, and a connection may have died unseen: nothing was sent yet."""
        refused, broken = 0, 0
        while True:
            line = self._enter(deadline)
            try:
                return line, line.transport.open_session(timeout=max(0.1, deadline - time.monotonic()))
            except _BROKEN as exc:
                problem = exc
                if line.transport.is_active() and time.monotonic() < deadline:
                    # sshd said no. Where nobody of ours is on the line, stuck sessions are: a new line has its own.
                    # (Not only ChannelException: of two refused at once, paramiko gives that to one.)
                    refused += line.users == 1
                    self._leave(line, sound=refused < 6)
                else:
                    broken += 1
                    self._leave(line, sound=False)
            if refused > 7 or broken > 1 or time.monotonic() > deadline:
                raise SiteUnreachable(f"{self._endpoint.host}: no session could be opened: {problem}") from problem
            time.sleep(0.01 * 2**refused)

    # ------------------------------------------------------------ the connection

    def _enter(self, deadline: float) -> _Line:
        """The open line, or a new one; one thread logs in while the others wait for it."""
        if not self._logging_in.acquire(timeout=max(0.0, deadline - time.monotonic())):
            raise SiteUnreachable(f"{self._endpoint.host}: no login within the deadline")
        try:
            self._door.check()
            with self._lock:
                line = self._line
                if line is not None and line.usable and line.seen_shut == self._door.shut_count:
                    line.users += 1
                    return line
            return self._new_line(line, deadline)
        finally:
            self._logging_in.release()

    def _leave(self, line: _Line, *, sound: bool) -> None:
        with self._lock:
            line.users -= 1
            line.retired = line.retired or not sound
            self._last_used = time.monotonic()
            over = line.retired and line.users == 0
            if line.retired and self._line is line:
                self._line = None
        if over:
            line.close()

    def _new_line(self, old: _Line | None, deadline: float) -> _Line:
        """Log in, and use the new line; who is on the old one may end what they do there."""
        with self._lock:
            self._line = None
            if old is not None:
                old.retired = True
        if old is not None and (old.users == 0 or not old.transport.is_active()):
            old.close()
        self._may_log_in()
        self._door.enter(deadline)
        line = self._log_in(deadline)
        line.users = 1
        with self._lock:
            self._line, self._refused, self.let_in = (None if self._closed else line), None, True
        try:
            self._may_log_in()  # closed meanwhile?
        except SiteError:
            line.close()
            raise
        return line

    def _may_log_in(self) -> None:
        refused = self._refused
        if refused is not None and time.monotonic() < refused[0]:
            wait = math.ceil(refused[0] - time.monotonic())
            raise CredentialRefused(f"{refused[2]} (it was asked just now, and is asked again in {wait} s)")
        if self._closed:
            raise SiteUnreachable(f"the connection of {self._username} was closed")

    def _log_in(self, deadline: float) -> _Line:
        begun = time.monotonic()
        seen = self._door.shut_count
        timeout = max(0.1, min(self._endpoint.connect_timeout_s, deadline - begun))
        try:
            return _Line(*_open_line(self._endpoint, self._username, self._key_text, timeout), seen)
        except HostKeyChanged as exc:
            self._door.shut(str(exc))
            raise
        except CredentialRefused as exc:
            first, longest = _REFUSED_WAIT_S
            wait = first if self._refused is None else min(longest, 2 * self._refused[1])
            self._refused = (time.monotonic() + wait, wait, str(exc))
            raise
        except SiteUnreachable as exc:
            self._door.pause(time.monotonic() - begun, str(exc))
            raise


@dataclass(slots=True)
class _Line:
    """One authenticated TCP connection, with the one it passes through. Retired: no new channel, closed by its last."""

    transport: paramiko.Transport
    under: paramiko.Transport | None
    seen_shut: int
    users: int = 0
    retired: bool = False

    @property
    def usable(self) -> bool:
        return not self.retired and self.transport.is_active()

    def close(self) -> None:
        self.transport.close()
        if self.under is not None:
            self.under.close()


def _receive(channel: paramiko.Channel, answers: Answers, deadline: float) -> str:
    """Read until the last end mark, and say why not, if not: deadline, limit or connection."""
    poller = select.poll()
    try:
        poller.register(channel.fileno(), select.POLLIN)
        while True:
            ended = channel.eof_received or channel.closed
            out = channel.recv(1 << 20) if channel.recv_ready() else b""
            err = channel.recv_stderr(1 << 20) if channel.recv_stderr_ready() else b""
            answers.feed(stdout=out, stderr=err)
            if answers.complete:
                channel.status_event.wait(_GRACE_S)  # its session is free then, and the next one can be opened
                return ""
            if answers.overflow is not None:
                return "it printed more than is allowed"
            if ended and not (out or err):
                channel.status_event.wait(_GRACE_S)
                return "the connection was closed before its end"
            left = deadline - time.monotonic()
            if left <= 0:
                return "no end within its deadline"
            if not (out or err):
                poller.poll(min(left, 5.0) * 1000)
    except _BROKEN as exc:
        return f"the connection broke: {exc}"


# ---------------------------------------------------------------- logging in


class _Passage:
    """A channel through a jump host as the socket of another connection.

    A channel says goodbye when it is closed and raises where the way is broken; a socket does not, and paramiko's
    thread would die of it before it told those who wait.
    """

    def __init__(self, channel: paramiko.Channel) -> None:
        self._channel = channel

    def __getattr__(self, name: str) -> Any:
        return getattr(self._channel, name)

    def close(self) -> None:
        with suppress(*_BROKEN):
            self._channel.close()


def _open_line(
    endpoint: Endpoint, username: str, key_text: str, timeout: float
) -> tuple[paramiko.Transport, paramiko.Transport | None]:
    """Log in, through the jump host where there is one; nothing stays open where it fails."""
    jump = endpoint.jump
    if jump is None:
        return open_transport(endpoint, username, key_text, _socket(endpoint, timeout), timeout), None
    under, _ = _open_line(jump.endpoint, jump.username, jump.key_text, timeout)
    try:
        target = (endpoint.host, endpoint.port)
        channel = under.open_channel("direct-tcpip", target, ("127.0.0.1", 0), timeout=timeout)
        return open_transport(endpoint, username, key_text, _Passage(channel), timeout), under
    except _BROKEN as exc:
        under.close()
        raise SiteUnreachable(f"{jump.endpoint.host} does not pass us on to {endpoint.host}: {exc}") from exc
    except SiteError:
        under.close()
        raise


def open_transport(endpoint: Endpoint, username: str, key_text: str, sock: Any, timeout: float) -> paramiko.Transport:
    """Check the host key, then log in. Raises `SiteUnreachable`, `HostKeyChanged` or `CredentialRefused`."""
    transport: paramiko.Transport | None = None
    place = f"{endpoint.host}:{endpoint.port}"
    try:
        key = load_key(key_text)
        transport = paramiko.Transport(sock)
        transport.banner_timeout = transport.auth_timeout = transport.handshake_timeout = timeout
        _check_host(transport, endpoint, timeout)
        _authenticate(transport, username, key, endpoint.host)
        transport.set_keepalive(endpoint.keepalive_s)
    except (SiteError, *_BROKEN) as exc:
        if transport is not None:
            transport.close()
        sock.close()
        if isinstance(exc, SiteError):
            raise
        raise SiteUnreachable(f"{place} cannot be reached: {str(exc) or 'it closed the connection'}") from exc
    return transport


def _check_host(transport: paramiko.Transport, endpoint: Endpoint, timeout: float) -> None:
    place = f"{endpoint.host}:{endpoint.port}"
    kind, pinned = _pinned(endpoint.host_key)
    options = transport.get_security_options()
    options.key_types = ("rsa-sha2-512", "rsa-sha2-256") if kind == "ssh-rsa" else (kind,)
    try:
        transport.start_client(timeout=timeout)
    except paramiko.ssh_exception.IncompatiblePeer as exc:
        if "host key" in str(exc):
            raise HostKeyChanged(f"{place} has no {kind} key any more, and that is the pinned one. {_REMEDY}") from exc
        raise SiteUnreachable(
            f"{place} and this gateway share no algorithm ({exc}): the centre's sshd needs an update"
        ) from exc
    shown = transport.get_remote_server_key()
    if shown.asbytes() != pinned:
        what = f"{shown.get_name()} {shown.fingerprint}"
        raise HostKeyChanged(f"{place} shows the key {what}, not the pinned one. {_REMEDY}")


_REMEDY = "Ask the centre whether it changed its key, then put the new one into the site file."


def _authenticate(transport: paramiko.Transport, username: str, key: paramiko.PKey, host: str) -> None:
    try:
        more = transport.auth_publickey(username, key)
    except paramiko.BadAuthenticationType as exc:
        raise CredentialRefused(f"{host} takes no keys of {username}, only {', '.join(exc.allowed_types)}") from exc
    except paramiko.AuthenticationException as exc:
        # The same class tells a cut or a slow connection.
        if not transport.is_active() or "timeout" in str(exc).lower():
            raise SiteUnreachable(f"{host} broke off while {username} logged in: {exc}") from exc
        raise CredentialRefused(f"{host} does not accept the key of {username}") from exc
    if more:
        raise CredentialRefused(f"{host} asks {username} for more than a key: {', '.join(more)}")


def load_key(text: str) -> paramiko.PKey:
    """A private key from its text; raises `CredentialRefused` where it is none that we can use."""
    for kind in _KEY_CLASSES:
        try:
            return kind.from_private_key(io.StringIO(text))
        except Exception:  # noqa: BLE001, S112 - people paste these: a damaged one gets any error out of the parsers
            continue
    raise CredentialRefused("the private key is neither Ed25519, ECDSA nor RSA, or it has a passphrase")


def _socket(endpoint: Endpoint, timeout: float) -> socket.socket:
    try:
        sock = socket.create_connection((endpoint.host, endpoint.port), timeout=timeout)
    except OSError as exc:
        raise SiteUnreachable(f"{endpoint.host}:{endpoint.port} cannot be reached: {exc}") from exc
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    if endpoint.keepalive_s and hasattr(socket, "TCP_USER_TIMEOUT"):
        # paramiko sends keepalives and never looks for their answer: the kernel does.
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 3000 * endpoint.keepalive_s)
    return sock


def _pinned(line: str) -> tuple[str, bytes]:
    kind, _, rest = line.strip().partition(" ")
    try:
        return kind, base64.b64decode(rest.split()[0], validate=True)
    except (ValueError, IndexError) as exc:
        raise HostKeyChanged("the site file has no readable host_key line") from exc
