"""The logins of one site: made at first use, kept, closed when idle, dropped when their key is no longer good."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from site_adapters.config import CredentialConfig, SiteConfig
from site_adapters.errors import CredentialRefused
from site_adapters.transport import Connection
from site_adapters.transport.door import Door
from site_adapters.transport.local import LocalConnection
from site_adapters.transport.ssh import Endpoint, Jump, SshConnection

# The private key of a person's login, by username; None where the gateway holds none.
KeySource = Callable[[str], str | None]


class SiteLogins:
    """Connections of people by username; observer, meter and provisioner are logins of the gateway's own.

    The key source is asked at every use: a key that was taken back, in whatever process, is not used any longer.
    """

    def __init__(self, config: SiteConfig, keys: KeySource) -> None:
        self._config, self._keys = config, keys
        self._door = Door(config.policy.logins_per_second)
        # By (whose power, username): nobody reaches the gateway's own logins by claiming their names.
        self._open: dict[tuple[str, str], tuple[str, Connection]] = {}
        self._lock = threading.Lock()

    def actor(self, username: str) -> Connection:
        if self._config.transport.kind == "local":
            return self._kept(("actor", username), "", lambda _key: self._local(username, person=True))
        key = self._keys(username)
        if key is None:
            self.forget(username)
            raise CredentialRefused(f"no key is stored for {username} at {self._config.site}")
        return self._kept(("actor", username), key, lambda key: self._ssh(username, key))

    def observer(self) -> Connection | None:
        return self._own(self._config.credentials.observer)

    def meter(self) -> Connection | None:
        return self._own(self._config.credentials.meter)

    def anyone(self) -> Connection | None:
        own = self.observer() or self.meter()
        if own is not None:
            return own
        with self._lock:  # a claim of a login that has not let us in says nothing of the site
            people = [
                name for (power, name), (_, connection) in self._open.items()
                if power == "actor" and (not isinstance(connection, SshConnection) or connection.let_in)
            ]  # fmt: skip
        for username in reversed(people):
            with suppress(CredentialRefused):  # its key was taken back meanwhile
                return self.actor(username)
        return None

    def provisioner(self) -> Connection | None:
        return self._own(self._config.credentials.provisioner)

    def forget(self, username: str) -> None:
        """Drop a person's login; what runs on it is cut."""
        with self._lock:
            _, connection = self._open.pop(("actor", username), ("", None))
        if connection is not None:
            connection.close()

    def lift(self) -> None:
        """Use the site again after its host key was shown to be right."""
        self._door.lift()

    def close(self) -> None:
        with self._lock:
            connections = [connection for _, connection in self._open.values()]
            self._open.clear()
        for connection in connections:
            connection.close()

    def _own(self, credential: CredentialConfig | None) -> Connection | None:
        if credential is None:
            return None
        name, file = credential.username, credential.key_file
        if self._config.transport.kind == "local":
            return self._kept(("own", name), "", lambda _key: self._local(name, person=False))
        if file is None:
            return self.actor(name)
        return self._kept(("own", name), read_key(file), lambda key: self._ssh(name, key))

    def _kept(self, who: tuple[str, str], key: str, make: Callable[[str], Connection]) -> Connection:
        with self._lock:
            idle_s = self._config.transport.idle_close_s
            resting = [c for _, c in self._open.values() if isinstance(c, SshConnection)]
            known, connection = self._open.get(who, ("", None))
            stale = connection if known != key else None
            if connection is None or stale is not None:
                connection = make(key)
                self._open[who] = (key, connection)
        if stale is not None:
            stale.close()
        for other in resting:
            other.rest(idle_s=idle_s)
        return connection

    def _local(self, username: str, *, person: bool) -> Connection:
        switch = self._config.transport.switch_user
        connection = LocalConnection(username, environment=self._config.environment, switch_user=switch)
        if person and switch and connection.uid == 0:
            raise CredentialRefused(f"{username} is no login of a person")
        return connection

    def _ssh(self, username: str, key: str) -> Connection:
        place = endpoint(self._config)
        return SshConnection(place, username, key, door=self._door, environment=self._config.environment)


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
