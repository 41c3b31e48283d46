"""What a signed agreement says of a comparison: tolerances, limits, causes; a request may only narrow it.

Pure. Without a signed agreement nothing stands without a person.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from accounting.agreement import Agreement, Bills, TaxKind
from accounting.reconciling.breaks import Cause
from accounting.reconciling.drafts import CENTRE_GOVERNS, Rules
from accounting.reconciling.explain import Ground, Ratio
from accounting.reconciling.found import Tolerance

UNSIGNED = Rules(
    "no agreement", auto_causes=frozenset(), auto_break_micro=0, auto_statement_micro=0, increase_micro=0
)  # fmt: skip

# The column of our charge that a centre's statement bills.
COLUMN = {Bills.GROSS: "gross_micro", Bills.SHARE: "centre_micro"}


@dataclass(frozen=True, slots=True)
class Narrower:
    """What one comparison asks beyond the contract: lower limits, fewer causes, a signature. None: as agreed."""

    auto_causes: frozenset[Cause] | None = None
    auto_break_micro: int | None = None
    auto_statement_micro: int | None = None
    increase_micro: int | None = None
    skew_s: int | None = None
    must_be_signed: bool = False


def rules_of(agreement: Agreement | None, *, coin_micro: int, rates: Iterable[Ratio] = ()) -> Rules:
    """The rules that hold under an agreement. `coin_micro`: the smallest coin of the statement's currency."""
    if agreement is None:
        return UNSIGNED
    allowed, limits, terms = agreement.tolerances, agreement.limits, agreement.statements
    causes = CENTRE_GOVERNS if terms.auto_causes is None else frozenset(Cause(c) for c in terms.auto_causes)
    return Rules(
        version=f"{agreement.id}/{agreement.version}",
        # Start and end are both cut to whole seconds: what is between them is off by less than one, not by two.
        tolerance=Tolerance(seconds=allowed.seconds_per_boundary, ppm=allowed.quantity_ppm,
                            micro=allowed.line_micro, statement_micro=allowed.statement_minor_units * coin_micro,
                            accounts=not terms.own_accounts),
        ground=Ground(skew_s=allowed.clock_skew_s, rates=tuple(rates), taxes=_taxes(agreement)),
        auto_causes=causes, auto_break_micro=limits.line_micro, auto_statement_micro=limits.statement_micro,
        increase_micro=limits.increase_micro, basis=COLUMN[terms.bills], must_be_signed=terms.must_be_signed,
        cores_per_node=dict(agreement.metering.cores_per_node),
        threads_per_core=dict(agreement.metering.threads_per_core),
    )  # fmt: skip


def _taxes(agreement: Agreement) -> tuple[Ratio, ...]:
    """The centre may bill without the tax that our price contains, or with the tax that is added to it."""
    tax = agreement.tax
    if tax.kind is TaxKind.NONE or not tax.numerator:
        return ()
    name, whole = tax.name or "tax", tax.numerator + tax.denominator
    if tax.kind is TaxKind.INCLUSIVE:
        return (Ratio(f"without {name}", tax.denominator, whole),)
    return (Ratio(f"with {name}", whole, tax.denominator),)


def narrowed(rules: Rules, asked: Narrower) -> Rules:
    """The stricter of both, in everything."""
    causes = rules.auto_causes if asked.auto_causes is None else rules.auto_causes & asked.auto_causes
    return replace(
        rules,
        ground=replace(rules.ground, skew_s=_lower(rules.ground.skew_s, asked.skew_s)),
        auto_causes=causes,
        auto_break_micro=_lower(rules.auto_break_micro, asked.auto_break_micro),
        auto_statement_micro=_lower(rules.auto_statement_micro, asked.auto_statement_micro),
        increase_micro=_lower(rules.increase_micro, asked.increase_micro),
        must_be_signed=rules.must_be_signed or asked.must_be_signed,
    )


def _lower(agreed: int, asked: int | None) -> int:
    return agreed if asked is None else min(agreed, asked)
