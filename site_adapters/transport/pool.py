"""The logins of one site: made at first use, kept, closed when idle."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path

from site_adapters.config import CredentialConfig, SiteConfig
from site_adapters.errors import CredentialRefused
from site_adapters.transport import Connection
from site_adapters.transport.local import LocalConnection
from site_adapters.transport.ssh import Endpoint, Jump, LoginGate, SshConnection

# The private key of a person's login, by username; None where the gateway holds none.
KeySource = Callable[[str], str | None]


class SiteLogins:
    """Connections by username; observer and meter are logins of the gateway's own."""

    def __init__(self, config: SiteConfig, keys: KeySource) -> None:
        self._config, self._keys = config, keys
        self._gate = LoginGate(config.policy.logins_per_second)
        self._open: dict[str, Connection] = {}
        self._lock = threading.Lock()

    def actor(self, username: str) -> Connection:
        return self._connection(username, lambda: self._keys(username))

    def observer(self) -> Connection | None:
        return self._own(self._config.credentials.observer)

    def meter(self) -> Connection | None:
        return self._own(self._config.credentials.meter)

    def provisioner(self) -> Connection | None:
        return self._own(self._config.credentials.provisioner)

    def forget(self, username: str) -> None:
        """Drop a login whose key has changed or was revoked."""
        with self._lock:
            connection = self._open.pop(username, None)
        if connection is not None:
            connection.close()

    def close(self) -> None:
        with self._lock:
            connections = list(self._open.values())
            self._open.clear()
        for connection in connections:
            connection.close()

    def _own(self, credential: CredentialConfig | None) -> Connection | None:
        if credential is None:
            return None
        file = credential.key_file
        return self._connection(
            credential.username, lambda: self._keys(credential.username) if file is None else read_key(file)
        )

    def _connection(self, username: str, key: Callable[[], str | None]) -> Connection:
        with self._lock:
            self._close_idle()
            if username not in self._open:
                self._open[username] = self._make(username, key)
            return self._open[username]

    def _make(self, username: str, key: Callable[[], str | None]) -> Connection:
        transport = self._config.transport
        if transport.kind == "local":
            return LocalConnection(username, environment=self._config.environment, switch_user=transport.switch_user)
        text = key()
        if text is None:
            raise CredentialRefused(f"no key is stored for {username} at {self._config.site}")
        return SshConnection(
            endpoint(self._config), username, text, gate=self._gate, environment=self._config.environment
        )

    def _close_idle(self) -> None:
        limit = time.monotonic() - self._config.transport.idle_close_s
        for connection in self._open.values():
            if isinstance(connection, SshConnection) and connection.is_open and connection.last_used < limit:
                connection.close()  # it opens again at its next use


def endpoint(config: SiteConfig) -> Endpoint:
    """Where a site's login node is, and the way there."""
    t = config.transport
    jump = None
    if t.jump is not None:
        hop = Endpoint(t.jump.host, t.jump.port, t.jump.host_key, t.connect_timeout_s, t.keepalive_s)
        jump = Jump(hop, t.jump.username, read_key(t.jump.key_file))
    return Endpoint(t.host, t.port, t.host_key, t.connect_timeout_s, t.keepalive_s, t.channels_max, jump)


def read_key(file: Path) -> str:
    """A private key from a file; raises `CredentialRefused` where it cannot be read."""
    try:
        return file.read_text("ascii")
    except (OSError, UnicodeDecodeError) as exc:
        raise CredentialRefused(f"the key file {file} cannot be read") from exc
