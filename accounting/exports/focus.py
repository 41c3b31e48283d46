"""Invoices as FOCUS 1.0 cost and usage (focus.finops.org), one row per line and one for its tax.

`BilledCost` of a document's rows sums to its gross total. A late or changed record and a credit are
`ChargeClass=Correction`: their charge period is the work's, their billing period the document's. The price of an order
is `ChargeCategory=Purchase`: its charge period is what was bought. Columns of ours begin
with `x_`, as the specification asks.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from decimal import Decimal

from accounting import csv_text
from accounting.invoicing.invoice import Document, Line, LineKind, Ordered
from accounting.invoicing.texts import describe
from accounting.minor_units import decimal_of

VERSION = "1.0"
COLUMNS = (
    "AvailabilityZone", "BilledCost", "BillingAccountId", "BillingAccountName", "BillingCurrency", "BillingPeriodEnd",
    "BillingPeriodStart", "ChargeCategory", "ChargeClass", "ChargeDescription", "ChargeFrequency", "ChargePeriodEnd",
    "ChargePeriodStart", "CommitmentDiscountCategory", "CommitmentDiscountId", "CommitmentDiscountName",
    "CommitmentDiscountStatus", "CommitmentDiscountType", "ConsumedQuantity", "ConsumedUnit", "ContractedCost",
    "ContractedUnitPrice", "EffectiveCost", "InvoiceIssuer", "ListCost", "ListUnitPrice", "PricingCategory",
    "PricingQuantity", "PricingUnit", "Provider", "Publisher", "RegionId", "RegionName", "ResourceID", "ResourceName",
    "ResourceType", "ServiceCategory", "ServiceName", "SkuId", "SkuPriceId", "SubAccountId", "SubAccountName", "Tags",
    "x_InvoiceId", "x_InvoiceLine", "x_ExactCost", "x_CoreSeconds", "x_Runs",
)  # fmt: skip
_HOURS = Decimal("0.000000001")


def focus_csv(documents: Iterable[Document]) -> str:
    """A FOCUS file of these invoices and credit notes."""
    rows = [row for doc in documents for line in doc.lines for row in _rows(doc, line)]
    return csv_text.write(COLUMNS, ([row.get(name) for name in COLUMNS] for row in rows))


def _rows(doc: Document, line: Line) -> Iterator[dict[str, object]]:
    net = decimal_of(line.net_minor, doc.currency)
    no_usage = line.kind in (LineKind.CREDIT, LineKind.ADJUSTMENT)
    usage = {} if no_usage else {
        "ConsumedQuantity": line.core_seconds, "ConsumedUnit": "Core-Seconds",
        "PricingQuantity": (Decimal(line.core_seconds) / 3600).quantize(_HOURS), "PricingUnit": "Core-Hours",
        "PricingCategory": "Standard", "SkuId": "core-hours", "SkuPriceId": f"core-hours/{line.site_id}",
        "x_CoreSeconds": line.core_seconds, "x_Runs": line.runs, "x_ExactCost": Decimal(line.amount_micro) / 1_000_000,
    }  # fmt: skip
    if line.kind is LineKind.ORDER and line.ordered is not None:
        usage = _purchase(line, line.ordered)
    yield _common(doc, line) | usage | {
        "BilledCost": net, "EffectiveCost": net, "ListCost": net, "ContractedCost": net,
        "ChargeCategory": _CATEGORY[line.kind], "ChargeFrequency": _frequency(line),
        "ChargeDescription": describe(line, "en"),
    }  # fmt: skip
    if line.tax_minor:
        tax = decimal_of(line.tax_minor, doc.currency)
        yield _common(doc, line) | {
            "BilledCost": tax, "EffectiveCost": tax, "ListCost": tax, "ContractedCost": tax, "ChargeCategory": "Tax",
            "ChargeFrequency": _frequency(line),
            "ChargeDescription": f"{doc.tax.name_en or doc.tax.code} on line {line.number}",
        }  # fmt: skip


_CATEGORY = {LineKind.USAGE: "Usage", LineKind.CORRECTION: "Usage", LineKind.CREDIT: "Credit",
             LineKind.ORDER: "Purchase", LineKind.ADJUSTMENT: "Adjustment"}  # fmt: skip


def _class(line: Line) -> str | None:
    """What went back of an order is a correction, as a late or changed record and a credit are."""
    if line.kind is LineKind.ORDER:
        return "Correction" if line.amount_micro < 0 else None
    return None if line.kind is LineKind.USAGE else "Correction"


def _frequency(line: Line) -> str:
    if line.kind is LineKind.ORDER and line.ordered is not None:
        return "Recurring" if line.ordered.kind == "subscription" else "One-Time"
    return "One-Time" if line.kind in (LineKind.CREDIT, LineKind.ADJUSTMENT) else "Usage-Based"


def _purchase(line: Line, ordered: Ordered) -> dict[str, object]:
    what, seconds = ordered.commodity.removesuffix("-seconds"), ordered.commodity.endswith("-seconds")
    hours = (Decimal(ordered.quantity) / 3600).quantize(_HOURS)
    return {
        "PricingQuantity": hours if seconds else ordered.quantity,
        "PricingUnit": {"core": "Core-Hours", "gpu": "GPU-Hours"}.get(what, what),
        "PricingCategory": "Standard", "SkuId": f"{ordered.kind}/{ordered.commodity}",
        "SkuPriceId": ordered.order_id, "x_ExactCost": Decimal(line.amount_micro) / 1_000_000,
    }  # fmt: skip


def _common(doc: Document, line: Line) -> dict[str, object]:
    tags = {"project": doc.project, "user": line.user or line.user_id, "site": line.site_id}
    return {
        "BillingAccountId": doc.payer.id, "BillingAccountName": doc.payer.legal_name, "BillingCurrency": doc.currency,
        "BillingPeriodStart": _time(doc.period_start), "BillingPeriodEnd": _time(doc.period_end),
        "ChargeClass": _class(line),
        "ChargePeriodStart": _time(line.service_start), "ChargePeriodEnd": _time(line.service_end),
        "InvoiceIssuer": doc.issuer.legal_name, "Provider": doc.issuer.legal_name,
        "Publisher": line.site_id or doc.issuer.legal_name,
        "RegionId": line.site_id, "RegionName": line.site_id, "ResourceID": line.site_id, "ResourceName": line.site_id,
        "ResourceType": "Supercomputer" if line.site_id else None, "ServiceCategory": "Compute",
        "ServiceName": "Batch computing", "SubAccountId": doc.project_id, "SubAccountName": doc.project,
        "Tags": json.dumps(tags, ensure_ascii=False, sort_keys=True), "x_InvoiceId": doc.number,
        "x_InvoiceLine": line.number,
    }  # fmt: skip


def _time(at: datetime) -> str:
    return at.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
