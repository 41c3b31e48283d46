"""Take the fence of old attempts: one `ln -s` each, in one round trip (DESIGN law 1)."""

from __future__ import annotations

import secrets
from collections.abc import Sequence

from site_adapters.command import Command, Output
from site_adapters.errors import CommandFailed
from site_adapters.types import FenceOutcome, FenceOwned, FenceTaken, Unfenced

# Stands in the place of a fence where the job cannot look at one.
UNFENCED = "direct:unfenced"

_SCRIPT = """d=$1; o=$2; shift 2
mkdir -p -- "$d" || exit 1
for f in "$@"; do
  ln -s -- "$o" "$d/$f" 2>/dev/null
  readlink -- "$d/$f" || exit 1
done"""


def take(folder: str, names: Sequence[str]) -> Command[list[FenceOutcome]]:
    """Own each fence that nobody owns, and say who owns the others. Asking again is harmless: names never come back."""
    owner = f"gateway:{secrets.token_hex(8)}"

    def parse(output: Output) -> list[FenceOutcome]:
        owners = output.text.split("\n")[:-1]
        if output.exit_code != 0 or len(owners) != len(names):
            raise CommandFailed(f"the fences in {folder} cannot be taken", native_text=output.error_text)
        return [_outcome(found) for found in owners]

    return Command(("/bin/sh", "-c", _SCRIPT, "take_fences", folder, owner, *names), parse, deadline_s=30.0)


def _outcome(owner: str) -> FenceOutcome:
    if owner.startswith("gateway:"):
        return FenceTaken()  # one that an earlier call of ours took is still ours
    return Unfenced() if owner == UNFENCED else FenceOwned(owner)


def prepare(staging_root: str, *folders: str) -> Command[None]:
    """Create the staging folders of an account; safe to run again."""

    def parse(output: Output) -> None:
        if output.exit_code != 0:
            raise CommandFailed(f"{staging_root} cannot be created", native_text=output.error_text)

    argv = ("mkdir", "-p", "-m", "700", "--", staging_root, f"{staging_root}/fence", f"{staging_root}/out",
            *(f"{staging_root}/{folder}" for folder in folders))  # fmt: skip
    return Command(argv, parse, deadline_s=30.0)
