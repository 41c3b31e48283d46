"""Documents, disputes and payments as plain values for answers."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import Connection

from accounting.invoicing import dispute_store
from accounting.invoicing.ageing import BUCKETS, Aged, Standing
from accounting.invoicing.disputes import Dispute
from accounting.invoicing.invoice import Document, LegalEntity
from accounting.invoicing.tax import TaxRule
from accounting.invoicing.texts import describe, language
from accounting.minor_units import plain
from accounting.money import format_micro
from accounting.payments.payment import LeftOut
from accounting.payments.store import Received
from gateway.jobs.views import stamp


def entity_json(entity: LegalEntity, tax_code: str) -> dict[str, Any]:
    return {
        "id": entity.id, "legal_name": entity.legal_name, "address": entity.address, "country": entity.country,
        "tax_id": entity.tax_id, "bank_details": entity.bank_details, "language": entity.language,
        "zone": entity.zone, "payment_days": entity.payment_days, "prefix": entity.prefix, "tax_code": tax_code,
    }  # fmt: skip


def tax_json(rule: TaxRule) -> dict[str, Any]:
    return {
        "code": rule.code, "kind": rule.kind.value, "rate_ppm": rule.rate_ppm, "inclusive": rule.inclusive,
        "valid_from": stamp(rule.valid_from), "valid_to": stamp(rule.valid_to), "name_en": rule.name_en,
        "name_zh": rule.name_zh, "note_en": rule.note_en, "note_zh": rule.note_zh,
    }  # fmt: skip


def head_json(row: Any, project: str, open_minor: int | None) -> dict[str, Any]:
    """A row of `billing_document`; `open_minor` None of a credit note of an invoice: it lessens what is open there."""
    c = row.currency
    return {
        "number": row.number, "kind": row.kind, "project": project, "issuer": row.issuer_id, "payer": row.payer_id,
        "currency": c, "period_start": stamp(row.period_start), "period_end": stamp(row.period_end),
        "issued_at": stamp(row.issued_at), "due_at": stamp(row.due_at), "net": plain(row.net_minor, c),
        "tax": plain(row.tax_minor, c), "gross": plain(row.gross_minor, c),
        "open": None if open_minor is None else plain(open_minor, c), "corrects": row.corrects, "sha256": row.sha256,
    }  # fmt: skip


def made_json(doc: Document) -> dict[str, Any]:
    """The head of a document that was issued just now."""
    c = doc.currency
    return {
        "number": doc.number, "kind": doc.kind.value, "project": doc.project, "issuer": doc.issuer.id,
        "payer": doc.payer.id, "currency": c, "period_start": stamp(doc.period_start),
        "period_end": stamp(doc.period_end), "issued_at": stamp(doc.issued_at), "due_at": stamp(doc.due_at),
        "net": plain(doc.net_minor, c), "tax": plain(doc.tax_minor, c), "gross": plain(doc.gross_minor, c),
        "open": None if doc.corrects else plain(doc.gross_minor, c),
        "corrects": doc.corrects or None, "sha256": doc.sha256,
    }  # fmt: skip


def document_json(row: Any, doc: Document, open_minor: int | None) -> dict[str, Any]:
    c, lang = doc.currency, language(doc.payer.language)
    lines = [
        {"line": x.number, "kind": x.kind.value, "site": x.site_id, "user": x.user or x.user_id,
         "service_start": stamp(x.service_start), "service_end": stamp(x.service_end), "runs": x.runs,
         "core_seconds": x.core_seconds, "exact": format_micro(x.amount_micro), "net": plain(x.net_minor, c),
         "tax": plain(x.tax_minor, c), "text": describe(x, lang) if x.ordered else x.text,
         "order": x.ordered.order_id if x.ordered else None}
        for x in doc.lines
    ]  # fmt: skip
    unbilled = {"runs": doc.unbilled.runs, "amount": format_micro(doc.unbilled.amount_micro)}
    return head_json(row, doc.project, open_minor) | {
        "lines": lines, "tax_rule": tax_json(doc.tax), "unbilled": unbilled, "reason": doc.reason,
    }  # fmt: skip


def dispute_json(conn: Connection, dispute: Dispute, now: datetime) -> dict[str, Any]:
    events = [
        {"n": e.n, "step": e.step.value, "state": e.state.value, "side": e.side.value, "by": e.by, "text": e.text,
         "evidence": [{"name": x.name, "sha256": x.sha256} for x in e.evidence], "credit_note": e.credit_note,
         "at": stamp(e.at)}
        for e in dispute_store.events(conn, dispute.id)
    ]  # fmt: skip
    return {
        "id": dispute.id, "invoice": dispute.invoice, "line": dispute.line, "site": dispute.site_id,
        "amount": plain(dispute.amount_minor, dispute.currency), "currency": dispute.currency,
        "state": dispute.state.value, "reason": dispute.reason, "charges": list(dispute.charges),
        "opened_at": stamp(dispute.opened_at),
        "due_at": stamp(dispute.due_at), "overdue": dispute.overdue(now), "events": events,
    }  # fmt: skip


def left_out_json(found: LeftOut) -> dict[str, Any]:
    return {"where": found.where, "why": found.why, "amount": plain(found.amount_minor, found.currency),
            "currency": found.currency, "remittance": found.remittance}  # fmt: skip


def payment_json(found: Received) -> dict[str, Any]:
    t = found.transaction
    return {
        "id": found.id, "account": t.account, "bank_ref": t.bank_ref, "booked_on": t.booked_on.date().isoformat(),
        "currency": t.currency, "amount": plain(t.amount_minor, t.currency),
        "unallocated": plain(found.unallocated_minor, t.currency), "payer_name": t.payer_name,
        "remittance": t.remittance,
        "pays": [{"invoice": number, "amount": plain(minor, t.currency)} for number, minor in found.documents],
        "top_ups": [{"id": payment, "amount": plain(minor, t.currency)} for payment, minor in found.top_ups],
        "payer_account": t.payer_account, "perhaps_top_ups": list(found.perhaps),
        "perhaps_invoices": list(found.proposed),
    }  # fmt: skip


def unmatch_json(row: Any) -> dict[str, Any]:
    return {
        "id": row.id, "top_up": row.payment_id, "payment": row.transaction_id,
        "amount": plain(row.amount_minor, row.currency), "currency": row.currency, "reason": row.reason,
        "state": row.decision or "waiting", "requested_by": row.requested_by, "decided_by": row.decided_by,
    }  # fmt: skip


def clearing_json(row: Any) -> dict[str, Any]:
    return {
        "id": row.id, "invoice": row.document, "kind": row.kind, "amount": plain(row.amount_minor, row.currency),
        "currency": row.currency, "source": row.source, "reason": row.reason, "state": row.decision or "waiting",
        "requested_by": row.requested_by, "decided_by": row.decided_by,
    }  # fmt: skip


def ageing_json(found: Sequence[Aged], sums: Sequence[Standing]) -> dict[str, Any]:
    payers = [
        {"payer": s.payer_id, "payer_name": s.payer_name, "currency": s.currency, "total": plain(s.total, s.currency),
         "buckets": {name: plain(s.buckets[name], s.currency) for name in BUCKETS}}
        for s in sums
    ]  # fmt: skip
    invoices = [
        {"number": a.document.number, "payer": a.document.payer_id, "currency": a.document.currency,
         "open": plain(a.document.open_minor, a.document.currency),
         "disputed": plain(a.disputed_minor, a.document.currency), "due_at": stamp(a.document.due_at),
         "days_overdue": a.days_overdue, "bucket": a.bucket, "dunning_level": a.dunning_level}
        for a in found
    ]  # fmt: skip
    return {"payers": payers, "invoices": invoices}
