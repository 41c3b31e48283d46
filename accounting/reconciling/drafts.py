"""Turn what was found into breaks: name the cause, and decide whether the contract lets the centre's figure stand.

Pure. `Rules` are the contract's: what may be accepted without a person, and up to how much.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from accounting.money import format_micro
from accounting.reconciling.breaks import NEVER_AUTOMATIC, Category, Cause
from accounting.reconciling.explain import Explanation, Ground, Ours, Theirs, explain
from accounting.reconciling.found import (
    Matched,
    Pair,
    Tolerance,
    comparable_micro,
    figures_differ,
    other_account,
    time_differs,
    units_apart,
)
from accounting.reconciling.statement import Finding

# The centre's meter is the reference for how long and how much; for price, unit, tax and persons the contract is.
CENTRE_GOVERNS = frozenset(
    {Cause.SUSPENDED, Cause.EXCLUSIVE, Cause.SKEW, Cause.TRUNCATION, Cause.OBSERVED, Cause.STATE}
)


@dataclass(frozen=True, slots=True)
class Rules:
    """`auto_*_micro`: the most that may be posted without a person, for one break and for a statement.

    `increase_micro` caps what a person's bill may rise by without one. `basis` is the column of our charge that the
    centre bills: the gross (it sells at the list price) or its own share. `cores_per_node` and `threads_per_core` are
    by queue (`*`: any), before those of `ground`.
    """

    version: str = "default-1"
    tolerance: Tolerance = field(default_factory=Tolerance)
    ground: Ground = field(default_factory=Ground)
    auto_causes: frozenset[Cause] = CENTRE_GOVERNS
    auto_break_micro: int = 50_000_000
    auto_statement_micro: int = 1_000_000_000
    increase_micro: int = 10_000_000
    basis: str = "gross_micro"
    must_be_signed: bool = False
    cores_per_node: Mapping[str, int] = field(default_factory=dict)
    threads_per_core: Mapping[str, int] = field(default_factory=dict)

    def ground_of(self, queue: str) -> Ground:
        """The ground of runs in a queue."""
        cores = self.cores_per_node.get(queue, self.cores_per_node.get("*", self.ground.cores_per_node))
        threads = self.threads_per_core.get(queue, self.threads_per_core.get("*", self.ground.threads_per_core))
        return replace(self.ground, cores_per_node=cores, threads_per_core=threads)


@dataclass(frozen=True, slots=True)
class Draft:
    """A break before it has a number. `accepted`: the contract lets the centre's figure stand; `held` says why not."""

    category: Category
    tier: str
    explanation: str
    causes: tuple[Cause, ...] = ()
    line_no: int | None = None
    usage_record_id: int | None = None
    native_id: str = ""
    username: str = ""
    job_id: str | None = None
    project_id: str | None = None
    ours_core_seconds: int = 0
    theirs_core_seconds: int = 0
    ours_micro: int | None = None
    theirs_micro: int | None = None
    certain: bool = False
    mixed: bool = False
    accepted: bool = False
    held: str = ""

    @property
    def delta_micro(self) -> int:
        """What the centre's figure is above ours."""
        return apart_micro((self.ours_core_seconds, self.ours_micro), (self.theirs_core_seconds, self.theirs_micro))


def apart_micro(ours: tuple[int, int | None], theirs: tuple[int, int | None]) -> int:
    """How far (core-seconds, micro-units) of a centre are above ours, in money; where it names none, by our own price
    of a core-second, and 0 where we have none."""
    (our_seconds, our_micro), (their_seconds, their_micro) = ours, theirs
    if their_micro is not None:
        return their_micro - (our_micro or 0)
    if not our_seconds:
        return 0
    more = (our_micro or 0) * (their_seconds - our_seconds)
    return -(-abs(more) // our_seconds) * (1 if more > 0 else -1)


@dataclass(frozen=True, slots=True)
class Known:
    """What the books know beside the runs: other runs of a job, prices by version, logins of people, our tags.

    `kept_login`, `kept_text`: what is kept of a login, of a text with logins; `opened`: a line's fields as they came.
    """

    siblings: Mapping[tuple[str, int | None], Sequence[Any]] = field(default_factory=dict)
    logins: frozenset[str] = frozenset()
    tag_prefix: str = ""
    tagged_lines: frozenset[int] = frozenset()
    pseudonyms: Mapping[str, str] = field(default_factory=dict)  # what stands for a login in the books -> the login
    kept_login: Callable[[str], str] = str
    kept_text: Callable[[str], str] = str
    opened: Callable[[Mapping[str, Any]], Mapping[str, Any]] = dict
    twins: Sequence[Any] = ()  # twice.Twin


def drafts(matched: Matched, findings: Iterable[Finding], rules: Rules, known: Known) -> list[Draft]:
    """Every break of a comparison, in the order of the statement; those that may stand are marked."""
    found: list[Draft] = [_of_statement(f) for f in findings]
    found += [_of_pair(pair, rules, known) for pair in matched.pairs]
    absorbed = _absorbed(found, known)
    found += [_proposal(pair) for pair in matched.proposals]
    found += [_duplicate(line, before) for line, before in matched.duplicates]
    found += [_unknown(line, known) for line in matched.unknown]
    twins = {twin.run.id for twin in known.twins}
    found += [_twin(twin) for twin in known.twins]
    found += [_missing(run, absorbed) for run in matched.missing if run.id not in twins]
    found += list(_sums(matched.sums, rules.tolerance))
    found.sort(key=lambda d: (d.line_no is None, d.line_no or 0, d.usage_record_id or 0))
    return _accept(found, rules)


def _of_statement(finding: Finding) -> Draft:
    return Draft(
        finding.category, "", finding.text, theirs_core_seconds=finding.delta_core_seconds,
        theirs_micro=finding.delta_micro or None,
    )  # fmt: skip


def _of_pair(pair: Pair, rules: Rules, known: Known) -> Draft:
    apart = units_apart(pair)
    if not apart:
        return _of_one_run(pair, rules, known)
    text = "; ".join(f"{theirs} {name} by the centre, {ours} by ours" for name, (theirs, ours) in sorted(apart.items()))
    if not time_differs(pair, rules.tolerance) and not _of_another(pair, rules.tolerance):
        return _draft(pair, Category.QUANTITY, text)  # the money that goes with it is that of the units
    draft = _of_one_run(pair, rules, known)  # the units are a second difference: no contract lets both stand
    return replace(draft, explanation=f"{draft.explanation}; {text}", certain=False, mixed=True)


def _of_another(pair: Pair, tolerance: Tolerance) -> bool:
    """Whether a line is about another person, account or month than the run."""
    t, o = pair.theirs, pair.ours
    another = t.username and o.username and t.username != o.username
    return bool(another or other_account(pair, tolerance) or not o.in_period)


def _of_one_run(pair: Pair, rules: Rules, known: Known) -> Draft:
    t, o = pair.theirs, pair.ours
    if t.username and o.username and t.username != o.username:
        return _draft(pair, Category.IDENTITY, f"billed to {t.username}, and run by {o.username}")
    if not other_account(pair, rules.tolerance):
        return _of_figures(pair, rules, known)
    text = f"billed to account {t.account}, and run under {o.account}"
    if not figures_differ(pair, rules.tolerance) and o.in_period:
        return replace(_draft(pair, Category.IDENTITY, text), causes=(Cause.ACCOUNT,), certain=True)
    draft = _of_figures(pair, rules, known)  # the account is a second difference: no contract lets both stand
    causes, explanation = (*draft.causes, Cause.ACCOUNT), f"{draft.explanation}; {text}"
    return replace(draft, causes=causes, explanation=explanation, mixed=True)


def _of_figures(pair: Pair, rules: Rules, known: Known) -> Draft:
    t, o = pair.theirs, pair.ours
    siblings = tuple(r.core_seconds for r in known.siblings.get((o.native_id, o.task), ()) if r.id != o.id)
    ours = Ours(
        cores=o.cores, nodes=o.nodes, elapsed_s=o.elapsed_s, core_seconds=o.core_seconds, suspended_s=o.suspended_s,
        amount_micro=comparable_micro(pair), requested_cores=o.requested_cores or 0, started=o.started, ended=o.ended,
        state=o.state, observed=o.meter == "gateway", sibling_core_seconds=siblings,
        billed_core_seconds=o.billed_core_seconds,
    )  # fmt: skip
    theirs = Theirs(t.core_seconds, t.amount_micro, t.elapsed_s, t.cores, t.started, t.ended, t.state)
    explanations = _explained(ours, theirs, rules.ground_of(o.queue))
    if not explanations:
        return _unexplained(pair)
    words = explanations[0].text if len(explanations) == 1 else "one of: " + " | ".join(e.text for e in explanations)
    mixed = any(len(e.causes) > 1 for e in explanations)
    # Several single causes of one category come to the same: the centre's figure stands or it does not.
    certain = len(explanations) == 1 or (not mixed and len({e.category for e in explanations}) == 1)
    draft = _draft(pair, explanations[0].category, words)
    return replace(draft, causes=_causes(explanations), certain=certain, mixed=mixed)


def _explained(ours: Ours, theirs: Theirs, ground: Ground) -> list[Explanation]:
    """By what was metered, or by what of it is billed (threads as cores, whole nodes): what needs fewer causes."""
    found = explain(ours, theirs, ground)
    billed = ours.priced_core_seconds
    if billed == ours.core_seconds:
        return found
    cores = billed // ours.elapsed_s if ours.elapsed_s and billed % ours.elapsed_s == 0 else ours.cores
    as_billed = explain(replace(ours, cores=cores, core_seconds=billed), theirs, ground)
    return min((some for some in (found, as_billed) if some), key=lambda some: len(some[0].causes), default=[])


def _causes(explanations: Sequence[Explanation]) -> tuple[Cause, ...]:
    return tuple(dict.fromkeys(cause for e in explanations for cause in e.causes))


def _unexplained(pair: Pair) -> Draft:
    t, o = pair.theirs, pair.ours
    if t.core_seconds != o.core_seconds:
        text = f"{t.core_seconds - o.core_seconds:+d} core-seconds, and no known cause gives them"
        return _draft(pair, Category.QUANTITY, text)
    ours = comparable_micro(pair)
    if t.amount_micro is not None and ours is not None and abs(t.amount_micro - ours) > 1:
        more = t.amount_micro - ours
        text = f"{'+' * (more > 0)}{format_micro(more)} of money, and no known cause gives it"
        return _draft(pair, Category.PRICE, text)
    if t.amount_micro is not None and o.amount_micro is None:
        return _draft(pair, Category.PRICE, "we have no price for this run")
    return replace(
        _draft(pair, Category.CUT_OFF, "the run ended in another period"), causes=(Cause.CUT_OFF,), certain=True
    )


def _draft(pair: Pair, category: Category, text: str) -> Draft:
    t, o = pair.theirs, pair.ours
    if comparable_micro(pair) != o.amount_micro:
        paid = "an order paid for the run: compared is what it had cost without, and no money is due for it"
        text = f"{text}; {paid}"
    return Draft(
        category, pair.tier, text, line_no=t.line_no, usage_record_id=o.id, native_id=o.native_id, username=o.username,
        job_id=o.job_id, project_id=o.project_id, ours_core_seconds=o.core_seconds,
        theirs_core_seconds=t.core_seconds, ours_micro=comparable_micro(pair), theirs_micro=t.amount_micro,
    )  # fmt: skip


def _proposal(pair: Pair) -> Draft:
    t, o = pair.theirs, pair.ours
    text = f"line {t.line_no} may be our run {o.run_key}: the same person, size and time; somebody must say so"
    return _draft(pair, Category.UNKNOWN_TO_US, text)


def _duplicate(line: Any, before: int) -> Draft:
    text = f"line {before} bills this run already"
    return _of_line(line, Category.DUPLICATE, text)


def _unknown(line: Any, known: Known) -> Draft:
    if line.line_no in known.tagged_lines:
        text = "it bears our tag, and we have no record of it"
    elif line.username in known.logins:
        text = f"{line.username} ran this at the centre without Penstock"
    else:
        text = f"nobody of ours is known there as {line.username!r}: it never went through Penstock"
    return _of_line(line, Category.UNKNOWN_TO_US, text)


def _of_line(line: Any, category: Category, text: str) -> Draft:
    return Draft(
        category, "", text, line_no=line.line_no, native_id=line.native_id, username=line.username,
        theirs_core_seconds=line.core_seconds, theirs_micro=line.amount_micro,
    )  # fmt: skip


def _missing(run: Any, absorbed: Mapping[int, int]) -> Draft:
    text, causes = "the centre does not bill it", tuple[Cause, ...]()
    if run.id in absorbed:
        text, causes = f"line {absorbed[run.id]} bills it together with a later run of the job", (Cause.REQUEUE,)
    elif run.state in ("REQUEUED", "NODE_FAIL", "PREEMPTED"):
        text, causes = f"the centre does not bill a run that ended {run.state}", (Cause.STATE,)
    elif run.core_seconds == 0:
        text = "it took no time, and the centre does not list it"
    return Draft(
        Category.MISSING_AT_CENTRE, "", text, causes, usage_record_id=run.id, native_id=run.native_id,
        username=run.username, job_id=run.job_id, project_id=run.project_id, ours_core_seconds=run.core_seconds,
        ours_micro=run.amount_micro, certain=bool(causes),
    )  # fmt: skip


def _twin(twin: Any) -> Draft:
    """One run too many: posted, it is taken back. The centre's figure of it is nothing, whatever it bills twice."""
    run = twin.run
    category = Category.MISSING_AT_CENTRE if twin.line_no is None else Category.DUPLICATE
    text = f"its log told this run also as {twin.other_key}, which line {twin.before} bills: to post this takes it back"
    return Draft(
        category, "", text, (Cause.TWICE,), line_no=twin.line_no, usage_record_id=run.id, native_id=run.native_id,
        username=run.username, job_id=run.job_id, project_id=run.project_id, ours_core_seconds=run.core_seconds,
        ours_micro=run.amount_micro, theirs_micro=0, certain=True,
    )  # fmt: skip


def _absorbed(found: Sequence[Draft], known: Known) -> dict[int, int]:
    """Runs that another line bills with its own: by our record's id, the line."""
    lines = {
        d.usage_record_id: d.line_no
        for d in found
        if Cause.REQUEUE in d.causes and d.certain and d.line_no is not None and d.usage_record_id is not None
    }
    absorbed: dict[int, int] = {}
    for runs in known.siblings.values():
        billed = next((lines[r.id] for r in runs if r.id in lines), None)
        if billed is not None:
            absorbed |= {r.id: billed for r in runs if r.id not in lines}
    return absorbed


def _sums(sums: Sequence[tuple[Any, int, int | None, int | None]], tolerance: Tolerance) -> Iterator[Draft]:
    for line, quantity, money, listed in sums:
        apart = abs(line.core_seconds - quantity)
        off = line.amount_micro is not None and all(
            abs(line.amount_micro - (ours or 0)) > tolerance.statement_micro for ours in (money, listed)
        )
        if apart * 1_000_000 > tolerance.ppm * quantity or off:
            where = " ".join(filter(None, (line.queue, line.account, line.username))) or "the whole period"
            yield replace(
                _of_line(line, Category.QUANTITY, f"the sum of {where} differs; the centre gives no single runs"),
                tier="T3", ours_core_seconds=quantity, ours_micro=money,
            )  # fmt: skip


def _accept(found: Sequence[Draft], rules: Rules) -> list[Draft]:
    """Mark what the contract lets stand: certain, of one cause, small, and not too much in all."""
    doubts = (Category.SIGNATURE, Category.CONTROL_TOTAL, Category.CHANGED_AFTER)
    refused = any(d.category in doubts for d in found)
    total, decided = 0, []
    for draft in found:
        held = "the statement itself is in doubt" if refused else _held(draft, rules)
        if not held and total + abs(draft.delta_micro) > rules.auto_statement_micro:
            held = "the statement's corrections together pass the contract's limit"
        if not held:
            total += abs(draft.delta_micro)
        decided.append(replace(draft, accepted=not held, held=held))
    return decided


def _held(draft: Draft, rules: Rules) -> str:
    """Why a person must look at it; empty where none must."""
    if draft.category in NEVER_AUTOMATIC or not draft.certain:
        return "a person must look at this"
    if draft.mixed or not draft.causes or not rules.auto_causes.issuperset(draft.causes) or not draft.usage_record_id:
        return "the contract does not let this stand without a person"
    if draft.line_no is None:
        return "the centre says nothing of it"
    if Cause.STATE in draft.causes and draft.theirs_core_seconds >= draft.ours_core_seconds:
        return "the contract says who bears such a run"
    if abs(draft.delta_micro) > rules.auto_break_micro:
        return "it passes the contract's limit for one run"
    if draft.delta_micro > rules.increase_micro:
        return "it raises the bill by more than the contract allows without a person"
    return ""
