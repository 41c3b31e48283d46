"""What a season of business comes to, worked out by fractions from what happened: nothing of the product's is used.

The rules are those of the documents (docs/books.md, orders.md, invoicing.md), written down once more. Amounts of runs
are micro-units, those of documents the smallest coins (fen, cents).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from fractions import Fraction
from functools import partial
from itertools import pairwise

MICRO = 10**6
COIN = 10**4  # micro-units in a fen or a cent
TAX = {"op": Fraction(6, 100), "cb": Fraction(81, 1000)}
TAX_CODE = {"op": "vat", "cb": "mwst"}
RISES = timedelta(days=45)  # no bill rises later than this after the work

Claim = Callable[[str], None]  # takes something onto the document of this number
Line = tuple[str, str, str, datetime]  # document, site, person, month


def half_up(x: Fraction) -> int:
    """Rounded half away from zero."""
    whole = (2 * abs(x.numerator) + x.denominator) // (2 * x.denominator)
    return -whole if x < 0 else whole


def cut(x: Fraction) -> int:
    """Cut towards zero."""
    whole = abs(x.numerator) // x.denominator
    return -whole if x < 0 else whole


@dataclass
class Centre:
    """`share`: the centre's part of what is earned; `rest_to_centre`: it takes what rounding leaves."""

    id: str
    site: str
    issuer: str
    share: Fraction
    rest_to_centre: bool

    def part(self, earned: int) -> int:
        if self.rest_to_centre:
            return earned - cut((1 - self.share) * earned)
        return cut(self.share * earned)


@dataclass
class Version:
    """What a run costs by one reading. `billed`: by payer's part, the document that has it; `undone`: taken back."""

    start: datetime
    end: datetime
    cores: int
    amount: int
    centre: int
    borne: int
    parts: dict[str, int] | None
    by_centre: bool
    gone: bool = False
    billed: dict[str, str] = field(default_factory=dict)
    undone: set[str] = field(default_factory=set)


@dataclass
class Run:
    """A run with all that meters said of it, the last of which holds."""

    key: str
    project: str
    site: str
    user: str
    state: str
    versions: list[Version] = field(default_factory=list)

    @property
    def live(self) -> Version:
        return self.versions[-1]


@dataclass
class Extra:
    """A price of an order, or an adjustment. `parts`: by payer, None where one pays the whole; `to`: that one."""

    project: str
    site: str
    at: datetime
    amount: int
    parts: dict[str, int] | None
    to: str | None = None
    billed: set[str] = field(default_factory=set)


@dataclass
class Paper:
    """A document, and what became of it. `credited`: what credit notes about it come to (negative)."""

    number: str
    issuer: str
    payer: str
    project: str
    currency: str
    due_at: datetime
    exact: int
    net: int
    tax: int
    corrects: str = ""
    credited: int = 0
    paid: int = 0
    cleared: int = 0  # set off, paid by deposits
    written_off: int = 0

    @property
    def gross(self) -> int:
        return self.net + self.tax

    @property
    def open(self) -> int:
        return self.gross + self.credited - self.paid - self.cleared - self.written_off

    @property
    def settled(self) -> int:
        return self.paid + self.cleared - self.credited


@dataclass
class Project:
    """`weights`: who shares what it owes; `payers`: else, who pays from when. `paid_in`: coins of top-ups left."""

    name: str
    currency: str
    weights: list[tuple[str, int]] | None
    payers: list[tuple[datetime, str]]
    limit: int
    settled: int = 0
    paid_in: int = 0

    def payer(self, at: datetime) -> str:
        return [name for since, name in self.payers if since <= at][-1]

    def parts(self, amount: int) -> dict[str, int] | None:
        if self.weights is None:
            return None
        total = sum(weight for _, weight in self.weights)
        found = {payer: cut(Fraction(amount * weight, total)) for payer, weight in self.weights}
        found[self.weights[0][0]] += amount - sum(found.values())
        return found


class Reckoner:
    """The season so far. `accounts`: what those of the ledger must hold that the season moves."""

    def __init__(self, centres: Sequence[Centre], month_of: Callable[[datetime], datetime]) -> None:
        self.month_of = month_of
        self.centres = {c.site: c for c in centres}
        self.projects: dict[str, Project] = {}
        self.prices: dict[tuple[str, str], list[tuple[datetime, datetime | None, int]]] = defaultdict(list)
        self.ratios: dict[tuple[str, str], list[tuple[datetime, datetime | None, Fraction]]] = defaultdict(list)
        self.free: dict[tuple[str, str], list[tuple[datetime, datetime | None]]] = defaultdict(list)
        self.paid: dict[tuple[str, str], list[tuple[datetime, datetime | None]]] = defaultdict(list)  # by a price
        self.runs: dict[str, Run] = {}
        self.extras: list[Extra] = []
        self.papers: dict[str, Paper] = {}
        self.lines: dict[Line, list[tuple[Run, str]]] = defaultdict(list)
        self.given: dict[str, tuple[Paper, int, list[Run]]] = {}  # by credit note: what it gave back, of these runs
        self.used: dict[str, int] = defaultdict(int)  # what of it records gave back too
        self.accounts: dict[tuple[str, str], int] = defaultdict(int)

    # ---------------------------------------------------------------- runs

    def price_of(self, project: str, site: str, start: datetime, end: datetime, cores: int) -> tuple[int, int]:
        """(what it costs, what it costs before a ratio or a trial); each span of one price is rounded half up, once.

        Of what an order's price has paid for nothing is left in either: its centre has its share of that price.
        """
        prices = self.prices[site, self.projects[project].currency]
        ratios, free = self.ratios[project, site], self.free[project, site]
        cuts = {at for some in (prices, ratios, free) for span in some for at in span[:2] if at and start < at < end}
        pieces: list[tuple[Fraction, Fraction, Fraction]] = []  # core-seconds, what one costs, and at the list price
        for a, b in pairwise([start, *sorted(cuts), end]):
            price = next(Fraction(micro, 3600) for since, until, micro in prices if _holds(since, until, a))
            ratio = next((r for since, until, r in ratios if _holds(since, until, a)), Fraction(1))
            paid = any(_holds(since, until, a) for since, until in self.paid[project, site])
            each = Fraction(0) if any(_holds(since, until, a) for since, until in free) else price * ratio
            listed = Fraction(0) if paid else price
            quantity = Fraction(cores * int((b - a).total_seconds()))
            if pieces and pieces[-1][1:] == (each, listed):
                quantity += pieces.pop()[0]
            pieces.append((quantity, each, listed))
        cost = sum(half_up(quantity * each) for quantity, each, _ in pieces)
        return cost, max(cost, sum(half_up(quantity * listed) for quantity, _, listed in pieces))

    def read(self, run: Run, start: datetime, end: datetime, cores: int, now: datetime, *, by_centre: bool) -> None:
        """A meter says of a run what it says."""
        p, centre = self.projects[run.project], self.centres[run.site]
        amount, earned = self.price_of(run.project, run.site, start, end, cores)
        if run.state == "NODE_FAIL":  # the centre's fault
            amount, earned = 0, 0
        elif run.state == "PREEMPTED":  # the operator's
            amount = 0
        elif run.state == "BOOT_FAIL":  # half and half; the odd micro-unit is the payer's
            amount, earned = amount - amount // 2, earned - earned // 2
        borne = earned - amount  # what the operator gave off, or answers for
        old = run.live if run.versions else Version(start, end, cores, 0, 0, 0, None, by_centre=by_centre)
        share = centre.part(earned)
        if amount > old.amount and now - end > RISES:
            borne, amount = borne + amount - old.amount, old.amount
        old.gone = True
        run.versions.append(Version(start, end, cores, amount, share, borne, p.parts(amount), by_centre))
        self.runs[run.key] = run
        p.settled += amount - old.amount
        self._earns(centre, p.currency, share - old.centre)
        self.accounts["operator:borne", p.currency] += borne - old.borne
        self._charge_again(run, old.amount - amount)

    def _earns(self, centre: Centre, currency: str, share: int) -> None:
        self.accounts[f"centre:{centre.id}:payable", currency] -= share

    def _charge_again(self, run: Run, fall: int) -> None:
        """What a credit of its line gave back before, and the record gives back again, is owed again, by who got it."""
        p, centre = self.projects[run.project], self.centres[run.site]
        for number, (note, credit, on) in self.given.items():
            met = min(fall, credit - self.used[number]) if any(r is run for r in on) else 0
            if met <= 0:
                continue
            fall -= met
            self.used[number] += met
            p.settled += met
            self._earns(centre, p.currency, centre.part(met))
            self.extras.append(Extra(run.project, run.site, run.live.end, met, None, note.payer))

    # ---------------------------------------------------------------- orders and adjustments

    def order(
        self, project: str, site: str, price: int, begins: datetime, ends: datetime | None, now: datetime
    ) -> None:
        """A block or a trial that has begun: behind the latest charged run nothing more is owed for runs."""
        p, centre = self.projects[project], self.centres[site]
        charged = [v.end for r in self.runs.values() for v in r.versions if (r.project, r.site) == (project, site)]
        span = (max([begins, *charged]), ends)
        self.free[project, site].append(span)
        if price:
            self.paid[project, site].append(span)
            p.settled += price
            self._earns(centre, p.currency, centre.part(price))
            self.extras.append(Extra(project, site, now, price, p.parts(price)))

    def adjust(self, project: str, amount: int, now: datetime) -> None:
        p = self.projects[project]
        p.settled += amount
        self.accounts["operator:adjustments", p.currency] -= amount
        self.extras.append(Extra(project, "", now, amount, p.parts(amount)))

    # ---------------------------------------------------------------- documents

    def bill(self, issuer: str, payer: str, project: str, until: datetime) -> tuple[int, int, int] | None:
        """(exact micro-units, net, tax) of the document that is to come; it is kept by `issued`."""
        due = [amount for amount, _ in self._due(issuer, payer, project, until)]
        if not due:
            return None
        net = half_up(Fraction(sum(due), COIN))
        return sum(due), net, half_up(net * TAX[issuer])

    def issued(self, number: str, issuer: str, payer: str, project: str, until: datetime, due_at: datetime) -> Paper:
        said = self.bill(issuer, payer, project, until)
        assert said is not None
        for _, claim in list(self._due(issuer, payer, project, until)):
            claim(number)
        made = Paper(number, issuer, payer, project, self.projects[project].currency, due_at, *said)
        self._keep(made)
        self.accounts[f"project:{project}:invoiced", made.currency] -= made.exact
        return made

    def _keep(self, made: Paper) -> None:
        self.papers[made.number] = made
        self.accounts[f"payer:{made.payer}:receivable", made.currency] += made.gross * COIN
        self.accounts[f"tax:{made.issuer}:{TAX_CODE[made.issuer]}", made.currency] -= made.tax * COIN

    def _due(self, issuer: str, payer: str, project: str, until: datetime) -> Iterator[tuple[int, Claim]]:
        """What no document has yet, and how a document takes it."""
        p = self.projects[project]
        for run in self.runs.values():
            if run.project == project and self.centres[run.site].issuer == issuer:
                for v in run.versions:
                    if v.by_centre and v.end < until:
                        yield from self._due_of(run, v, payer, p)
        for x in self.extras:
            if x.project != project or x.at >= until or (self.centres[x.site].issuer if x.site else "op") != issuer:
                continue
            part, amount = ("", x.amount) if x.parts is None else (payer, x.parts.get(payer, 0))
            owes = bool(amount) if x.parts is not None else (x.to or p.payer(x.at)) == payer
            if owes and part not in x.billed:
                yield amount, partial(_take, x, part)

    def _due_of(self, run: Run, v: Version, payer: str, p: Project) -> Iterator[tuple[int, Claim]]:
        """What a reading costs, or (billed, and no longer what holds) what goes back to who was billed."""
        part, amount = ("", v.amount) if v.parts is None else (payer, v.parts.get(payer, 0))
        owes = p.payer(v.end) == payer if v.parts is None else payer in v.parts
        if v.gone and part in v.billed and part not in v.undone and self.papers[v.billed[part]].payer == payer:
            yield -amount, partial(_undo, v, part)
        elif not v.gone and part not in v.billed and owes:
            yield amount, partial(self._claim, run, v, part)

    def _claim(self, run: Run, v: Version, part: str, number: str) -> None:
        v.billed[part] = number
        self.lines[number, run.site, run.user, self.month_of(v.end)].append((run, part))

    def credit(self, note: Paper, line: Line) -> None:
        """A credit note of one line of an invoice; the centre bears it, and so has earned so much less."""
        invoice, micro = self.papers[note.corrects], -note.net * COIN
        self._keep(note)
        before = invoice.settled
        invoice.credited += note.gross
        self._settled(invoice, before)
        self.given[note.number] = note, micro, [run for run, _ in self.lines[line]]
        centre = self.centres[line[1]]
        self._earns(centre, invoice.currency, -centre.part(micro))

    # ---------------------------------------------------------------- money

    def bank(self, account: str, currency: str, minor: int) -> None:
        self.accounts[f"bank:{account}", currency] += minor * COIN
        self.accounts[f"unallocated:{account}", currency] -= minor * COIN

    def pay(self, paper: Paper, minor: int, account: str) -> None:
        """Of money that came in, so much pays a document (or, negative, does not)."""
        before = paper.settled
        paper.paid += minor
        self._settled(paper, before)
        self.accounts[f"unallocated:{account}", paper.currency] += minor * COIN
        self.accounts[f"payer:{paper.payer}:receivable", paper.currency] -= minor * COIN

    def clear(self, paper: Paper, minor: int) -> None:
        before = paper.settled
        paper.cleared += minor
        self._settled(paper, before)

    def set_off(self, made: Paper) -> None:
        """Credits of a month against open invoices of the same parties, the oldest first."""
        mine = [
            x for x in sorted(self.papers.values(), key=lambda x: (x.due_at, x.number))
            if not x.corrects and (x.issuer, x.payer, x.project) == (made.issuer, made.payer, made.project)
        ]  # fmt: skip
        credits = [x for x in mine if x.open < 0]
        for invoice in (x for x in mine if x.open > 0):
            for source in credits:
                amount = min(invoice.open, -source.open)
                if amount > 0:
                    self.clear(source, -amount)
                    self.clear(invoice, amount)

    def _settled(self, paper: Paper, before: int) -> None:
        """What is paid or given back of an invoice may be spent again: its exact amount, by parts cut down."""
        if paper.gross:
            back = paper.exact * paper.settled // paper.gross - paper.exact * before // paper.gross
            self.projects[paper.project].limit += back
            self.accounts[f"project:{paper.project}:invoiced", paper.currency] += back


def _holds(since: datetime, until: datetime | None, at: datetime) -> bool:
    return since <= at and (until is None or at < until)


def _undo(v: Version, part: str, number: str) -> None:
    v.undone.add(part)


def _take(x: Extra, part: str, number: str) -> None:
    x.billed.add(part)
