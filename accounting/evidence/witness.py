"""A centre as witness: it cosigns a checkpoint only after checking that the log it saw before is its beginning."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from accounting.evidence.merkle import check_consistency
from accounting.evidence.note import BadNote, Verifier, cosign, parse, signed_by


@dataclass(frozen=True, slots=True)
class Seen:
    """The largest tree of a log that a witness has cosigned: what it must remember, and must never lose."""

    origin: str
    size: int
    root: bytes


def look(
    seen: Seen | None, note: str, proof: Sequence[bytes], *, log: Verifier, name: str, key: Ed25519PrivateKey,
    now: datetime,
) -> tuple[Seen, str]:  # fmt: skip
    """Check a checkpoint against the last one seen; (what to remember from now on, the cosignature line).

    Raises `BadNote` where the log did not sign it or it is another log, `BadProof` where history was changed. Remember
    the first value durably *before* the line leaves the house.
    """
    checkpoint = parse(note)
    if checkpoint.origin != log.name or not signed_by(checkpoint, log):
        raise BadNote(f"{log.name} did not sign this checkpoint")
    if seen is not None:
        if seen.origin != checkpoint.origin:
            raise BadNote(f"this is {checkpoint.origin}, not {seen.origin}")
        check_consistency(seen.size, checkpoint.size, seen.root, checkpoint.root, proof)
    line = cosign(checkpoint.body, name=name, key=key, timestamp=int(now.timestamp()))
    return Seen(checkpoint.origin, checkpoint.size, checkpoint.root), line
