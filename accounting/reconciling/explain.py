"""Explain a difference: recompute our figure under each known cause, and name those that give the centre's exactly.

A cause is only tried where the run gives it ground (suspended time only where there was some). One cause before two;
where several explanations fit, all are returned, and none of them is certain.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import product

from accounting.price import rate
from accounting.reconciling.breaks import CATEGORY_OF, Category, Cause


@dataclass(frozen=True, slots=True)
class Ours:
    """Our figures of one run. `amount_micro` None: not priced. `sibling_core_seconds`: other runs of the same job.

    `billed_core_seconds`: what of them `amount_micro` is the price of, where the agreement bills others than were
    metered; 0: all.
    """

    cores: int
    nodes: int
    elapsed_s: int
    core_seconds: int
    suspended_s: int = 0
    amount_micro: int | None = None
    requested_cores: int = 0
    started: int | None = None
    ended: int | None = None
    state: str = ""
    observed: bool = False
    sibling_core_seconds: tuple[int, ...] = ()
    billed_core_seconds: int = 0

    @property
    def priced_core_seconds(self) -> int:
        return self.billed_core_seconds or self.core_seconds


@dataclass(frozen=True, slots=True)
class Theirs:
    """The centre's figures of the same run; what a statement leaves out is 0 or None."""

    core_seconds: int
    amount_micro: int | None = None
    elapsed_s: int = 0
    cores: int = 0
    started: int | None = None
    ended: int | None = None
    state: str = ""


@dataclass(frozen=True, slots=True)
class Ratio:
    """A named ratio: an exchange rate, a tax, a unit. Integers, so that nothing drifts."""

    label: str
    num: int
    den: int = 1


@dataclass(frozen=True, slots=True)
class Ground:
    """What is known of the contract when a difference is explained. Prices are micro-units per core-hour."""

    cores_per_node: int = 0
    threads_per_core: int = 1
    skew_s: int = 5
    observed_s: int = 120
    period: tuple[int, int] | None = None
    price: int | None = None
    other_prices: Mapping[str, int] = field(default_factory=dict)
    rates: tuple[Ratio, ...] = ()
    taxes: tuple[Ratio, ...] = ()
    units: tuple[Ratio, ...] = (
        Ratio("seconds as hours", 1, 3600), Ratio("hours as seconds", 3600), Ratio("minutes as seconds", 60),
        Ratio("seconds as minutes", 1, 60),
    )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Explanation:
    """Why the figures differ, with the arithmetic in words."""

    causes: tuple[Cause, ...]
    text: str
    fits_line: bool = True  # also the cores and the time that the centre's line names

    @property
    def category(self) -> Category:
        return CATEGORY_OF[self.causes[0]]


@dataclass(frozen=True, slots=True)
class _Step:
    cause: Cause | None
    value: int
    text: str = ""


def explain(ours: Ours, theirs: Theirs, ground: Ground) -> list[Explanation]:
    """Every explanation by one cause, else every one by two; empty where the difference stays unexplained.

    Of several, those that also give the cores and the time that the centre's line names come alone.
    """
    found: dict[tuple[Cause, ...], Explanation] = {}
    for step in _quantities(ours, theirs, ground):
        if step.quantity != theirs.core_seconds:
            continue
        for money_causes, more in _amounts(ours, theirs, ground, step.quantity):
            causes = step.causes + money_causes
            if 1 <= len(causes) <= 2 and (causes not in found or step.fits(theirs) > found[causes].fits_line):
                found[causes] = Explanation(causes, "; ".join(filter(None, (*step.words, *more))), step.fits(theirs))
        if step.causes == (Cause.UNIT,) and _same_money(ours, theirs):
            text = "; ".join(filter(None, (*step.words, "the money is that of the right quantity")))
            found[step.causes] = Explanation(step.causes, text, step.fits(theirs))
    fewest = min((len(causes) for causes in found), default=0)
    short = [e for causes, e in found.items() if len(causes) == fewest]
    if theirs.core_seconds == 0 and not ours.state.startswith("COMPLETED"):  # nothing is billed of what failed
        short = [e for e in short if e.causes == (Cause.STATE,)] or short
    return [e for e in short if e.fits_line] or short


# ---------------------------------------------------------------- quantities


@dataclass(frozen=True, slots=True)
class _Quantity:
    """Our quantity under some causes: the cores and the time it comes from, and what is said of it."""

    causes: tuple[Cause, ...]
    quantity: int
    words: tuple[str, ...] = ()
    cores: int = 0
    elapsed_s: int = 0

    def fits(self, theirs: Theirs) -> bool:
        return (not theirs.cores or self.cores in (0, theirs.cores)) and (
            not theirs.elapsed_s or self.elapsed_s in (0, theirs.elapsed_s)
        )


def _quantities(ours: Ours, theirs: Theirs, ground: Ground) -> Iterator[_Quantity]:
    """Core-seconds under no, one and two causes: cores × time, more runs, another unit."""
    yield _Quantity((), ours.core_seconds)
    shapes = [_Step(None, ours.cores), *_shapes(ours, ground)]
    times = [_Step(None, ours.elapsed_s), *_times(ours, theirs, ground)]
    tails = [None, *_tails(ours, ground)]
    for shape, time, tail in product(shapes, times, tails):
        causes = tuple(c for c in (shape.cause, time.cause, tail.cause if tail else None) if c is not None)
        if not 1 <= len(causes) <= 2:
            continue
        base = shape.value * time.value if shape.cause or time.cause else ours.core_seconds
        for value, words in [(base, "")] if tail is None else tail.of(base):
            yield _Quantity(causes, value, (shape.text, time.text, words), shape.value, time.value)
    if ours.core_seconds and theirs.core_seconds == 0:
        yield _Quantity((Cause.STATE,), 0, (f"the centre does not charge a run that ended {ours.state}",))


def _shapes(ours: Ours, ground: Ground) -> Iterator[_Step]:
    whole = ours.nodes * ground.cores_per_node
    if whole > ours.cores:
        yield _Step(Cause.EXCLUSIVE, whole, f"{ours.nodes} whole nodes of {ground.cores_per_node} cores")
    if ground.threads_per_core > 1:
        yield _Step(Cause.THREADS, ours.cores * ground.threads_per_core, f"{ground.threads_per_core} threads per core")
        if ours.cores % ground.threads_per_core == 0:
            yield _Step(Cause.THREADS, ours.cores // ground.threads_per_core, "threads counted as cores by us")
    if ours.requested_cores and ours.requested_cores != ours.cores:
        yield _Step(Cause.REQUESTED, ours.requested_cores, f"{ours.requested_cores} cores requested")


def _times(ours: Ours, theirs: Theirs, ground: Ground) -> Iterator[_Step]:
    elapsed = ours.elapsed_s
    if ours.suspended_s:
        yield _Step(Cause.SUSPENDED, elapsed + ours.suspended_s, f"with {ours.suspended_s} s of suspension")
        if ours.suspended_s <= elapsed:
            yield _Step(Cause.SUSPENDED, elapsed - ours.suspended_s, f"without {ours.suspended_s} s of suspension")
    for unit, name in ((60, "minutes"), (3600, "hours")):
        for value, how in ((elapsed // unit * unit, "cut to"), (-(-elapsed // unit) * unit, "rounded up to"),
                           ((elapsed + unit // 2) // unit * unit, "rounded to")):  # fmt: skip
            if value != elapsed:
                yield _Step(Cause.TRUNCATION, value, f"time {how} whole {name}")
    inside = _inside(ours, ground)
    if inside is not None and inside != elapsed:
        yield _Step(Cause.CUT_OFF, inside, f"only the {inside} s inside the period")
    yield from _skews(ours, theirs, ground)


def _skews(ours: Ours, theirs: Theirs, ground: Ground) -> Iterator[_Step]:
    """Clocks apart: by the centre's own start and end where it gives them, else by what its figure implies."""
    their_time = theirs.elapsed_s
    if not their_time and theirs.started is not None and theirs.ended is not None:
        their_time = theirs.ended - theirs.started
    if not their_time and ours.cores and theirs.core_seconds % ours.cores == 0:
        their_time = theirs.core_seconds // ours.cores
    apart = their_time - ours.elapsed_s
    if not their_time or not apart:
        return
    if ours.observed and abs(apart) <= ground.observed_s:
        yield _Step(Cause.OBSERVED, their_time, f"the gateway saw {ours.elapsed_s} s, the centre measured {their_time}")
    elif abs(apart) <= ground.skew_s:
        yield _Step(Cause.SKEW, their_time, f"clocks {abs(apart)} s apart")


def _inside(ours: Ours, ground: Ground) -> int | None:
    if ground.period is None or ours.started is None or ours.ended is None:
        return None
    first, last = ground.period
    if first <= ours.started and ours.ended <= last:
        return None
    return max(0, min(ours.ended, last) - max(ours.started, first))


@dataclass(frozen=True, slots=True)
class _Tail:
    """What is done to a quantity after cores × time."""

    cause: Cause
    more: int = 0
    ratio: Ratio = Ratio("", 1)
    text: str = ""

    def of(self, base: int) -> Iterator[tuple[int, str]]:
        if self.cause is Cause.REQUEUE:
            yield base + self.more, self.text
            return
        exact = base * self.ratio.num
        for value in sorted({exact // self.ratio.den, -(-exact // self.ratio.den)} - {0}):
            yield value, f"unit: {self.ratio.label}"


def _tails(ours: Ours, ground: Ground) -> Iterator[_Tail]:
    others = sum(ours.sibling_core_seconds)
    if others:
        runs = len(ours.sibling_core_seconds)
        yield _Tail(Cause.REQUEUE, more=others, text=f"with {runs} other run{'s' * (runs > 1)} of the job")
    for ratio in ground.units:
        yield _Tail(Cause.UNIT, ratio=ratio)
    if ours.cores and ours.nodes and ours.cores != ours.nodes and ours.core_seconds:
        yield _Tail(Cause.UNIT, ratio=Ratio("nodes for cores", ours.nodes, ours.cores))


# ---------------------------------------------------------------- money


def _amounts(
    ours: Ours, theirs: Theirs, ground: Ground, quantity: int
) -> Iterator[tuple[tuple[Cause, ...], list[str]]]:
    """What makes the centre's amount of this quantity; nothing more than the quantity where no amount is given."""
    if theirs.amount_micro is None or ours.amount_micro is None:
        yield (), []
        return
    base = _base(ours, ground, quantity)
    if base is None:
        return
    steps: list[tuple[Cause | None, int, str]] = [(None, base, "")]
    if ours.amount_micro == 0 and ours.core_seconds:
        text = "by our prices it costs nothing, as in a block that was bought"
        steps += [(Cause.PRICE, rate(quantity, price), text) for price in _prices(ground)]
        if not ours.state.startswith("COMPLETED"):
            text = f"the centre charges a run that ended {ours.state}"
            steps += [(Cause.STATE, rate(quantity, price), text) for price in _prices(ground)]
    for label, price in ground.other_prices.items():
        if not _is_ours(price, ours):
            steps.append((Cause.PRICE, rate(quantity, price), f"price {label}"))
    rates = [Ratio("", 1), *ground.rates]
    taxes = [Ratio("", 1), *ground.taxes]
    for (cause, amount, text), fx, tax in product(steps, rates, taxes):
        causes = tuple(c for c in (cause, Cause.RATE if fx.label else None, Cause.TAX if tax.label else None) if c)
        value = _times_ratio(_times_ratio(amount, fx), tax)
        if len(causes) <= 2 and abs(value - theirs.amount_micro) <= 1:
            yield causes, [text, f"rate {fx.label}" * bool(fx.label), f"tax {tax.label}" * bool(tax.label)]


def _base(ours: Ours, ground: Ground, quantity: int) -> int | None:
    """Our price of a quantity: what we booked where it is our own quantity, else by the price, else in proportion."""
    if quantity == ours.core_seconds or ours.amount_micro is None:
        return ours.amount_micro
    if ours.core_seconds == 0:
        return None
    for price in _prices(ground):
        if _is_ours(price, ours) and ours.priced_core_seconds == ours.core_seconds:
            return rate(quantity, price)
    return (2 * ours.amount_micro * quantity + ours.core_seconds) // (2 * ours.core_seconds)


def _prices(ground: Ground) -> list[int]:
    """Those of the centre, each once: which of them a run has depends on its queue, its hour and more."""
    return list(dict.fromkeys(filter(None, (ground.price, *ground.other_prices.values()))))


def _is_ours(price: int, ours: Ours) -> bool:
    """Whether it is the price that we took for this run."""
    return ours.amount_micro == rate(ours.priced_core_seconds, price)


def _same_money(ours: Ours, theirs: Theirs) -> bool:
    if theirs.amount_micro is None or ours.amount_micro is None:
        return False
    return abs(theirs.amount_micro - ours.amount_micro) <= 1


def _times_ratio(amount: int, ratio: Ratio) -> int:
    """Half up, exact."""
    return (2 * amount * ratio.num + ratio.den) // (2 * ratio.den)
