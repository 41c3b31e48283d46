"""Two ways to prove who asks: a signed request for a token (HMAC-SHA256), or a token that the centre has given."""

from __future__ import annotations

import hashlib
import hmac
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from site_adapters.dialect_config import NorthboundConfig
from site_adapters.errors import CredentialRefused
from site_adapters.northbound.commands import read_data
from site_adapters.transport.http import Answer, Login, Request


def login_of(config: NorthboundConfig) -> Login:
    """The login that the site file describes."""
    return TokenLogin(config) if config.login == "token" else HmacLogin(config)


@dataclass(slots=True)
class TokenLogin:
    """A token from a file, read at every use: a new one in its place is used at once."""

    config: NorthboundConfig

    def headers(self, ask: Callable[[Request[Any]], Any]) -> Mapping[str, str]:
        assert self.config.token_file is not None
        return {"token": _secret(self.config.token_file)}

    def forget(self) -> None:
        """The file may hold a new one next time."""


@dataclass(slots=True)
class HmacLogin:
    """A signature over {accessKey, timestamp, user} buys a token for each cluster; ours is kept until it is refused."""

    config: NorthboundConfig
    _token: str = ""

    def headers(self, ask: Callable[[Request[Any]], Any]) -> Mapping[str, str]:
        if not self._token:
            self._token = ask(self._request(str(int(time.time()))))
        return {"token": self._token}

    def forget(self) -> None:
        self._token = ""

    def _request(self, timestamp: str) -> Request[str]:
        c = self.config
        assert c.access_key_file is not None and c.secret_key_file is not None
        access, secret = _secret(c.access_key_file), _secret(c.secret_key_file)
        headers = {"user": c.user, "accessKey": access, "timestamp": timestamp,
                   "signature": signature(secret, access=access, timestamp=timestamp, user=c.user)}  # fmt: skip
        return Request("POST", f"{c.login_url or c.url}/api/user/v3/tokens", self._read, headers=headers)

    def _read(self, answer: Answer) -> str:
        if answer.status in (401, 403):
            raise CredentialRefused("the centre does not accept our key")
        for row in read_data(answer) or []:
            if self.config.cluster in ("", str(row.get("clusterId")), str(row.get("clusterName"))):
                return str(row["token"])
        raise CredentialRefused(f"our key opens no cluster {self.config.cluster!r}")


def signature(secret: str, *, access: str, timestamp: str, user: str) -> str:
    """HMAC-SHA256 over compact JSON, its members in this order."""
    text = json.dumps({"accessKey": access, "timestamp": timestamp, "user": user}, separators=(",", ":"))
    return hmac.new(secret.encode(), text.encode(), hashlib.sha256).hexdigest()


def _secret(file: Path) -> str:
    try:
        return file.read_text("ascii").strip()
    except (OSError, UnicodeDecodeError) as exc:
        raise CredentialRefused(f"the key file {file} cannot be read") from exc
