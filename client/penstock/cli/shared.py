"""What the commands share: the client, printing, and finding a job by id, prefix or name."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any

import click
import msgspec

from penstock.api import Client
from penstock.cli.texts import tr
from penstock.models import Job

json_option = click.option("--json", "as_json", is_flag=True, help="Machine-readable output")


def client() -> Client:
    return Client()


def emit(value: Any) -> None:
    """One value as one line of JSON."""
    click.echo(json.dumps(msgspec.to_builtins(value), ensure_ascii=False))


def json_of(file: Path | str) -> dict[str, Any]:
    """The members of a person's file of JSON; `UsageError` where it is none."""
    try:
        said = json.loads(Path(file).read_text("utf-8"))
        if not isinstance(said, dict):
            raise ValueError("it is no object")
    except ValueError as exc:
        raise click.UsageError(tr("{file} is no JSON: {why}", file=file, why=exc)) from exc
    return said


def find(api: Client, wanted: str) -> str:
    """A job's id from its id, the beginning of its id, or its name (the newest of that name)."""
    if len(wanted) == 27 and wanted.startswith("j"):
        return wanted
    named = next(api.jobs(name=wanted, limit=1), None)
    if named is not None:
        return named.id
    matches = [job.id for job in api.jobs(limit=200) if job.id.startswith(wanted)]
    if len(matches) == 1:
        return matches[0]
    if matches:
        raise click.UsageError(
            tr("{id} is the beginning of {count} jobs; give more of the id.", id=wanted, count=len(matches))
        )
    return wanted


def table(rows: Sequence[Sequence[str]], header: Sequence[str]) -> None:
    """Columns as wide as they need, under headings in the reader's language."""
    lines = [[tr(cell) if cell else "" for cell in header], *([in_line(cell) for cell in row] for row in rows)]
    widths = [max(_width(row[i]) for row in lines) for i in range(len(header))]
    for row in lines:
        cells = (cell + " " * (width - _width(cell)) for cell, width in zip(row, widths, strict=True))
        click.echo("  ".join(cells).rstrip())
    if not rows:
        click.echo(tr("(none)"))


def in_line(text: str) -> str:
    """Text of others within a line: a name that holds a line break would look like a line of ours."""
    return " ".join(text.splitlines())


def _width(text: str) -> int:
    """Columns on a terminal: a Chinese character takes two."""
    if text.isascii():
        return len(text)
    from unicodedata import east_asian_width

    return sum(2 if east_asian_width(letter) in "WF" else 1 for letter in text)


def month_that_begins(start: str) -> str:
    """The month that begins then, in whatever zone: a day later it is that month everywhere."""
    from datetime import datetime, timedelta

    return (datetime.fromisoformat(start) + timedelta(days=1)).strftime("%Y-%m")


def local_time(stamp: str | None) -> str:
    """An RFC 3339 time in the zone of this machine."""
    if stamp is None:
        return "–"
    from datetime import datetime

    return datetime.fromisoformat(stamp).astimezone().strftime("%Y-%m-%d %H:%M:%S")


def core_hours(core_seconds: int) -> str:
    return tr("{hours} core-hours", hours=hours(core_seconds))


def hours(core_seconds: int) -> str:
    """Core-hours to three places: what a small job used is seen, too."""
    sign, thousandths = "-" * (core_seconds < 0), (abs(core_seconds) * 1000 + 1800) // 3600
    return f"{sign}{thousandths // 1000:,}.{thousandths % 1000:03d}"


_GIB_MONTH = 1024 * 730  # MiB-hours


def percent_of(budget: dict[str, Any]) -> Decimal:
    """What of a budget is spent or held, exactly: at 100 it may stop."""
    return 100 * (Decimal(budget["spent"]) + Decimal(budget["held"])) / Decimal(budget["amount"])


def at_place(row: dict[str, Any]) -> str:
    """Where what was bought may be used, to be read behind its unit; nothing where it is bound to no place."""
    return f" @ {row['place']}" if row.get("place") else ""


def amount_of(commodity: str, amount: int) -> tuple[str, str]:
    """What the books count in small units, as people do: money in its unit, seconds of a resource in hours."""
    kind, bound, place = commodity.partition("@")
    if bound:
        shown, unit = amount_of(kind, amount)
        return shown, f"{unit} @ {place}"
    if commodity.endswith("-seconds"):
        return hours(amount), tr(commodity.replace("-seconds", "-hours"))
    if commodity == "storage-mib-hours":
        return f"{Decimal(amount) / _GIB_MONTH:,.3f}", tr("GiB-months")
    if len(commodity) == 3 and commodity.isupper():  # an ISO 4217 code; the books have micro-units
        sign, micro = "-" * (amount < 0), abs(amount)
        digits = f"{micro % 1_000_000:06}".rstrip("0").ljust(2, "0")
        return f"{sign}{micro // 1_000_000}.{digits}", commodity
    return str(amount), commodity


def month_in(start: str, zone: str) -> str:
    """The month that begins then in a zone, like 2026-11."""
    return f"{_in_zone(start, zone):%Y-%m}"


def days_of(start: str, end: str, zone: str) -> str:
    """The first and the last day of [start, end) in a zone, which is named."""
    from datetime import timedelta

    first, last = _in_zone(start, zone), _in_zone(end, zone) - timedelta(microseconds=1)
    return tr("{first} to {last} ({zone})", first=f"{first:%Y-%m-%d}", last=f"{last:%Y-%m-%d}", zone=zone)


def span_of(start: str, end: str, zone: str) -> str:
    """[start, end) as its month where it is one of the zone, else by its days."""
    month = month_in(start, zone)
    whole = _in_zone(start, zone) == _in_zone(month_span(month, zone)[0], zone)
    whole = whole and _in_zone(end, zone) == _in_zone(month_span(month, zone)[1], zone)
    return f"{month} ({zone})" if whole else days_of(start, end, zone)


def month_span(month: str, zone: str) -> tuple[str, str]:
    """[start, end) of a month like 2026-11 of a zone, as the gateway reads times."""
    from datetime import datetime, timedelta
    from zoneinfo import ZoneInfo

    try:
        start = datetime.strptime(month, "%Y-%m").replace(tzinfo=ZoneInfo(zone))
    except (ValueError, KeyError) as exc:
        raise click.UsageError(tr("Write the month like 2026-11, and a zone like Asia/Shanghai.")) from exc
    following = (start + timedelta(days=32)).replace(day=1)
    return start.isoformat(), following.isoformat()


def _in_zone(stamp: str, zone: str) -> Any:
    from datetime import datetime
    from zoneinfo import ZoneInfo

    return datetime.fromisoformat(stamp).astimezone(ZoneInfo(zone))


def last_line(job: Job) -> str:
    """How it ended, what it used, what it costs."""
    parts = [f"{in_line(job.name) or job.id}: {job.status.state}"]
    if job.status.reason:
        parts.append(job.status.reason)
    if job.status.exit_code is not None:
        parts.append(tr("exit code {code}", code=job.status.exit_code))
    if job.usage is not None:
        seconds = job.usage.core_seconds
        parts.append(tr("{seconds} core-seconds ({hours})", seconds=seconds, hours=core_hours(seconds)))
    if job.charge is not None:
        parts.append(str(job.charge))
    return " · ".join(parts)


def fetched(api: Client, path: str, file: Path, **params: Any) -> int:
    """Download to FILE, which is whole or not there, and say so on stderr."""
    part = file.with_name(file.name + ".part")
    try:
        with part.open("wb") as out:
            size = api.download(path, out, **params)
        part.replace(file)
    finally:
        part.unlink(missing_ok=True)
    print(tr("{file}: {size} bytes", file=file, size=size), file=sys.stderr)
    return 0
