"""Penstock's client: `Client` and `AsyncClient` submit jobs, follow them and read what they cost.

    from penstock import Client
    job = Client().submit(script="#!/bin/bash\\nhostname\\n", placement={"resource_ids": ["local"]})
    print(Client().wait(job.id).status.state)

Nothing heavy is imported before it is used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from penstock.aio import AsyncClient
    from penstock.api import Client
    from penstock.errors import PenstockError
    from penstock.models import Job

__version__ = "0.1.0"
__all__ = ["AsyncClient", "Client", "Job", "PenstockError", "__version__"]

_HOMES = {"Client": "api", "AsyncClient": "aio", "Job": "models", "PenstockError": "errors"}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'penstock' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"penstock.{_HOMES[name]}"), name)
