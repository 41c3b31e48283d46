"""How a call of the gateway reaches a centre: over HTTP here; through a docked agent in the gateway's own hub."""

from __future__ import annotations

import secrets
import ssl
import time
from dataclasses import dataclass, field
from typing import Protocol

import httpx

from site_adapters.config import DockConfig
from site_adapters.errors import CredentialRefused, Refused, SiteClosed, SiteUnreachable
from site_adapters.if2 import keys, tokens, wire
from site_adapters.if2.keys import TrustStore
from site_adapters.if2.verbs import Verb

_AGAIN_S = 0.2


class Channel(Protocol):
    """Carries one call and brings its signed answer."""

    def ask(self, verb: Verb, call: wire.Call) -> bytes:
        """The answer's body, its signature verified. Raises `SiteUnreachable` where nothing was sent, what `wire.lost`
        gives where it may have been, `CredentialRefused` where one side does not trust the other.
        """
        ...

    def close(self) -> None: ...


@dataclass(slots=True)
class Seal:
    """Our key and the centre's, for the messages of one docking."""

    site: str
    dock: DockConfig
    trust: TrustStore

    @staticmethod
    def of(site: str, dock: DockConfig) -> Seal:
        try:
            first = tuple(keys.read_public(text) for text in dock.centre_keys)
        except ValueError as exc:
            raise SiteClosed(f"dock.centre_keys: {exc}") from exc
        keys.load(dock.key_file)  # a docking without a key is told at once
        return Seal(site, dock, TrustStore(dock.key_file.with_name(f"{dock.key_file.name}.{site}.trusted"), first))

    def sign(self, call_id: str, body: bytes) -> str:
        key = keys.load(self.dock.key_file)
        return tokens.sign(key, issuer=self.dock.gateway, audience=self.site, about=call_id, body=body)

    def opened(self, token: str, call_id: str, body: bytes) -> bytes:
        """The body, if the centre signed it as the answer to this call; raises `CredentialRefused`."""
        claims = tokens.verify(token, self.trust, audience=self.dock.gateway, body=body)
        if claims.issuer != self.site or claims.about != call_id:
            raise CredentialRefused("the answer is another site's, or to another call")
        return body


def new_call(verb: Verb, args: dict[str, object]) -> wire.Call:
    """A call under an id of its own."""
    return wire.Call(secrets.token_hex(12), verb.name, args, verb.deadline_s)


@dataclass(slots=True)
class HttpChannel:
    """The centre's service, kept open. A cut answer is asked for again by its id, which does nothing twice."""

    seal: Seal
    _client: httpx.Client = field(init=False)

    def __post_init__(self) -> None:
        dock = self.seal.dock
        verify: ssl.SSLContext | bool = True
        if dock.ca_file is not None:
            verify = ssl.create_default_context(cafile=str(dock.ca_file))
        timeout = httpx.Timeout(60.0, connect=dock.connect_timeout_s)
        limits = httpx.Limits(max_connections=32, max_keepalive_connections=16)
        self._client = httpx.Client(base_url=dock.url, verify=verify, timeout=timeout, limits=limits, trust_env=False)

    def ask(self, verb: Verb, call: wire.Call) -> bytes:
        body = call.to_bytes()
        path = f"{wire.PREFIX}/{verb.name.replace('.', '/')}"
        end, sent = time.monotonic() + call.deadline_s, False
        while True:
            try:
                headers = {
                    "Authorization": f"Bearer {self.seal.sign(call.id, body)}",
                    "Content-Type": "application/json",
                }
                answer = self._client.post(path, content=body, headers=headers)
            except (httpx.ConnectError, httpx.ConnectTimeout) as exc:
                if not sent:
                    raise SiteUnreachable(f"{self.seal.site}: its service cannot be reached: {exc}") from exc
            except RuntimeError as exc:
                if not self._client.is_closed:
                    raise
                raise wire.lost(verb, f"{self.seal.site}: closed on our side") from exc
            except httpx.HTTPError as exc:
                sent, reason = True, f"the connection to its service broke: {type(exc).__name__}"
            else:
                sent = True
                if answer.status_code == 200:
                    return self.seal.opened(answer.headers.get(wire.SIGNATURE, ""), call.id, answer.content)
                if answer.status_code != 202 and answer.status_code < 500:
                    raise _refused(self.seal.site, answer)
                reason = f"its service answered {answer.status_code}"
            if time.monotonic() + _AGAIN_S >= end:
                raise wire.lost(verb, f"{self.seal.site}: {reason if sent else 'no answer in time'}")
            time.sleep(_AGAIN_S)

    def close(self) -> None:
        self._client.close()


def _refused(site: str, answer: httpx.Response) -> CredentialRefused | Refused:
    try:
        text = str(answer.json()["detail"])[:300]
    except (ValueError, KeyError, TypeError):  # a proxy's page
        text = answer.text[:300] or f"status {answer.status_code}; is the gateway or the service another one?"
    if answer.status_code in (401, 403):
        return CredentialRefused(f"{site} does not accept us: {text}")
    return Refused(f"{site} cannot read the call: {text}", code="malformed")
