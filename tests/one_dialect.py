"""Statements are compiled once a process, not once a test: its engines share what SQLAlchemy remembers of them."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Dialect, Engine, create_engine, event

# By kind of database: the dialect of the first engine that connected, by which statements are remembered; those.
_DIALECTS: dict[str, Dialect] = {}
_STATEMENTS: dict[Any, Any] = {}


def of_one_dialect(url: str, **options: Any) -> Engine:
    """What `create_engine` makes; all engines of a kind of database compile a statement once, as those of a service do.

    It is more than a third of a short test's time.
    """
    engine = create_engine(url, **options)
    kind = engine.dialect.name
    engine.update_execution_options(compiled_cache=_STATEMENTS)
    if kind in _DIALECTS:
        engine.dialect = _DIALECTS[kind]
    else:
        event.listen(engine, "engine_connect", lambda _: _DIALECTS.setdefault(kind, engine.dialect), once=True)
    return engine
