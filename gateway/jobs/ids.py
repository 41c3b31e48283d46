"""Names of a job at a site: its tag, its job name, its manifest."""

from __future__ import annotations

import base64
import hashlib
import re
import unicodedata
from dataclasses import dataclass

# Without a full stop, no name that a person chooses can look like a tag of another job.
_SLUG = re.compile(r"[^A-Za-z0-9_]+")
_MANIFEST = re.compile(
    r"pst1:(?P<job>[a-z0-9]+):(?P<project>[a-z0-9]+):(?P<user>[a-z0-9]+):(?P<attempt>\d+)"
    r":(?P<key>[0-9a-f]{16}|0):(?P<content>[0-9a-f]{16}|0)"
)


def tag_of(gateway_id: str, job_id: str) -> str:
    """`p`, the gateway's id, 55 bits of the job id's hash: 16 characters of [a-z0-9]."""
    digest = base64.b32encode(hashlib.sha256(job_id.encode()).digest()).decode().lower()
    return f"p{gateway_id}{digest[:11]}"


def site_name(name: str, tag: str, attempt: int) -> str:
    """The job's name at a site: a readable slug of the user's name and the tag, safe in every scheduler's output."""
    plain = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode()
    slug = _SLUG.sub("_", plain).strip("_")[:40] or "job"
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
