"""Where the gateway is and who we are: arguments, else environment, else what `penstock login` kept."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Profile:
    """A gateway and a token; the token never prints."""

    url: str
    token: str | None

    def __repr__(self) -> str:
        return f"Profile({self.url!r}, token={'…' if self.token else None})"


def config_file() -> Path:
    base = os.environ.get("XDG_CONFIG_HOME") or str(Path.home() / ".config")
    return Path(base) / "penstock" / "config.json"


def resolve(url: str | None, token: str | None) -> Profile:
    """The profile in force."""
    kept = load()
    return Profile(
        (url or os.environ.get("PENSTOCK_URL") or kept.url).rstrip("/"),
        token or os.environ.get("PENSTOCK_TOKEN") or kept.token,
    )


def load() -> Profile:
    """What was kept; a gateway on this machine where nothing was."""
    try:
        kept = json.loads(config_file().read_text("utf-8"))
        return Profile(str(kept["url"]), str(kept["token"]))
    except (OSError, ValueError, KeyError, TypeError):
        return Profile("http://127.0.0.1:8642", None)


def save(profile: Profile) -> None:
    """Keep a profile, readable by its owner only."""
    file = config_file()
    file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    draft = file.with_suffix(".new")
    with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as out:
        json.dump({"url": profile.url, "token": profile.token}, out)
    draft.rename(file)


def forget() -> None:
    config_file().unlink(missing_ok=True)
