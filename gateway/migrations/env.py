"""Alembic's environment: the connection comes from the caller, the tables from both metadatas."""

from __future__ import annotations

from alembic import context

from accounting.tables import metadata as accounting_metadata
from gateway.db import Base
from gateway.identity import tables as _identity
from gateway.jobs import tables as _jobs
from gateway.notices import tables as _notices

assert _identity and _jobs and _notices  # imported for their tables

connection = context.config.attributes["connection"]
context.configure(
    connection=connection,
    target_metadata=[Base.metadata, accounting_metadata],
    render_as_batch=connection.dialect.name == "sqlite",
    compare_type=True,
)
with context.begin_transaction():
    context.run_migrations()
