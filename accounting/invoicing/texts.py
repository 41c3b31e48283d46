"""The words on an invoice in English and Simplified Chinese, and numbers and dates as each language writes them."""

from __future__ import annotations

from datetime import datetime, timedelta
from zoneinfo import ZoneInfo

from babel import Locale
from babel.dates import format_date
from babel.numbers import format_decimal, parse_pattern

from accounting.invoicing.invoice import CORRECTIONS, Document, DocumentKind, Line, LineKind, Ordered
from accounting.invoicing.tax import rate_text
from accounting.ledger import PEOPLE_COUNT
from accounting.minor_units import decimal_of, digits_of

LANGUAGES = ("en", "zh")
_LOCALES = {"en": "en_GB", "zh": "zh_Hans_CN"}

# A commercial bill is 账单: 发票 is a form of the tax office, which an issuer in China makes in its own system.
TEXTS: dict[str, tuple[str, str]] = {
    "invoice": ("Invoice", "账单"),
    "credit_note": ("Credit note", "贷项通知单"),
    "number": ("Number", "编号"),
    "issued": ("Issued", "开具日期"),
    "due": ("Due", "付款期限"),
    "period": ("Period", "账期"),
    "project": ("Project", "项目"),
    "corrects": ("Corrects", "更正"),
    "reason": ("Reason", "原因"),
    "corrections": ("corrections of earlier periods", "以前账期的更正"),
    "bill_to": ("Bill to", "付款方"),
    "tax_id": ("Tax number", "税号"),
    "line": ("No.", "序号"),
    "what": ("Usage", "用量"),
    "service": ("Service period", "服务期间"),
    "quantity": ("Quantity", "数量"),
    "unit_price": ("Unit price", "单价"),
    "various": ("various", "多种"),
    "of_which": ("of which", "其中"),
    "tier": ("; beyond {beyond} a month: {price}", "；每月超过 {beyond} 的部分：{price}"),
    "least": ("minimum charge", "最低收费"),
    "runs_of": ("{text}\n{runs} runs, {hours} core-hours", "{text}\n{runs} 个作业，{hours} 核时"),
    "amount": ("Amount", "金额"),
    "net": ("Net", "不含税金额"),
    "tax": ("Tax", "税额"),
    "total": ("Total", "合计"),
    "usage": ("Computing at {site}, {user}", "{site} 计算资源，用户 {user}"),
    "correction": ("Correction: computing at {site}, {user}", "更正：{site} 计算资源，用户 {user}"),
    "adjustment": ("Adjustment", "账目调整"),
    "of_documents": ("{text}. Corrects {documents}", "{text}；更正 {documents}"),
    "credit": ("Credit for line {number}: {site}, {user}", "第 {number} 行退款：{site}，用户 {user}"),
    "order_block": ("Order {order}: {amount}, once", "订单 {order}：{amount}，一次性购买"),
    "order_subscription": ("Order {order}: {amount}, month of a subscription", "订单 {order}：{amount}，按月订阅"),
    "order_at": (" at {site}", "，{site}"),
    "order_back": ("Canceled, given back: {ordered}", "取消退回：{ordered}"),
    "credit_order": ("Credit for line {number}: {ordered}", "第 {number} 行退款：{ordered}"),
    "amount_core-seconds": ("{n} core-hours", "{n} 核时"),
    "amount_gpu-seconds": ("{n} GPU-hours", "{n} GPU 卡时"),
    "amount_core_seconds": ("{n} core-hours", "{n} 核时"),
    "amount_gpu_seconds": ("{n} GPU-hours", "{n} GPU 卡时"),
    "amount_node_seconds": ("{n} node-hours", "{n} 节点时"),
    "amount_memory_mib_seconds": ("{n} GiB-hours", "{n} GiB·小时"),
    "amount_storage-mib-hours": ("{n} GiB-months of storage", "{n} GiB 月（存储）"),
    "amount_unit": ("{n} {unit}", "{n} {unit}"),
    "unbilled": (
        "{runs} more runs ({amount}) wait for the centre's record and are not part of this bill.",
        "另有 {runs} 个作业（{amount}）等待算力中心的计量记录，未计入本账单。",
    ),
    "inclusive": ("Prices include tax.", "价格已含税。"),
    "pay_to": ("Pay to", "收款账户"),
    "reference": ("Please give the number as reference.", "付款时请注明编号。"),
    "fingerprint": ("SHA-256 of the kept document", "存档文件的 SHA-256"),
    "page": ("Page {page} of {{nb}}", "第 {page} 页，共 {{nb}} 页"),
}


def language(asked: str | None, fallback: str = "en") -> str:
    """One of `LANGUAGES`: `zh-Hans` and `zh_CN` are zh."""
    wanted = (asked or fallback).replace("_", "-").partition("-")[0].lower()
    return wanted if wanted in LANGUAGES else "en"


def locale(lang: str) -> str:
    """What babel calls a language."""
    return _LOCALES[lang]


def say(key: str, lang: str, **values: object) -> str:
    return TEXTS[key][LANGUAGES.index(lang)].format(**values)


def title(doc: Document, lang: str) -> str:
    return say("credit_note" if doc.kind is DocumentKind.CREDIT_NOTE else "invoice", lang)


def describe(line: Line, lang: str) -> str:
    """What a line is for."""
    if line.ordered is not None:
        return _described_order(line, line.ordered, lang)
    key = {LineKind.USAGE: "usage", LineKind.CORRECTION: "correction", LineKind.CREDIT: "credit",
           LineKind.ADJUSTMENT: "adjustment"}[line.kind]  # fmt: skip
    text = say(key, lang, site=line.site_id or "–", user=line.user or line.user_id or "–", number=line.number)
    if line.kind is LineKind.ADJUSTMENT:
        return f"{text}. {line.text}"
    return say("of_documents", lang, text=text, documents=line.text) if line.text else text


def reason(doc: Document, lang: str) -> str:
    """Why a credit note was made: in the words of who made it, or that records were corrected."""
    return say("corrections", lang) if doc.reason == CORRECTIONS else doc.reason


def _described_order(line: Line, ordered: Ordered, lang: str) -> str:
    text = say(f"order_{ordered.kind}", lang, order=ordered.order_id, amount=quantity(ordered, lang))
    text += say("order_at", lang, site=line.site_id) if line.site_id else ""
    if ordered.quantity < 0:
        text = say("order_back", lang, ordered=text)
    return say("credit_order", lang, number=line.number, ordered=text) if line.kind is LineKind.CREDIT else text


def quantity(ordered: Ordered, lang: str) -> str:
    """How much was ordered, or given back: hours of cores and GPUs, GiB-months, whole units of all else."""
    if (key := f"amount_{ordered.commodity}") in TEXTS:
        return say(key, lang, n=_hundredths(abs(ordered.quantity), PEOPLE_COUNT[ordered.commodity][1], lang))
    return say("amount_unit", lang, n=number(abs(ordered.quantity), lang), unit=ordered.commodity)


def money(minor: int, currency: str, lang: str) -> str:
    """With the currency's sign, as the language writes it."""
    pattern = parse_pattern(Locale.parse(_LOCALES[lang]).currency_formats["standard"].pattern)
    pattern.frac_prec = (digits_of(currency), digits_of(currency))
    return str(pattern.apply(decimal_of(minor, currency), _LOCALES[lang], currency=currency, currency_digits=False))


def number(value: int | str, lang: str) -> str:
    return str(format_decimal(value, locale=_LOCALES[lang]))


def core_hours(core_seconds: int, lang: str) -> str:
    """Core-hours with two places, half away from zero."""
    return _hundredths(core_seconds, 3600, lang)


def _hundredths(quantity: int, per: int, lang: str) -> str:
    sign = -1 if quantity < 0 else 1
    hundredths = sign * ((abs(quantity) * 100 + per // 2) // per)
    whole, part = divmod(abs(hundredths), 100)
    text = format_decimal(f"{whole}.{part:02d}", format="#,##0.00", locale=_LOCALES[lang])
    return f"-{text}" if hundredths < 0 else str(text)


def day(at: datetime, zone: str, lang: str) -> str:
    return format_date(at.astimezone(ZoneInfo(zone)).date(), format="long", locale=_LOCALES[lang])


def days(start: datetime, end: datetime, zone: str, lang: str) -> str:
    """A half-open period by its first and last day."""
    here = ZoneInfo(zone)
    first, last = start.astimezone(here).date(), (end - timedelta(seconds=1)).astimezone(here).date()
    return f"{format_date(first, 'medium', _LOCALES[lang])} – {format_date(last, 'medium', _LOCALES[lang])}"


def tax_label(doc: Document, lang: str) -> str:
    name = doc.tax.name_zh if lang == "zh" else doc.tax.name_en
    return f"{name or say('tax', lang)} {rate_text(doc.tax.rate_ppm)}%"


def tax_note(doc: Document, lang: str) -> str:
    note = (doc.tax.note_zh if lang == "zh" else doc.tax.note_en) or doc.tax.note_en
    return " ".join(part for part in (note, say("inclusive", lang) if doc.tax.inclusive else "") if part)
