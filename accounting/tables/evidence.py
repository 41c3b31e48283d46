"""The tables of the evidence. Leaves, hashes, checkpoints and cosignatures are appended only."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import BigInteger, Index, Integer, LargeBinary, String, Text, UniqueConstraint, text
from sqlalchemy.orm import Mapped, mapped_column

from accounting.tables.base import HISTORY, Base, Id, UtcTime


class OutboxRow(Base):
    """Something that will be a leaf: written with the thing itself, taken away when its leaf is there.

    `body` is what the leaf says (canonical JSON); None for an entry, whose leaf is made from the books.
    """

    __tablename__ = "evidence_outbox"
    # A document is looked up before it is put in; among a million entries that wait, each look would be a walk.
    __table_args__ = (
        Index("ix_evidence_outbox_document", "kind", "ref", sqlite_where=text("body IS NOT NULL"),
              postgresql_where=text("body IS NOT NULL")),
    )  # fmt: skip

    id: Mapped[int] = mapped_column(Id, primary_key=True, autoincrement=True)
    kind: Mapped[str] = mapped_column(String(16))
    ref: Mapped[str] = mapped_column(String(200))
    body: Mapped[str | None] = mapped_column(Text)


class LeafRow(Base):
    """Leaf number `seq`: the exact text that was hashed, so that later versions of this code change no proof."""

    __tablename__ = "evidence_leaf"
    __table_args__ = (UniqueConstraint("kind", "ref", name="uq_evidence_leaf_thing"), HISTORY)

    seq: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    kind: Mapped[str] = mapped_column(String(16))
    ref: Mapped[str] = mapped_column(String(200))
    payload: Mapped[str] = mapped_column(Text)
    leaf_hash: Mapped[bytes] = mapped_column(LargeBinary(32))


class NodeRow(Base):
    """The hash over 256^level leaves from `idx` × 256^level on, there when they all are."""

    __tablename__ = "evidence_node"
    __table_args__ = HISTORY

    level: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=False)
    idx: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    hash: Mapped[bytes] = mapped_column(LargeBinary(32))


class CheckpointRow(Base):
    """A signed note of a size of the log (C2SP tlog-checkpoint)."""

    __tablename__ = "evidence_checkpoint"
    __table_args__ = HISTORY

    size: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    note: Mapped[str] = mapped_column(Text)
    made_at: Mapped[datetime] = mapped_column(UtcTime)


class CosignatureRow(Base):
    """A witness's line under a checkpoint (C2SP tlog-cosignature)."""

    __tablename__ = "evidence_cosignature"
    __table_args__ = HISTORY

    size: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    key_id: Mapped[str] = mapped_column(String(32), primary_key=True)
    line: Mapped[str] = mapped_column(Text)
    received_at: Mapped[datetime] = mapped_column(UtcTime)


class SigningKeyRow(Base):
    """A private key of the operator (`sealed` under the master key), or the public one of a witness.

    `purpose`: `log` and `statement` are the operator's; `witness` is a centre's (`owner`: its site's id). The keys that
    organisations sign documents with are in `party_key` (docs/keys.md). `name`: under which it signs. A key ends by
    `valid_to`; what it signed before stays signed.
    """

    __tablename__ = "signing_key"
    __table_args__ = (Index("ix_signing_key_owner", "owner", "purpose"),)

    id: Mapped[str] = mapped_column(String(32), primary_key=True)
    owner: Mapped[str] = mapped_column(String(32))
    purpose: Mapped[str] = mapped_column(String(16))
    name: Mapped[str] = mapped_column(String(200))
    did: Mapped[str] = mapped_column(String(200))
    public: Mapped[bytes] = mapped_column(LargeBinary(32))
    sealed: Mapped[bytes | None] = mapped_column(LargeBinary)
    valid_from: Mapped[datetime] = mapped_column(UtcTime)
    valid_to: Mapped[datetime | None] = mapped_column(UtcTime)


class PersonKeyRow(Base):
    """The data key of one person; `sealed` None: erased, and with it what their raw records said of them."""

    __tablename__ = "person_key"

    person: Mapped[str] = mapped_column(String(64), primary_key=True)
    sealed: Mapped[bytes | None] = mapped_column(LargeBinary)
    made_at: Mapped[datetime] = mapped_column(UtcTime)
    erased_at: Mapped[datetime | None] = mapped_column(UtcTime)
