"""What goes out about the evidence log and settlements."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from gateway.api.answers import _Out


class LogStatus(_Out):
    """The log of the books: `waiting` things were booked and are no leaves yet."""

    origin: str
    size: int
    waiting: int
    checkpoint: int | None = Field(description="The size that was signed last")
    vkey: str | None


class SigningKey(_Out):
    """A key that signs: the log's, a witness's, or one for statements."""

    id: str
    owner: str
    purpose: Literal["log", "witness", "statement"]
    name: str
    did: str
    public: str
    vkey: str | None = Field(description="The key as C2SP tools take it")
    valid_from: str
    valid_to: str | None


class SigningKeys(_Out):
    items: list[SigningKey]


class Consistency(_Out):
    """RFC 6962, section 2.1.2: hashes in base64."""

    old: int
    new: int
    hashes: list[str]


class Inclusion(_Out):
    """A leaf, and its path to the root of `size` leaves (RFC 6962, section 2.1.1); hashes in base64."""

    kind: str
    ref: str
    seq: int
    size: int
    leaf: str = Field(description="The exact text that was hashed")
    leaf_hash: str
    path: list[str]


class CheckpointOut(_Out):
    """A checkpoint with every cosignature."""

    size: int
    note: str
    made_at: str


class Erased(_Out):
    """What raw records said of this person can be read no more; every proof still holds."""

    user: str
    erased: bool


class Settlement(_Out):
    """A statement to a centre: drawn, agreed (both signed) or withdrawn. Amounts are decimal strings."""

    id: str
    centre: str
    centre_name: str = Field("", description="Its legal name, where one is shown or listed")
    state: Literal["drawn", "agreed", "withdrawn"]
    reason: str
    revision: int
    period_from: str = Field(alias="from")
    to: str
    zone: str = Field(description="Whose days and months the agreement keeps")
    currency: str
    earned: str = Field(description="What payers owe and the operator bears, for this period and late corrections")
    centre_share: str
    tax: str
    fees: str
    withheld: str
    net: str
    carried_before: str = Field(description="Less than a coin, which the statement before did not pay: it is due now")
    carried: str = Field(description="Less than a coin, which this one does not pay: the next takes it up")
    pay: str = Field(description="What is due, in whole coins of the currency of payment")
    pay_currency: str
    opening: str
    closing: str
    paid: str
    disputed: int = Field(description="Entries that are held back and carried forward")
    entries: int
    sha256: str
    signed_by: list[str]
    drawn_at: str


class Settlements(_Out):
    items: list[Settlement]


class SignedStatement(Settlement):
    """With the statement as it is signed, both JWS, and the keys that they name."""

    statement: dict[str, Any]
    signatures: dict[str, str]
    keys: dict[str, str]


class FxRate(_Out):
    """A dated exchange rate."""

    base: str
    quote: str
    day: str
    num: int
    den: int
    source: str
