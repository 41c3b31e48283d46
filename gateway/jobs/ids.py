"""Names of a job: its id, its tag at every site, its job name there, its manifest."""

from __future__ import annotations

import base64
import hashlib
import re
import secrets
import unicodedata
from dataclasses import dataclass
from datetime import datetime

_CROCKFORD = "0123456789abcdefghjkmnpqrstvwxyz"
_SLUG = re.compile(r"[^A-Za-z0-9_.]+")
_MANIFEST = re.compile(
    r"pst1:(?P<job>[a-z0-9]+):(?P<project>[a-z0-9]+):(?P<user>[a-z0-9]+):(?P<attempt>\d+)"
    r":(?P<key>[0-9a-f]{16}|0):(?P<content>[0-9a-f]{16}|0)"
)


def new_id(prefix: str, now: datetime) -> str:
    """A time-ordered id (ULID layout: 48 bits of milliseconds, 80 random bits) behind a letter."""
    value = (int(now.timestamp() * 1000) << 80) | secrets.randbits(80)
    return prefix + "".join(_CROCKFORD[(value >> shift) & 31] for shift in range(125, -1, -5))


def first_id(prefix: str, at: datetime) -> str:
    """The least id that `new_id` can make at this moment: ids made before it are less, ids made from it on are not."""
    value = max(0, int(at.timestamp() * 1000)) << 80
    return prefix + "".join(_CROCKFORD[(value >> shift) & 31] for shift in range(125, -1, -5))


def tag_of(gateway_id: str, job_id: str) -> str:
    """`p`, the gateway's id, 55 bits of the job id's hash: 16 characters of [a-z0-9]."""
    digest = base64.b32encode(hashlib.sha256(job_id.encode()).digest()).decode().lower()
    return f"p{gateway_id}{digest[:11]}"


def site_name(name: str, tag: str, attempt: int) -> str:
    """The job's name at a site: a readable slug of the user's name and the tag, safe in every scheduler's output."""
    plain = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode()
    slug = _SLUG.sub("_", plain).strip("_.")[:40] or "job"
    return f"{slug if slug[0].isalpha() else 'j' + slug}-{tag}.{attempt}"


@dataclass(frozen=True, slots=True)
class Manifest:
    """What a site keeps in a job's comment, enough to rebuild its row after a restore."""

    job_id: str
    project_id: str
    user_id: str
    attempt: int
    key_prefix: str = "0"
    content_prefix: str = "0"

    def __str__(self) -> str:
        ids = f"{self.job_id}:{self.project_id}:{self.user_id}"
        return f"pst1:{ids}:{self.attempt}:{self.key_prefix}:{self.content_prefix}"


def parse_manifest(text: str) -> Manifest | None:
    """Read a manifest anywhere in a comment or a submit line; None where there is none."""
    match = _MANIFEST.search(text)
    if match is None:
        return None
    return Manifest(
        match["job"], match["project"], match["user"], int(match["attempt"]), match["key"], match["content"]
    )
