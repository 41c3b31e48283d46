"""The tables of the books, in reading order: usage, contracts, books, money, invoices, evidence, settlement."""

from accounting.tables.adjusted import AdjustmentItemRow
from accounting.tables.alarms import MeterAlarmRow
from accounting.tables.arrivals import StatementArrivalRow
from accounting.tables.base import (
    Base,
    Id,
    UtcTime,
    append_only_tables,
    append_only_triggers,
    assert_append_only,
    has_append_only_triggers,
    metadata,
)
from accounting.tables.books import (
    AccountRow,
    AccrualReversalRow,
    AccrualRow,
    BalanceRow,
    ChargeReversalRow,
    ChargeRow,
    HoldRow,
    JournalEntryRow,
    PeriodEventRow,
    PeriodRow,
    PostingRow,
    TierCountRow,
)
from accounting.tables.clearings import ClearingDecisionRow, ClearingRow
from accounting.tables.comparisons import ComparisonStageRow
from accounting.tables.confirmations import ConfirmedPartRow
from accounting.tables.consents import ConsentDecisionRow, ConsentRow
from accounting.tables.contracts import (
    AgreementRow,
    AllocationEventRow,
    AllocationRow,
    DiscountRow,
    OrderRow,
    PartyKeyRow,
    PartyRow,
    PriceRuleRow,
    ProjectTermsRow,
    SignatureRow,
    TariffRow,
)
from accounting.tables.credited_runs import CreditedRunRow
from accounting.tables.discount_ends import DiscountEndRow
from accounting.tables.evidence import (
    CheckpointRow,
    CosignatureRow,
    LeafRow,
    NodeRow,
    OutboxRow,
    PersonKeyRow,
    SigningKeyRow,
)
from accounting.tables.invoices import (
    BankTransactionRow,
    BillingDocumentRow,
    BillingItemRow,
    DisputeEventRow,
    DisputeRow,
    DocumentSeriesRow,
    InvoicePaymentRow,
    LegalEntityRow,
    ProjectPayerRow,
    TaxRuleRow,
)
from accounting.tables.money import (
    AdjustmentDecisionRow,
    AdjustmentRow,
    BudgetAlertRow,
    BudgetRow,
    PaymentAllocationRow,
    PaymentRow,
    VoucherRow,
    VoucherUseRow,
)
from accounting.tables.openings import OpeningEventRow, OpeningRow
from accounting.tables.order_cancellations import OrderCancellationDecisionRow, OrderCancellationRow
from accounting.tables.order_prices import OrderItemRow, OrderPriceRow
from accounting.tables.origins import LogOriginRow
from accounting.tables.overlaps import CreditOverlapRow
from accounting.tables.recon import (
    BreakEventRow,
    BreakRow,
    ReconciliationRow,
    StatementLineRow,
    StatementProblemRow,
    StatementRow,
    StatementSignatureRow,
)
from accounting.tables.refunds import DepositRefundDecisionRow, DepositRefundRow
from accounting.tables.rereads import QuarantineRereadRow
from accounting.tables.settlement import (
    FxRateRow,
    SettlementEndRow,
    SettlementItemRow,
    SettlementPaymentRow,
    SettlementRow,
    SettlementSignatureRow,
)
from accounting.tables.top_ups import TopUpReceiptRow, TopUpUndoDecisionRow, TopUpUndoRow
from accounting.tables.usage import QuarantineRow, UsageRecordRow

APPEND_ONLY = append_only_tables()

__all__ = [
    "Base", "Id", "UtcTime", "metadata", "APPEND_ONLY", "append_only_tables", "append_only_triggers",
    "assert_append_only", "has_append_only_triggers",
    "UsageRecordRow", "QuarantineRow",
    "PartyRow", "PartyKeyRow", "AgreementRow", "TariffRow", "SignatureRow", "PriceRuleRow", "DiscountRow",
    "ProjectTermsRow", "OrderRow", "OrderPriceRow", "OrderItemRow", "AllocationRow", "AllocationEventRow",
    "OpeningRow", "OpeningEventRow", "OrderCancellationRow", "OrderCancellationDecisionRow",
    "DepositRefundRow", "DepositRefundDecisionRow",
    "AccountRow", "JournalEntryRow", "PostingRow", "ChargeRow", "ChargeReversalRow", "BalanceRow", "HoldRow",
    "PeriodRow", "PeriodEventRow", "TierCountRow", "AccrualRow", "AccrualReversalRow",
    "ClearingRow", "ClearingDecisionRow",
    "PaymentRow", "PaymentAllocationRow", "AdjustmentRow", "AdjustmentDecisionRow", "VoucherRow", "VoucherUseRow",
    "BudgetRow", "BudgetAlertRow",
    "LegalEntityRow", "ProjectPayerRow", "TaxRuleRow", "DocumentSeriesRow", "BillingDocumentRow", "BillingItemRow",
    "DisputeRow", "DisputeEventRow", "BankTransactionRow", "InvoicePaymentRow",
    "OutboxRow", "LeafRow", "NodeRow", "CheckpointRow", "CosignatureRow", "SigningKeyRow", "PersonKeyRow",
    "StatementRow", "StatementSignatureRow", "StatementLineRow", "StatementProblemRow",
    "ReconciliationRow", "BreakRow", "BreakEventRow", "ComparisonStageRow",
    "FxRateRow", "SettlementRow", "SettlementItemRow", "SettlementSignatureRow", "SettlementEndRow",
    "SettlementPaymentRow",
    "TopUpReceiptRow", "ConfirmedPartRow", "MeterAlarmRow", "LogOriginRow",
    "AdjustmentItemRow", "DiscountEndRow", "StatementArrivalRow", "TopUpUndoRow", "TopUpUndoDecisionRow",
    "CreditOverlapRow", "CreditedRunRow", "QuarantineRereadRow", "ConsentRow", "ConsentDecisionRow",
]  # fmt: skip
