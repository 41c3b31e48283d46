"""Read a centre's statement: CSV by a mapping profile, JSON, OGF usage records, sacct text, PBS's log and others.

Nothing raises for what a line says: a line that cannot be read is kept, and shows as a broken control total.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from decimal import Decimal, InvalidOperation
from typing import Any
from zoneinfo import ZoneInfo

from accounting.money import MICRO
from accounting.reconciling.statement import BadLine, Header, Line, Statement
from accounting.sources import apel, condor, lsb_acct, ogf_ur, pbs_log, sacct, sunway
from accounting.sources.figures import SECONDS_MAX, moment, seconds, whole
from accounting.sources.reading import Reading
from accounting.usage import UsageRecord

_SECONDS_OF = {"core_seconds": 1, "core_minutes": 60, "core_hours": 3600, "core_days": 86400}
_MICRO_MAX = 10**17


class Unreadable(Exception):
    """The document as a whole is not what it was said to be; the text says where."""


@dataclass(frozen=True, slots=True)
class Profile:
    """How one centre writes its CSV: our field -> its column.

    Fields: run_key native_id task username account queue state cores nodes start end elapsed quantity amount.
    `zone` is that of times without one. `total_marker`: a row whose first cell is this holds the totals.
    """

    columns: Mapping[str, str]
    quantity_unit: str = "core_seconds"
    zone: str = "UTC"
    delimiter: str = ","
    encoding: str = "utf-8-sig"
    decimal: str = "."
    total_marker: str = ""
    states: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        unknown = set(self.columns) - _FIELDS
        if unknown or self.quantity_unit not in _SECONDS_OF or len(self.delimiter) != 1:
            raise ValueError(f"no such fields: {sorted(unknown)}" if unknown else "unit or delimiter not known")
        ZoneInfo(self.zone)


_FIELDS = frozenset({"run_key", "native_id", "task", "username", "account", "queue", "state", "cores", "nodes", "start",
                     "end", "elapsed", "suspended", "gpu_seconds", "quantity", "amount"})  # fmt: skip


def read_statement(
    document: bytes, *, site_id: str, format_name: str, header: Header, profile: Profile | None = None
) -> Statement:
    """`format_name`: csv, json, or one of RECORD_FORMATS. Raises `Unreadable` where the document is something else.

    `header` is what the centre said beside the file; totals inside the document take the place of missing ones.
    """
    digest = hashlib.sha256(document).hexdigest()
    if format_name == "csv":
        lines, problems, header = _csv(document, profile or Profile({name: name for name in _FIELDS}), header)
    elif format_name == "json":
        lines, problems, header = _json(document, header)
    elif format_name in RECORD_FORMATS:
        text = _text(document, "utf-8")
        lines, problems = _of_records(RECORD_FORMATS[format_name](text, site_id))
    else:
        raise Unreadable(f"no reader for {format_name!r}")
    return Statement(site_id, header, tuple(lines), tuple(problems), format_name, digest)


RECORD_FORMATS: dict[str, Callable[[str, str], Reading]] = {
    "ogf-ur": lambda text, site: ogf_ur.read_document(text, site_id=site),
    "sacct": lambda text, site: sacct.read_document(text, site_id=site),
    "pbs-log": lambda text, site: pbs_log.read_document(text, site_id=site),
    "lsb.acct": lambda text, site: lsb_acct.read_document(text, site_id=site),
    "condor": lambda text, site: condor.read_document(text, site_id=site),
    "apel": lambda text, site: apel.read_document(text, site_id=site),
    "sunway-report": lambda text, site: sunway.read_report_document(text, site_id=site),
}


def _csv(document: bytes, profile: Profile, header: Header) -> tuple[list[Line], list[BadLine], Header]:
    text = _text(document, profile.encoding)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=profile.delimiter)
    names = [name.strip() for name in next(reader, [])]
    if profile.columns.get("quantity", "quantity") not in names:
        raise Unreadable(f"line 1 has no column {profile.columns.get('quantity', 'quantity')!r}: {names[:20]}")
    lines: list[Line] = []
    problems: list[BadLine] = []
    for number, cells in _numbered(reader, problems):
        if not any(cell.strip() for cell in cells):
            continue
        if profile.total_marker and cells[0].strip() == profile.total_marker:
            header = _with_totals(header, dict(zip(names, cells, strict=False)), profile)
            continue
        try:
            if len(cells) != len(names):
                raise ValueError(f"{len(cells)} cells instead of {len(names)}")
            lines.append(_line(number, dict(zip(names, cells, strict=True)), profile))
        except (ValueError, KeyError, OverflowError) as exc:
            problems.append(BadLine(number, profile.delimiter.join(cells), f"{type(exc).__name__}: {exc}"[:500]))
    return lines, problems, header


def _numbered(reader: Any, problems: list[BadLine]) -> Iterator[tuple[int, list[str]]]:
    while True:
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as exc:
            problems.append(BadLine(reader.line_num, "", f"no CSV: {exc}"))
            continue
        yield reader.line_num, cells


def _line(number: int, cells: Mapping[str, str], profile: Profile) -> Line:
    zone = ZoneInfo(profile.zone)

    def said(name: str) -> str:
        column = profile.columns.get(name, "")
        return cells[column].strip() if column in cells else ""

    start, end = moment(said("start"), zone), moment(said("end"), zone)
    if start is not None and end is not None and end < start:
        raise ValueError("it ends before it starts")
    state = said("state")
    return Line(
        line_no=number,
        core_seconds=_scaled(said("quantity"), _SECONDS_OF[profile.quantity_unit], profile.decimal),
        run_key=said("run_key"),
        native_id=said("native_id"),
        task=whole(said("task")) if said("task") else None,
        username=said("username"),
        account=said("account"),
        queue=said("queue"),
        state=profile.states.get(state, state),
        cores=whole(said("cores")),
        nodes=whole(said("nodes")),
        started=int(start.timestamp()) if start else None,
        ended=int(end.timestamp()) if end else None,
        elapsed_s=seconds(said("elapsed")),
        suspended_s=seconds(said("suspended")),
        gpu_seconds=whole(said("gpu_seconds"), SECONDS_MAX),
        amount_micro=_scaled(said("amount"), MICRO, profile.decimal, signed=True) if said("amount") else None,
        raw=dict(cells),
    )


def _with_totals(header: Header, cells: Mapping[str, str], profile: Profile) -> Header:
    quantity = cells.get(profile.columns.get("quantity", "quantity"), "").strip()
    amount = cells.get(profile.columns.get("amount", "amount"), "").strip()
    try:
        total = _scaled(quantity, _SECONDS_OF[profile.quantity_unit], profile.decimal) if quantity else None
        money = _scaled(amount, MICRO, profile.decimal, signed=True) if amount else None
    except ValueError as exc:
        raise Unreadable(f"the row of totals: {exc}") from exc
    return Header(
        header.period,
        header.currency,
        header.lines,
        header.core_seconds if header.core_seconds is not None else total,
        header.amount_micro if header.amount_micro is not None else money,
        header.number,
    )


def _scaled(text: str, factor: int, decimal: str = ".", *, signed: bool = False) -> int:
    """A decimal number times a factor, half up to a whole; thousands are never separated."""
    plain = text.replace(decimal, ".") if decimal != "." else text
    try:
        number = Decimal(plain) * factor
    except InvalidOperation:
        raise ValueError(f"{text!r} is no number") from None
    if not number.is_finite() or abs(number) > _MICRO_MAX or (number < 0 and not signed):
        raise ValueError(f"{text!r} is out of range")
    return int((abs(number) + Decimal("0.5")).to_integral_value("ROUND_FLOOR")) * (-1 if number < 0 else 1)


def _json(document: bytes, header: Header) -> tuple[list[Line], list[BadLine], Header]:
    """`{"totals": {"lines", "core_seconds", "amount"}, "lines": [{field: value, …}]}`; fields as in a profile."""
    try:
        found = json.loads(document)
    except (ValueError, RecursionError) as exc:
        raise Unreadable(f"no JSON: {exc}") from exc
    if not isinstance(found, dict) or not isinstance(found.get("lines"), list):
        raise Unreadable("it has no list `lines`")
    profile = Profile({name: name for name in _FIELDS})
    lines: list[Line] = []
    problems: list[BadLine] = []
    for number, item in enumerate(found["lines"], 1):
        try:
            if not isinstance(item, dict):
                raise ValueError("a line is an object")
            words = {str(k): "" if v is None else str(v) for k, v in item.items()}
            lines.append(_line(number, words, profile))
        except (ValueError, KeyError, OverflowError) as exc:
            problems.append(BadLine(number, json.dumps(item)[:2000], f"{type(exc).__name__}: {exc}"[:500]))
    totals = found.get("totals")
    if isinstance(totals, dict):
        words = {"quantity": str(totals.get("core_seconds") or ""), "amount": str(totals.get("amount") or "")}
        header = _with_totals(header, words, profile)
        counted = totals.get("lines")
        if header.lines is None and isinstance(counted, int):
            header = Header(header.period, header.currency, counted, header.core_seconds, header.amount_micro,
                            header.number)  # fmt: skip
    return lines, problems, header


def _of_records(reading: Reading) -> tuple[list[Line], list[BadLine]]:
    lines = [line_of(number, record) for number, record in enumerate(reading.records, 1)]
    problems = [BadLine(len(lines) + n, p.raw, p.why) for n, p in enumerate(reading.problems, 1)]
    return lines, problems


def line_of(number: int, record: UsageRecord) -> Line:
    """A scheduler's own record as a statement line; an amount only where the record carries a charge."""
    charge = record.raw.get("Charge", "")
    return Line(
        line_no=number, core_seconds=record.core_seconds, run_key=record.run_key, native_id=record.native_id,
        task=record.task, username=record.username, account=record.account, queue=record.queue, state=record.state,
        cores=record.cores, nodes=record.nodes,
        started=int(record.start_time.timestamp()) if record.start_time else None,
        ended=int(record.end_time.timestamp()) if record.end_time else None,
        elapsed_s=record.elapsed_s, suspended_s=record.suspended_s, gpu_seconds=record.gpu_seconds,
        amount_micro=_charge(charge), raw=record.raw,
    )  # fmt: skip


def _charge(text: str) -> int | None:
    try:
        return _scaled(text, MICRO, signed=True) if text else None
    except ValueError:
        return None


def _text(document: bytes, encoding: str) -> str:
    try:
        return document.decode(encoding)
    except (UnicodeDecodeError, LookupError) as exc:
        raise Unreadable(f"no {encoding} text: {exc}") from exc
