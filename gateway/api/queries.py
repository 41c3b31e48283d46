"""Refuse a query parameter that a route does not know: a mistyped filter would silently answer everything."""

from __future__ import annotations

from difflib import get_close_matches

from fastapi import Request
from fastapi.dependencies.models import Dependant
from fastapi.routing import APIRoute
from pydantic import BaseModel

from gateway.api.context import asking
from gateway.errors import Invalid, Problem


async def known_query(request: Request) -> None:
    """A dependency of every route under it; raises `Invalid` that names each unknown parameter and what is known."""
    if not request.scope.get("query_string"):
        return
    known = names_known(request.scope["route"])
    unknown = [name for name in dict.fromkeys(request.query_params) if name not in known]
    if unknown:
        await asking(request, request.headers.get("authorization"))  # who has no token is told nothing but that
        problems = tuple(_problem(name, known) for name in unknown)
        raise Invalid(f"The query has {len(unknown)} problem{'s' * (len(unknown) > 1)}.", problems=problems)


def _problem(name: str, known: frozenset[str]) -> Problem:
    close = get_close_matches(name, known, 1, 0.5)
    remedy = f"Is it {close[0]!r}?" if close else f"It takes {', '.join(sorted(known)) or 'none'}."
    pointer = "/" + name.replace("~", "~0").replace("/", "~1")
    return Problem(pointer, f"There is no query parameter {name!r} here.", "unknown", remedy)


def names_known(route: APIRoute) -> frozenset[str]:
    """The names that a route and what it depends on read from the query."""
    return frozenset(_names(route.dependant))


def _names(dependant: Dependant) -> set[str]:
    found = set[str]()
    for field in dependant.query_params:
        kind = field.field_info.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            found |= {info.alias or name for name, info in kind.model_fields.items()}
        else:
            found.add(field.alias)
    for part in dependant.dependencies:
        found |= _names(part)
    return found
