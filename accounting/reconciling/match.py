"""Match a statement with our books, set-based: two LEFT JOINs over an indexed staging table, never a FULL OUTER JOIN.

T0 the run key; T1 the scheduler's id and start; T2 person, shape and time (a proposal for a person to accept);
T3 sums, where the centre gives nothing else. What agrees never leaves the database.
"""

from __future__ import annotations

from array import array
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import timedelta
from typing import Any

from sqlalchemy import (
    BigInteger,
    Column,
    Connection,
    Integer,
    MetaData,
    Select,
    String,
    Table,
    and_,
    case,
    false,
    func,
    insert,
    or_,
    select,
    text,
    update,
)

from accounting.calendar import Period
from accounting.reconciling.found import Matched, Pair, Tolerance
from accounting.reports.usage_by_period import epoch_of
from accounting.store.schema import CHARGES, REVERSALS, USAGE, core
from accounting.tables import StatementLineRow

LINES = core(StatementLineRow)
_ROWS = 5_000
_temporary = MetaData()

OURS = Table(
    "recon_ours", _temporary,
    Column("id", BigInteger, primary_key=True, autoincrement=False), Column("run_key", String(100)),
    Column("native_id", String(64)), Column("task", Integer), Column("username", String(64)),
    Column("account", String(64)), Column("queue", String(64)), Column("state", String(32)), Column("meter", String(8)),
    Column("cores", Integer), Column("requested_cores", Integer), Column("nodes", Integer),
    Column("started", BigInteger), Column("ended", BigInteger), Column("elapsed_s", BigInteger),
    Column("suspended_s", BigInteger), Column("core_seconds", BigInteger), Column("amount_micro", BigInteger),
    Column("job_id", String(32)), Column("project_id", String(32)), Column("in_period", Integer),
    prefixes=["TEMPORARY"],
)  # fmt: skip
THEIRS = Table(
    "recon_theirs", _temporary,
    Column("line_no", BigInteger, primary_key=True, autoincrement=False), Column("run_key", String(100)),
    Column("native_id", String(64)), Column("task", Integer), Column("username", String(64)),
    Column("account", String(100)), Column("queue", String(64)), Column("state", String(32)),
    Column("cores", Integer), Column("nodes", Integer), Column("started", BigInteger), Column("ended", BigInteger),
    Column("elapsed_s", BigInteger), Column("core_seconds", BigInteger), Column("amount_micro", BigInteger),
    Column("of_line", BigInteger),  # the line that bills the same run before this one
    prefixes=["TEMPORARY"],
)  # fmt: skip
NAMES = Table(
    "recon_names", OURS.metadata, Column("pseudonym", String(64), primary_key=True), Column("login", String(64)),
    prefixes=["TEMPORARY"],
)  # fmt: skip


# ---------------------------------------------------------------- staging

# SQLite goes from row to row by an index; PostgreSQL hashes a whole side, where it may use the memory for it.
_BY_ID = "ix_recon_ours_native ON recon_ours (native_id)"
_INDICES = {
    "sqlite": (_BY_ID, "ix_recon_ours_key ON recon_ours (run_key)", "ix_recon_theirs_key ON recon_theirs (run_key)"),
    "postgresql": (_BY_ID,),
}
_SETTINGS = {"sqlite": ("PRAGMA temp.cache_size = -65536",), "postgresql": ("SET work_mem = '256MB'", "SET jit = off")}
_RESET = {"sqlite": (), "postgresql": ("RESET work_mem", "RESET jit")}


def stage(
    conn: Connection, *, statement_id: int, site_id: str, period: Period, basis: str, margin_s: int,
    logins: Mapping[str, str] | None = None,
) -> None:  # fmt: skip
    """Copy both sides into temporary tables. `basis` is the column of a charge that the centre bills.

    `logins`: by what stands for them on either side; an erased person's pseudonym stays, the same on both.
    Our side reaches `margin_s` beyond the period: what the centre counts elsewhere is a cut-off, not an unknown run.
    """
    drop(conn)
    for setting in _SETTINGS[conn.dialect.name]:
        conn.execute(text(setting))
    for table in (OURS, THEIRS, NAMES):
        table.create(conn)
    if logins:
        conn.execute(insert(NAMES), [{"pseudonym": name, "login": login} for name, login in logins.items()])
    conn.execute(insert(OURS).from_select([c.name for c in OURS.c], _our_runs(site_id, period, basis, margin_s)))
    names = [c.name for c in THEIRS.c if c.name != "of_line"]
    login = func.coalesce(NAMES.c.login, LINES.c.username)
    lines = select(*(login if name == "username" else LINES.c[name] for name in names))
    lines = lines.select_from(LINES).outerjoin(NAMES, NAMES.c.pseudonym == LINES.c.username)
    conn.execute(insert(THEIRS).from_select(names, lines.where(LINES.c.statement_id == statement_id)))
    # After the load: sorting once is much faster than finding the place of each row.
    for index in _INDICES[conn.dialect.name]:
        conn.execute(text(f"CREATE INDEX {index}"))
    if conn.dialect.name == "postgresql":
        conn.execute(text("ANALYZE recon_ours"))
        conn.execute(text("ANALYZE recon_theirs"))


def drop(conn: Connection) -> None:
    """Forget the temporary tables (a pooled connection outlives its user)."""
    for table in (OURS, THEIRS, NAMES):
        conn.execute(text(f"DROP TABLE IF EXISTS {table.name}"))
    for setting in _RESET[conn.dialect.name]:
        conn.execute(text(setting))


def _our_runs(site_id: str, period: Period, basis: str, margin_s: int) -> Select[Any]:
    """The governing reading of each run: the one whose charge nothing has replaced, or a centre's without a price."""
    margin = timedelta(seconds=margin_s)
    older = select(USAGE.c.supersedes).where(USAGE.c.site_id == site_id, USAGE.c.supersedes.is_not(None))
    inside = and_(USAGE.c.end_time >= period.start, USAGE.c.end_time < period.end)
    return (
        select(
            USAGE.c.id, USAGE.c.run_key, USAGE.c.native_id, USAGE.c.task,
            func.coalesce(NAMES.c.login, USAGE.c.username), USAGE.c.account, USAGE.c.queue, USAGE.c.state,
            USAGE.c.meter, USAGE.c.cores, USAGE.c.requested_cores, USAGE.c.nodes, epoch_of(USAGE.c.start_time),
            epoch_of(USAGE.c.end_time), USAGE.c.elapsed_s, USAGE.c.suspended_s, USAGE.c.core_seconds,
            CHARGES.c[basis], USAGE.c.job_id, USAGE.c.project_id,
            case((inside, 1), else_=0),
        )
        .outerjoin(CHARGES, CHARGES.c.usage_record_id == USAGE.c.id)
        .outerjoin(REVERSALS, REVERSALS.c.charge_id == CHARGES.c.id)
        .outerjoin(NAMES, NAMES.c.pseudonym == USAGE.c.username)
        .where(
            USAGE.c.site_id == site_id, USAGE.c.kind == "run", REVERSALS.c.charge_id.is_(None),
            or_(CHARGES.c.id.is_not(None), USAGE.c.meter == "centre"), USAGE.c.id.not_in(older),
            USAGE.c.end_time >= period.start - margin, USAGE.c.end_time < period.end + margin,
        )
    )  # fmt: skip


# ---------------------------------------------------------------- matching


def match(conn: Connection, tolerance: Tolerance) -> Matched:
    """Compare what is staged."""
    found = Matched()
    _mark_duplicates(conn)
    found.lines = int(conn.scalar(select(func.count()).select_from(THEIRS)) or 0)
    found.runs = int(conn.scalar(select(func.sum(OURS.c.in_period))) or 0)
    found.duplicates = list(conn.execute(select(THEIRS).where(THEIRS.c.of_line.is_not(None))))
    rest_theirs = []
    for row in _different_by_key(conn, tolerance, found.agreeing):
        theirs, ours = _sides(row)
        if ours.id is None:
            rest_theirs.append(theirs)
        else:
            found.pairs.append(Pair("T0", theirs, ours))
    rest_ours = list(conn.execute(_ours_alone()))
    single = [row for row in rest_theirs if not _is_sum(row)]
    found.agreed = found.lines - len(found.duplicates) - len(found.pairs) - len(rest_theirs)
    second = list(_by_id_and_start(single, rest_ours, tolerance))
    found.pairs += [pair for pair in second if _differs(pair, tolerance)]
    alike = [pair for pair in second if not _differs(pair, tolerance)]
    found.agreed += len(alike)
    for pair in alike:
        found.agreeing.extend((pair.ours.id, pair.theirs.line_no))
    single, rest_ours = _without(second, single, rest_ours)
    found.proposals = list(_by_person_and_time(single, rest_ours, tolerance))
    found.unknown, rest_ours = _without(found.proposals, single, rest_ours)
    found.sums = [(row, *_sum_of_ours(conn, row)) for row in rest_theirs if _is_sum(row)]
    found.missing = [] if found.sums else [row for row in rest_ours if row.in_period]
    return found


def _mark_duplicates(conn: Connection) -> None:
    """A run key that is there again: the first line stands, the others name it."""
    again = (
        select(THEIRS.c.run_key, func.min(THEIRS.c.line_no).label("first"))
        .where(THEIRS.c.run_key != "")
        .group_by(THEIRS.c.run_key)
        .having(func.count() > 1)
        .subquery()
    )
    others = (THEIRS.c.run_key == again.c.run_key, THEIRS.c.line_no != again.c.first)
    conn.execute(update(THEIRS).where(*others).values(of_line=again.c.first))


def _same_key() -> Any:
    return and_(THEIRS.c.run_key == OURS.c.run_key, THEIRS.c.run_key != "")


def _differs_by_key(tolerance: Tolerance) -> Any:
    apart = func.abs(THEIRS.c.core_seconds - OURS.c.core_seconds)
    quantity = and_(apart > tolerance.seconds * OURS.c.cores, apart * 1_000_000 > tolerance.ppm * OURS.c.core_seconds)
    money = func.abs(THEIRS.c.amount_micro - func.coalesce(OURS.c.amount_micro, 0)) > tolerance.micro
    person = and_(THEIRS.c.username != "", OURS.c.username != "", THEIRS.c.username != OURS.c.username)
    return or_(quantity, money, person, OURS.c.in_period == 0)


def _different_by_key(conn: Connection, tolerance: Tolerance, agreeing: array[int]) -> Iterator[Any]:
    """Lines whose run differs, and those of whose key we have no run; `agreeing` gets the others (reading, line).

    One pass that tells numbers alone, and the whole rows of the few that differ.
    """
    # An amount that the line does not give (NULL) does not differ.
    differs = func.coalesce(_differs_by_key(tolerance), false())
    every = select(THEIRS.c.line_no, OURS.c.id, differs).outerjoin(OURS, _same_key()).where(THEIRS.c.of_line.is_(None))
    different: list[int] = []
    for line_no, run_id, differ in conn.execute(every):
        if run_id is None or differ:
            different.append(line_no)
        else:
            agreeing.append(run_id)
            agreeing.append(line_no)
    different.sort()
    rows = select(*(c.label(f"t_{c.name}") for c in THEIRS.c), *(c.label(f"o_{c.name}") for c in OURS.c))
    rows = rows.outerjoin(OURS, _same_key()).order_by(THEIRS.c.line_no)
    for at in range(0, len(different), _ROWS):
        yield from conn.execute(rows.where(THEIRS.c.line_no.in_(different[at : at + _ROWS])))


def _ours_alone() -> Select[Any]:
    query = select(OURS).outerjoin(THEIRS, THEIRS.c.run_key == OURS.c.run_key)
    return query.where(THEIRS.c.line_no.is_(None)).order_by(OURS.c.id)


def _by_id_and_start(theirs: Sequence[Any], ours: Sequence[Any], tolerance: Tolerance) -> Iterator[Pair]:
    """The same job and task at nearly the same time; of several runs the nearest in time."""
    runs: dict[tuple[str, int | None], list[Any]] = defaultdict(list)
    for run in ours:
        runs[run.native_id, run.task].append(run)
    taken: set[int] = set()
    for line in theirs:
        near = [
            (abs(run.started - line.started), run.id, run)
            for run in runs.get((line.native_id, line.task), ())
            if line.native_id and line.started is not None and run.started is not None and run.id not in taken
            and abs(run.started - line.started) <= (120 if run.meter == "gateway" else tolerance.start_s)
        ]  # fmt: skip
        if near:
            _, run_id, run = min(near, key=lambda item: item[:2])
            taken.add(run_id)
            yield Pair("T1", line, run)


def _by_person_and_time(theirs: Sequence[Any], ours: Sequence[Any], tolerance: Tolerance) -> Iterator[Pair]:
    """The same id whatever the clock says, or one person's run of that size about then: where it is unique."""
    for key_of_line, key_of_run, near in (
        (lambda t: (t.native_id, t.task), lambda o: (o.native_id, o.task), None),
        (lambda t: (t.username, t.cores), lambda o: (o.username, o.cores), tolerance.person_s),
    ):
        lines, runs = _grouped(theirs, key_of_line), _grouped(ours, key_of_run)
        done: list[Pair] = []
        for key, some in lines.items():
            if not key[0]:
                continue
            pairs = [Pair("T2", t, o) for t in some for o in runs.get(key, ()) if _near(t, o, near)]
            once = _unique(pairs)
            done += once
            yield from once
        theirs, ours = _without(done, theirs, ours)


def _near(line: Any, run: Any, within_s: int | None) -> bool:
    if within_s is None:
        return True
    return line.started is not None and run.started is not None and abs(line.started - run.started) <= within_s


def _unique(pairs: Sequence[Pair]) -> list[Pair]:
    lines: dict[int, int] = defaultdict(int)
    runs: dict[int, int] = defaultdict(int)
    for pair in pairs:
        lines[pair.theirs.line_no] += 1
        runs[pair.ours.id] += 1
    return [p for p in pairs if lines[p.theirs.line_no] == 1 and runs[p.ours.id] == 1]


def _grouped(rows: Iterable[Any], key: Any) -> dict[Any, list[Any]]:
    found: dict[Any, list[Any]] = defaultdict(list)
    for row in rows:
        found[key(row)].append(row)
    return found


def _without(pairs: Sequence[Pair], theirs: Sequence[Any], ours: Sequence[Any]) -> tuple[list[Any], list[Any]]:
    lines, runs = {p.theirs.line_no for p in pairs}, {p.ours.id for p in pairs}
    return [t for t in theirs if t.line_no not in lines], [o for o in ours if o.id not in runs]


def _differs(pair: Pair, tolerance: Tolerance) -> bool:
    t, o = pair.theirs, pair.ours
    apart = abs(t.core_seconds - o.core_seconds)
    if apart > tolerance.seconds * o.cores and apart * 1_000_000 > tolerance.ppm * o.core_seconds:
        return True
    if t.amount_micro is not None and abs(t.amount_micro - (o.amount_micro or 0)) > tolerance.micro:
        return True
    return bool((t.username and o.username and t.username != o.username) or not o.in_period)


def _is_sum(row: Any) -> bool:
    return not row.run_key and not row.native_id and not (row.username and row.started)


def _sum_of_ours(conn: Connection, row: Any) -> tuple[int, int | None]:
    """Our sum of what a line sums up: its time (or the whole period), queue, account and person."""
    query = select(func.coalesce(func.sum(OURS.c.core_seconds), 0), func.sum(OURS.c.amount_micro))
    if row.started is not None and row.ended is not None:
        query = query.where(OURS.c.ended >= row.started, OURS.c.ended < row.ended)
    else:
        query = query.where(OURS.c.in_period == 1)
    for name in ("queue", "account", "username"):
        if getattr(row, name):
            query = query.where(OURS.c[name] == getattr(row, name))
    quantity, money = conn.execute(query).one()
    return int(quantity), None if money is None else int(money)


class _Side:
    """One half of a joined row, with the names of its own table."""

    __slots__ = ("_prefix", "_row")

    def __init__(self, row: Any, prefix: str) -> None:
        self._row, self._prefix = row, prefix

    def __getattr__(self, name: str) -> Any:
        return getattr(self._row, self._prefix + name)


def _sides(row: Any) -> tuple[_Side, _Side]:
    return _Side(row, "t_"), _Side(row, "o_")
