"""SSH by paramiko, and the only file that knows it: kept-open connections, pinned host keys, framed commands.

Settings that cost others dearly: TCP_NODELAY and stdin closed at once, or paramiko is 15 times slower and can lose the
connection under threads; at most 5 channels, as sshd allows 10 and frees them late.
"""

from __future__ import annotations

import base64
import io
import select
import socket
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar

import paramiko

from site_adapters.command import Command, Output
from site_adapters.errors import (
    CommandFailed,
    CredentialRefused,
    HostKeyChanged,
    OutcomeUnknown,
    SiteError,
    SiteUnreachable,
)
from site_adapters.transport import FileChunk
from site_adapters.transport.files import read_chunk
from site_adapters.transport.framing import Program, answers, loader, program

T = TypeVar("T")

_KEY_CLASSES = (paramiko.Ed25519Key, paramiko.ECDSAKey, paramiko.RSAKey)
_STDERR_BYTES_MAX = 1024 * 1024


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
    """A gateway host before the login node, with its own pinned key and login."""

    endpoint: Endpoint
    username: str
    key_text: str = field(repr=False)


class LoginGate:
    """At most `per_second` new logins at one site, all accounts together: a restart must not look like an attack."""

    def __init__(self, per_second: float) -> None:
        self._interval_s = 1.0 / per_second
        self._lock = threading.Lock()
        self._next = 0.0

    def wait(self, deadline: float) -> None:
        """Take a turn; raises `SiteUnreachable` where the turn would come after the (monotonic) deadline."""
        with self._lock:
            turn = max(time.monotonic(), self._next)
            if turn > deadline:
                raise SiteUnreachable("too many new logins are waiting for this site")
            self._next = turn + self._interval_s
        time.sleep(max(0.0, turn - time.monotonic()))


class SshConnection:
    """One login at one site, opened at first use and kept; opened anew after it broke."""

    def __init__(
        self, endpoint: Endpoint, username: str, key_text: str, *, gate: LoginGate, environment: Mapping[str, str]
    ) -> None:
        self._endpoint, self._username, self._key_text = endpoint, username, key_text
        self._gate, self._environment = gate, dict(environment)
        self._channels = threading.BoundedSemaphore(endpoint.channels_max)
        self._lock = threading.Lock()
        self._transport: paramiko.Transport | None = None
        self._jump_transport: paramiko.Transport | None = None
        self.last_used = time.monotonic()

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
        deadline = time.monotonic() + max(c.deadline_s for c in commands)
        sent = program(commands, environment=self._environment)
        try:
            stdout, stderr, broken = self._exchange(sent, commands, deadline)
        except SiteError as exc:
            return [exc for _ in commands]  # the program was not handed over whole: none of it ran
        results: list[T | SiteError] = []
        for command, output in zip(commands, answers(sent, stdout, stderr), strict=True):
            result = self._result(command, output, broken)
            results.append(result)
        return results

    def read_file(self, path: str, *, offset: int, limit: int) -> FileChunk:
        return self.run(read_chunk(path, offset=offset, limit=limit))

    def close(self) -> None:
        with self._lock:
            for transport in (self._transport, self._jump_transport):
                if transport is not None:
                    transport.close()
            self._transport = self._jump_transport = None

    @property
    def is_open(self) -> bool:
        return self._transport is not None and self._transport.is_active()

    # ------------------------------------------------------------ one exchange

    def _result(self, command: Command[T], output: Output | None, broken: str) -> T | SiteError:
        if output is None:
            what = f"{command.argv[0]}: {broken or 'its end was not seen'}"
            return OutcomeUnknown(what) if command.write else SiteUnreachable(what)
        if len(output.stdout) > command.stdout_bytes_max:
            return CommandFailed(f"{command.argv[0]} printed more than {command.stdout_bytes_max} bytes")
        try:
            return command.parse(output)
        except SiteError as exc:
            return exc

    def _exchange(self, sent: Program, commands: Sequence[Command[Any]], deadline: float) -> tuple[bytes, bytes, str]:
        """Hand the program over and read to the end; returns both streams and why they broke off, if they did.

        Raises `SiteError` only while nothing of the program can have run.
        """
        limit = sum(c.stdout_bytes_max for c in commands) + 4096 * len(commands)
        with self._channel(deadline) as channel:
            self._send(channel, sent, deadline)
            return _receive(channel, deadline, limit)

    def _send(self, channel: paramiko.Channel, sent: Program, deadline: float) -> None:
        try:
            channel.settimeout(max(0.1, deadline - time.monotonic()))
            channel.exec_command(loader(sent))
            channel.sendall(sent.text)
        except (OSError, EOFError, paramiko.SSHException) as exc:
            self._drop(channel.get_transport())
            raise SiteUnreachable(f"{self._endpoint.host}: the connection broke while sending: {exc}") from exc
        try:
            channel.shutdown_write()
        except (OSError, EOFError, paramiko.SSHException):
            # Everything was sent; whether it ran shows in what can still be read.
            self._drop(channel.get_transport())

    @contextmanager
    def _channel(self, deadline: float) -> Iterator[paramiko.Channel]:
        if not self._channels.acquire(timeout=max(0.0, deadline - time.monotonic())):
            raise SiteUnreachable(f"{self._endpoint.host}: all channels of {self._username} stayed busy")
        try:
            channel = self._open_channel(deadline)
            try:
                yield channel
            finally:
                channel.close()
        finally:
            self._channels.release()
            self.last_used = time.monotonic()

    def _open_channel(self, deadline: float) -> paramiko.Channel:
        """A session; sshd frees closed ones late, and a connection may have died unseen: nothing was sent yet."""
        tries = 0
        while True:
            transport = self._connected(deadline)
            try:
                return transport.open_session(timeout=max(0.1, deadline - time.monotonic()))
            except (OSError, EOFError, paramiko.SSHException) as exc:
                tries += 1
                if not isinstance(exc, paramiko.ChannelException):
                    self._drop(transport)
                if tries > 5 or time.monotonic() > deadline:
                    raise SiteUnreachable(f"{self._endpoint.host}: no session could be opened: {exc}") from exc
                time.sleep(0.02 * 2**tries)

    # ------------------------------------------------------------ the connection

    def _connected(self, deadline: float) -> paramiko.Transport:
        with self._lock:
            if self._transport is not None and self._transport.is_active():
                return self._transport
            if self._transport is not None:
                self._transport.close()
            self._gate.wait(deadline)
            self._transport = self._log_in()
            return self._transport

    def _log_in(self) -> paramiko.Transport:
        jump = self._endpoint.jump
        if jump is None:
            return open_transport(self._endpoint, self._username, self._key_text)
        self._jump_transport = open_transport(jump.endpoint, jump.username, jump.key_text)
        target = (self._endpoint.host, self._endpoint.port)
        try:
            channel = self._jump_transport.open_channel(
                "direct-tcpip", target, ("127.0.0.1", 0), timeout=self._endpoint.connect_timeout_s
            )
        except paramiko.SSHException as exc:
            raise SiteUnreachable(f"{jump.endpoint.host} does not pass us on to {target[0]}: {exc}") from exc
        return open_transport(self._endpoint, self._username, self._key_text, channel=channel)

    def _drop(self, transport: paramiko.Transport | None) -> None:
        with self._lock:
            if transport is not None and transport is self._transport:
                transport.close()
                self._transport = None


def open_transport(
    endpoint: Endpoint, username: str, key_text: str, *, channel: paramiko.Channel | None = None
) -> paramiko.Transport:
    """Connect, check the host key, log in. Raises `SiteUnreachable`, `HostKeyChanged` or `CredentialRefused`."""
    key = load_key(key_text)
    pinned_type, pinned = _pinned(endpoint.host_key)
    sock = channel if channel is not None else _socket(endpoint)
    transport: paramiko.Transport | None = None
    try:
        transport = paramiko.Transport(sock)
        transport.banner_timeout = transport.auth_timeout = endpoint.connect_timeout_s
        options = transport.get_security_options()
        wanted = ("rsa-sha2-512", "rsa-sha2-256") if pinned_type == "ssh-rsa" else (pinned_type,)
        options.key_types = tuple(t for t in options.key_types if t in wanted) or options.key_types
        transport.start_client(timeout=endpoint.connect_timeout_s)
        shown = transport.get_remote_server_key()
        if shown.asbytes() != pinned:
            raise HostKeyChanged(
                f"{endpoint.host}:{endpoint.port} shows {shown.get_name()} {shown.fingerprint}, not the pinned "
                "key. Ask the centre whether it changed its key, then put the new one into the site file."
            )
        transport.auth_publickey(username, key)
        transport.set_keepalive(endpoint.keepalive_s)
    except SiteError:
        _close(transport, sock)
        raise
    except paramiko.AuthenticationException as exc:
        _close(transport, sock)
        raise CredentialRefused(f"{endpoint.host} does not accept the key of {username}") from exc
    except paramiko.ssh_exception.IncompatiblePeer as exc:
        _close(transport, sock)
        text = f"{endpoint.host} and this gateway share no algorithm ({exc}): the centre's sshd needs an update"
        if "host key" in str(exc):
            raise HostKeyChanged(
                f"{endpoint.host} has no {pinned_type} host key any more: it changed its keys"
            ) from exc
        raise SiteUnreachable(text) from exc
    except (OSError, EOFError, paramiko.SSHException) as exc:
        _close(transport, sock)
        raise SiteUnreachable(f"{endpoint.host}:{endpoint.port} cannot be reached: {exc}") from exc
    return transport


def load_key(text: str) -> paramiko.PKey:
    """A private key from its text; raises `CredentialRefused` where it is none that we can use."""
    for kind in _KEY_CLASSES:
        try:
            return kind.from_private_key(io.StringIO(text))
        except (paramiko.SSHException, ValueError, IndexError):
            continue
    raise CredentialRefused("the stored private key is neither Ed25519, ECDSA nor RSA, or it has a passphrase")


def _receive(channel: paramiko.Channel, deadline: float, limit: int) -> tuple[bytes, bytes, str]:
    """Both streams to their end, or as far as deadline, limit and connection allow."""
    out, err = bytearray(), bytearray()
    poller = select.poll()
    poller.register(channel.fileno(), select.POLLIN)
    while True:
        while channel.recv_ready():
            out += channel.recv(1 << 20)
        while channel.recv_stderr_ready():
            err += channel.recv_stderr(1 << 20)
        if len(out) > limit or len(err) > _STDERR_BYTES_MAX:
            return bytes(out), bytes(err), "it printed more than was allowed"
        if channel.eof_received or channel.closed:
            if channel.recv_ready() or channel.recv_stderr_ready():
                continue
            return bytes(out), bytes(err), "the connection was closed before its end"
        left = deadline - time.monotonic()
        if left <= 0:
            return bytes(out), bytes(err), "no end within its deadline"
        poller.poll(min(left, 5.0) * 1000)


def _socket(endpoint: Endpoint) -> socket.socket:
    try:
        sock = socket.create_connection((endpoint.host, endpoint.port), timeout=endpoint.connect_timeout_s)
    except OSError as exc:
        raise SiteUnreachable(f"{endpoint.host}:{endpoint.port} cannot be reached: {exc}") from exc
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return sock


def _pinned(line: str) -> tuple[str, bytes]:
    kind, _, rest = line.strip().partition(" ")
    try:
        return kind, base64.b64decode(rest.split()[0], validate=True)
    except (ValueError, IndexError) as exc:
        raise HostKeyChanged("the site file has no readable host_key line") from exc


def _close(transport: paramiko.Transport | None, sock: Any) -> None:
    if transport is not None:
        transport.close()
    sock.close()
