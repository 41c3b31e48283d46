"""What the centre metered: blocks of `bjobs -l` with what they do not say beside them; framed, not read.

A block tells neither core groups nor year nor zone. Where it tells no end any more, the wrapper's own times stand in,
marked as estimated.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from zoneinfo import ZoneInfo

from site_adapters.command import Command, Output
from site_adapters.config import SiteConfig
from site_adapters.errors import CommandFailed, Unsupported
from site_adapters.sunway import commands
from site_adapters.sunway.commands import STATE_MAP, Block, run_of
from site_adapters.transport import Logins
from site_adapters.types import RowProblem, SiteAccount, SiteUsage, UsageBatch

BLOCK, WRAPPER = "sunway-bjobs/1", "sunway-wrapper/1"
_IDS_PER_QUERY = 50
# What was submitted in the last 40 days: id, attempt, its record, what the wrapper wrote.
_LIST = (
    commands.ROOT
    + """
find ids -type l -mtime -40 | while read -r link; do
  id=${link##*/} name=$(readlink "$link") record= rc=
  [ ! -f "usage/$name" ] || read -r record <"usage/$name"
  for f in "rc/$name.unknown" "rc/$name.$id"; do [ ! -f "$f" ] || read -r rc <"$f"; done
  echo "$id|$name|$record|$rc"
done"""
)


def _clock() -> datetime:
    return datetime.now(UTC)


@dataclass(frozen=True, slots=True)
class Record:
    """One submission as it was staged: what it asked for, and the wrapper's (code, start, end)."""

    native_id: str
    name: str
    asked: dict[str, str]
    wrote: tuple[str, ...]


def records(pattern: str) -> Command[tuple[list[Record], list[RowProblem]]]:
    """Everything that this login submitted through us."""

    def read(output: Output) -> tuple[list[Record], list[RowProblem]]:
        if output.exit_code != 0:
            raise CommandFailed("the staging area cannot be read", native_text=output.error_text)
        found, problems = [], []
        for line in output.text.splitlines():
            parts = line.split("|")
            if len(parts) != 4 or not parts[0].isdigit():
                problems.append(RowProblem(line, "no record of a submission"))
                continue
            found.append(Record(parts[0], parts[1], commands.record_of(parts[2]), tuple(parts[3].split())))
        return found, problems

    return Command(("/bin/sh", "-c", _LIST, "records", pattern), read, deadline_s=60.0)


@dataclass(frozen=True, slots=True)
class SunwayBilling:
    """Usage of the accounts that are asked for, each by its own login."""

    config: SiteConfig
    logins: Logins
    clock: Callable[[], datetime] = _clock

    def usage(self, since: datetime, until: datetime, accounts: tuple[SiteAccount, ...] = ()) -> UsageBatch:
        if not self.config.accounting.kept:
            raise Unsupported(f"{self.config.site} keeps no accounting")
        usages: list[SiteUsage] = []
        problems: list[RowProblem] = []
        for username in sorted({account.username for account in accounts}):
            connection = self.logins.actor(username)
            found, unreadable = connection.run(records(self.config.staging_root))
            problems += unreadable
            for start in range(0, len(found), _IDS_PER_QUERY):
                part = found[start : start + _IDS_PER_QUERY]
                asked = commands.bjobs(self.config.command("bjobs"), [r.native_id for r in part],
                                       zone=self.config.zone, now=self.clock())  # fmt: skip
                blocks, look = connection.run(asked)
                if look.error is not None:
                    raise CommandFailed(look.error)
                problems += look.problems
                usages += self._framed(part, blocks, username, since, until)
        return UsageBatch(tuple(usages), tuple(problems))

    def _framed(
        self, found: Sequence[Record], blocks: Sequence[Block], username: str, since: datetime, until: datetime
    ) -> list[SiteUsage]:
        by_id = {block.native_id: block for block in blocks}
        framed = []
        for record in found:
            block = by_id.get(record.native_id)
            if block is not None and not STATE_MAP.get(block.status, STATE_MAP["UNKWN"]).final:
                continue
            ends = run_of(block).end_time if block is not None else None
            if block is not None and ends is not None and any("End" in what for _, what in block.events):
                usage: SiteUsage | None = self._by_block(record, block, ends)
            else:
                usage, ends = self._by_wrapper(record, username), _epoch(record.wrote[2:3])
            if usage is not None and ends is not None and since <= ends < until:
                framed.append(usage)
        return framed

    def _by_block(self, record: Record, block: Block, ends: datetime) -> SiteUsage:
        first = block.events[0][0] if block.events else ends
        year = first.astimezone(ZoneInfo(self.config.zone)).year
        return SiteUsage(
            BLOCK, {"block": block.text, "year": str(year), "zone": self.config.zone, **self._beside(record)}
        )

    def _by_wrapper(self, record: Record, username: str) -> SiteUsage | None:
        if len(record.wrote) != 3:
            return None  # it has not ended, or nobody saw how
        code, start, end = record.wrote
        return SiteUsage(
            WRAPPER,
            {"native_id": record.native_id, "user": username, "exit_code": code, "start": start, "end": end,
             "estimated": "1", **self._beside(record)},
        )  # fmt: skip

    def _beside(self, record: Record) -> dict[str, str]:
        chip = self.config.sunway.chip
        beside = {"name": record.name, "cgs": record.asked.get("cgs", ""), "nodes": record.asked.get("nodes", ""),
                  "cores_per_cg": str(chip.cores_per_cg)}  # fmt: skip
        exclusive = record.asked.get("exclusive") == "1"
        return beside | ({"cgs_per_node": str(chip.cgs_per_node)} if exclusive else {})


def _epoch(words: Sequence[str]) -> datetime | None:
    return datetime.fromtimestamp(int(words[0]), UTC) if words and words[0].isdigit() else None
