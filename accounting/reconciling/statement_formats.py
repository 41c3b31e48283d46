"""Read a centre's statement: CSV by a mapping profile, JSON, OGF usage records, sacct text, PBS's log and others.

Nothing raises for what a line says: a line that cannot be read is kept, and shows as a broken control total.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any
from zoneinfo import ZoneInfo

from accounting.money import MICRO
from accounting.reconciling.csv_columns import amounts, are_digits, are_ten_digits, counts, each, figures, words
from accounting.reconciling.spool import AsTheyCame, Keeper, Spool
from accounting.reconciling.statement import BadLine, Header, Line, Statement
from accounting.reconciling.statement_numbers import BETWEEN_THOUSANDS, Numbers, scaled
from accounting.sources import apel, condor, lsb_acct, ogf_ur, pbs_log, sacct, sunway
from accounting.sources.figures import SECONDS_MAX, moment, seconds, whole
from accounting.sources.reading import Reading
from accounting.usage import UNIT, UsageRecord

_SECONDS_OF = {"core_seconds": 1, "core_minutes": 60, "core_hours": 3600, "core_days": 86400}
# Lines of a CSV that are read at once.
_AT_ONCE = 5_000


_SLURM_TASK = re.compile(r"([0-9]+)_([0-9]+)")
_PBS_TASK = re.compile(r"([0-9]+)\[([0-9]+)\]((?:\.[A-Za-z0-9.-]+)?)")


class Unreadable(Exception):
    """The document as a whole is not what it was said to be; the text says where."""


@dataclass(frozen=True, slots=True)
class Profile:
    """How one centre writes its CSV: our field -> its column.

    Fields: run_key native_id task username account queue state cores nodes start end elapsed quantity amount, and
    `unit:NAME` for each unit that is counted (shots, licences).
    `zone` is that of times without one. `total_marker`: a row whose first cell is this holds the totals.
    `thousands`: what stands between groups of three digits (a blank: also one that does not break); without it
    nothing may. `states`: the centre's word -> ours.
    """

    columns: Mapping[str, str]
    quantity_unit: str = "core_seconds"
    zone: str = "UTC"
    delimiter: str = ","
    encoding: str = "utf-8-sig"
    decimal: str = "."
    thousands: str = ""
    total_marker: str = ""
    states: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        unknown = {name for name in self.columns if name not in _FIELDS and _unit(name) is None}
        if unknown or self.quantity_unit not in _SECONDS_OF or len(self.delimiter) != 1 or self.delimiter in '"\r\n':
            raise ValueError(f"no such fields: {sorted(unknown)}" if unknown else "unit or delimiter not known")
        if len(self.decimal) != 1 or self.decimal == self.thousands or self.thousands not in BETWEEN_THOUSANDS:
            raise ValueError("the decimal mark is one letter, thousands are apart by a comma, a point, ' or a blank")
        try:
            ZoneInfo(self.zone)
        except OSError as exc:  # a part of a name, like `America`
            raise ValueError(f"{self.zone!r} is no time zone like Asia/Shanghai") from exc


_UNIT = "unit:"


def _unit(field_name: str) -> str | None:
    """The unit that a field counts; None of other fields."""
    named = field_name.removeprefix(_UNIT)
    return named if named != field_name and UNIT.match(named) and not named.endswith("-seconds") else None


# In the order in which `_Meaning.line` takes them.
_ORDER = ("run_key", "native_id", "task", "username", "account", "queue", "state", "cores", "nodes", "start", "end",
          "elapsed", "suspended", "gpu_seconds", "quantity", "amount")  # fmt: skip
_FIELDS = frozenset(_ORDER)


def read_statement(
    document: bytes, *, site_id: str, format_name: str, header: Header, profile: Profile | None = None,
    keeper: Callable[[str], Keeper] = lambda _digest: AsTheyCame(),
) -> Statement:  # fmt: skip
    """`format_name`: csv, json, or one of RECORD_FORMATS. Raises `Unreadable` where the document is something else.

    `header` is what the centre said beside the file; totals inside the document take the place of missing ones.
    `keeper` says, by the document's hash, what is kept of its lines.
    """
    if b"\0" in document:
        raise Unreadable("it has a NUL byte: it is no text in one of the encodings that are read")
    digest = hashlib.sha256(document).hexdigest()
    lines = Spool(keeper(digest))
    if format_name == "csv":
        problems, header = _csv(lines, document, profile, header)
    elif format_name == "json":
        problems, header = _json(lines, document, header)
    elif format_name in RECORD_FORMATS:
        text = _text(document)
        problems = _of_records(lines, RECORD_FORMATS[format_name](text, site_id))
    else:
        raise Unreadable(f"no reader for {format_name!r}")
    return Statement(site_id, header, lines, tuple(problems), format_name, digest)


RECORD_FORMATS: dict[str, Callable[[str, str], Reading]] = {
    "ogf-ur": lambda text, site: ogf_ur.read_document(text, site_id=site),
    "sacct": lambda text, site: sacct.read_document(text, site_id=site),
    "pbs-log": lambda text, site: pbs_log.read_document(text, site_id=site),
    "lsb.acct": lambda text, site: lsb_acct.read_document(text, site_id=site),
    "condor": lambda text, site: condor.read_document(text, site_id=site),
    "apel": lambda text, site: apel.read_document(text, site_id=site),
    "sunway-report": lambda text, site: sunway.read_report_document(text, site_id=site),
}


def _csv(lines: Spool, document: bytes, given: Profile | None, header: Header) -> tuple[list[BadLine], Header]:
    """By a profile each of its columns must be there; without one the columns are called as our fields are."""
    required = {"quantity"} if given is None else {"quantity", *given.columns}
    try:
        return _csv_lines(lines, document, given, header, required)
    except (UnicodeDecodeError, LookupError) as exc:
        raise Unreadable(f"no {'utf-8-sig' if given is None else given.encoding} text: {exc}") from exc


def _csv_lines(
    lines: Spool, document: bytes, given: Profile | None, header: Header, required: Collection[str]
) -> tuple[list[BadLine], Header]:
    """Line by line: a month of a big centre as one text would take four bytes for each letter."""
    profile = given or Profile({})
    text = io.TextIOWrapper(io.BytesIO(document), encoding=profile.encoding, newline="")
    reader = csv.reader(text, delimiter=profile.delimiter)
    names = [name.strip() for name in next(reader, [])]
    profile = given or Profile({name: name for name in (*_FIELDS, *filter(_unit, names))})
    _check_columns(names, profile, required)
    problems: list[BadLine] = []
    meaning = _Meaning(profile, names)
    waiting: list[tuple[int, list[str]]] = []
    for number, cells in _numbered(reader, problems):
        if profile.total_marker and cells and cells[0].strip() == profile.total_marker:
            header = _with_totals(header, dict(zip(names, cells, strict=False)), profile)
            continue
        waiting.append((number, cells))
        if len(waiting) == _AT_ONCE:
            _csv_batch(lines, waiting, meaning, problems)
            waiting = []
    _csv_batch(lines, waiting, meaning, problems)
    problems.sort(key=lambda problem: problem.line_no)
    return problems, header


def _check_columns(names: Sequence[str], profile: Profile, required: Collection[str]) -> None:
    """`required`: fields whose columns must be there; none may be there twice."""
    for field_name, column in {"quantity": "quantity", **profile.columns}.items():
        if column not in names and field_name in required:
            raise Unreadable(f"line 1 has no column {column!r}: {names[:20]}")
        if names.count(column) > 1:
            raise Unreadable(f"line 1 has the column {column!r} twice")


def _csv_batch(lines: Spool, rows: Sequence[tuple[int, list[str]]], meaning: _Meaning, problems: list[BadLine]) -> None:
    """Some thousand lines at once; where one of them cannot be read, each by itself."""
    if not rows or _read_at_once(lines, rows, meaning):
        return
    for number, cells in rows:
        if not any(map(str.strip, cells)):
            continue
        try:
            if len(cells) != len(meaning.names):
                raise ValueError(f"{len(cells)} cells instead of {len(meaning.names)}")
            lines.add(meaning.line(number, cells, dict(zip(meaning.names, cells, strict=True))))
        except (ValueError, KeyError, OverflowError) as exc:
            problems.append(BadLine(number, meaning.delimiter.join(cells), _in_words(exc)))


def _read_at_once(lines: Spool, rows: Sequence[tuple[int, list[str]]], meaning: _Meaning) -> bool:
    """False, and nothing is added, where one of the lines cannot be read: which, and why, tells each by itself."""
    try:
        lines.extend(meaning.columns(rows), meaning.names, [cells for _, cells in rows])
    except (ValueError, OverflowError):
        return False
    return True


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


class _Meaning:
    """What the cells of a line mean by a profile: which cell is which field is looked up once for all lines."""

    def __init__(self, profile: Profile, names: Sequence[str]) -> None:
        place = {name: at for at, name in enumerate(names)}
        # Where each field stands; -1, which is an empty word, where no column has it.
        self._at = tuple(place.get(profile.columns[name], -1) if name in profile.columns else -1 for name in _ORDER)
        units = [(unit, place.get(column, -1)) for name, column in profile.columns.items() if (unit := _unit(name))]
        self._units = tuple((unit, at) for unit, at in units if at >= 0)
        self._zone = ZoneInfo(profile.zone)
        self._unit = _SECONDS_OF[profile.quantity_unit]
        self._numbers = Numbers(profile.decimal, profile.thousands)
        self._states = profile.states
        self.names, self.delimiter = tuple(names), profile.delimiter

    def columns(self, rows: Sequence[tuple[int, list[str]]]) -> list[Sequence[Any]]:
        """The columns of many lines (those of `spool.COLUMNS` but the raw line), each as `line` reads its words.

        ValueError where one of them cannot be read or is no line.
        """
        numbers, cells = zip(*rows, strict=True)
        given = [*zip(*cells, strict=True)]  # ValueError: not as many cells in each
        if len(given) != len(self.names):
            raise ValueError("other cells than columns")
        none = ("",) * len(rows)
        (run_key, native_id, task, username, account, queue, state, cores, nodes, begun, over, elapsed, suspended,
         gpu_seconds, quantity, amount) = [none if at < 0 else words(given[at]) for at in self._at]  # fmt: skip
        started, ended = self._epochs(begun), self._epochs(over)
        if any(s is not None and e is not None and e < s for s, e in zip(started, ended, strict=True)):
            raise ValueError("it ends before it starts")
        tasks = counts(task, whole, nothing=None)
        if not are_digits(native_id):
            found = [_job_and_task(n) if t is None and not n.isdigit() else (n, "") for n, t in
                     zip(native_id, tasks, strict=True)]  # fmt: skip
            native_id = [job for job, _ in found]
            tasks = [whole(t) if t else known for (_, t), known in zip(found, tasks, strict=True)]
        return [
            numbers, run_key, native_id, tasks, username, account, queue,
            [self._states.get(word, word) for word in state] if self._states else state,
            figures(cores, whole), figures(nodes, whole), started, ended, figures(elapsed, seconds),
            each(suspended, seconds, nothing=0), self._quantities(quantity),
            each(gpu_seconds, lambda word: whole(word, SECONDS_MAX), nothing=0),
            self._amounts(amount),
            [self._counted(row) for row in cells] if self._units else [None] * len(rows),
        ]  # fmt: skip

    def _counted(self, cells: Sequence[str]) -> dict[str, int] | None:
        """The units that a line names; an empty cell names none."""
        named = {unit: self._numbers.plain(cells[at].strip()) for unit, at in self._units if cells[at].strip()}
        return {unit: whole(word) for unit, word in named.items()} or None

    def _epochs(self, column: Sequence[str]) -> list[Any]:
        plain = are_ten_digits(column)
        return list(map(int, column)) if plain else [self._epoch(word) for word in column]

    def _amounts(self, column: Sequence[str]) -> list[int | None]:
        return amounts(self._numbers.many(column), lambda word: scaled(word, MICRO, signed=True))

    def _quantities(self, column: Sequence[str]) -> list[int]:
        if are_digits(column):
            found = map(int, column)
            return list(found) if self._unit == 1 else [number * self._unit for number in found]
        return [scaled(word, self._unit) for word in self._numbers.many(column)]

    def line(self, number: int, cells: Sequence[str], raw: Mapping[str, str]) -> Line:
        """One line, `raw` by its columns' names; ValueError says which word is none."""
        words = [*map(str.strip, cells), ""]
        (run_key, native_id, task, username, account, queue, state, cores, nodes, begun, over, elapsed, suspended,
         gpu_seconds, quantity, amount) = [words[at] for at in self._at]  # fmt: skip
        start, end = self._epoch(begun), self._epoch(over)
        if start is not None and end is not None and end < start:
            raise ValueError("it ends before it starts")
        if not task and not native_id.isdigit():
            native_id, task = _job_and_task(native_id)
        return Line(
            line_no=number,
            core_seconds=scaled(self._numbers.plain(quantity), self._unit),
            run_key=run_key,
            native_id=native_id,
            task=whole(task) if task else None,
            username=username,
            account=account,
            queue=queue,
            state=self._states.get(state, state),
            cores=whole(cores),
            nodes=whole(nodes),
            started=start,
            ended=end,
            elapsed_s=seconds(elapsed),
            suspended_s=seconds(suspended) if suspended else 0,
            gpu_seconds=whole(gpu_seconds, SECONDS_MAX),
            amount_micro=scaled(self._numbers.plain(amount), MICRO, signed=True) if amount else None,
            units=self._counted(cells),
            raw=raw,
        )

    def _epoch(self, text: str) -> int | None:
        if text.isascii() and text.isdigit() and text != "0":
            return whole(text, SECONDS_MAX)
        found = moment(text, self._zone)
        return int(found.timestamp()) if found else None


def _job_and_task(native_id: str) -> tuple[str, str]:
    """Slurm's `211_2` and PBS's `211[2].server` name the task with the job."""
    found = _SLURM_TASK.fullmatch(native_id) or _PBS_TASK.fullmatch(native_id)
    if found is None:
        return native_id, ""
    job, task, *rest = found.groups()
    return (job + "[]" + rest[0], task) if rest else (job, task)


def _in_words(exc: Exception) -> str:
    """What is wrong with a line, for the people of the centre that wrote it."""
    return (f"it has no {exc.args[0]!r}" if isinstance(exc, KeyError) else str(exc))[:500]


def _with_totals(header: Header, cells: Mapping[str, str], profile: Profile) -> Header:
    quantity = cells.get(profile.columns.get("quantity", "quantity"), "").strip()
    amount = cells.get(profile.columns.get("amount", "amount"), "").strip()
    numbers = Numbers(profile.decimal, profile.thousands)
    try:
        total = scaled(numbers.plain(quantity), _SECONDS_OF[profile.quantity_unit]) if quantity else None
        money = scaled(numbers.plain(amount), MICRO, signed=True) if amount else None
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


def _json(lines: Spool, document: bytes, header: Header) -> tuple[list[BadLine], Header]:
    """`{"totals": {"lines", "core_seconds", "amount"}, "lines": [{field: value, …}]}`; fields as in a profile."""
    try:
        found = json.loads(document)
    except (ValueError, RecursionError) as exc:
        raise Unreadable(f"no JSON: {exc}") from exc
    if not isinstance(found, dict) or not isinstance(found.get("lines"), list):
        raise Unreadable("it has no list `lines`")
    units = sorted({name for item in found["lines"] if isinstance(item, dict) for name in item if _unit(name)})
    order = (*_ORDER, *units)
    profile = Profile({name: name for name in order})
    meaning = _Meaning(profile, order)
    problems: list[BadLine] = []
    for number, item in enumerate(found["lines"], 1):
        try:
            if not isinstance(item, dict):
                raise ValueError("a line is an object")
            words = {str(k): "" if v is None else str(v) for k, v in item.items()}
            if any("\0" in word for word in (*words, *words.values())):
                raise ValueError("a NUL character cannot be kept")
            lines.add(meaning.line(number, [words.get(name, "") for name in order], words))
        except (ValueError, KeyError, OverflowError) as exc:
            problems.append(BadLine(number, json.dumps(item)[:2000], _in_words(exc)))
    totals = found.get("totals")
    if isinstance(totals, dict):
        counted, quantity, amount = ("" if totals.get(name) is None else str(totals[name])
                                     for name in ("lines", "core_seconds", "amount"))  # fmt: skip
        header = _with_totals(header, {"quantity": quantity, "amount": amount}, profile)
        if header.lines is None and counted:
            header = replace(header, lines=_counted(counted))
    return problems, header


def _counted(text: str) -> int:
    try:
        return whole(text)
    except ValueError as exc:
        raise Unreadable(f"the number of lines: {exc}") from exc


def _of_records(lines: Spool, reading: Reading) -> list[BadLine]:
    for number, record in enumerate(reading.records, 1):
        lines.add(line_of(number, record))
    return [BadLine(lines.lines + n, p.raw, _plainly(p.why)) for n, p in enumerate(reading.problems, 1)]


def _plainly(why: str) -> str:
    """A reader's words, which begin with the class of the error."""
    kind, _, text = why.partition(": ")
    return {"KeyError": f"it has no {text}", "ValueError": text, "OverflowError": text}.get(kind, why)


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
        amount_micro=_charge(charge), units=dict(record.units) or None, raw=record.raw,
    )  # fmt: skip


def _charge(text: str) -> int | None:
    try:
        return scaled(text, MICRO, signed=True) if text else None
    except ValueError:
        return None


def _text(document: bytes) -> str:
    """A scheduler's text, also as it comes out of Windows: with a mark of its encoding, and CRLF at the lines' ends."""
    try:
        return document.decode("utf-8-sig").replace("\r\n", "\n")
    except UnicodeDecodeError as exc:
        raise Unreadable(f"no utf-8 text: {exc}") from exc
