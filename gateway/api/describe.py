"""What the OpenAPI document says of a route: routes answer plain values, so that hot paths are not validated twice."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, TypedDict

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from gateway.api import (
    answers,
    billing_models,
    billing_schemas,
    order_schemas,
    payment_schemas,
    proof_answers,
    recon_schemas,
    schemas,
)

_MODULES = (
    answers,
    schemas,
    billing_schemas,
    billing_models,
    order_schemas,
    payment_schemas,
    proof_answers,
    recon_schemas,
)
_REF = "#/components/schemas/{model}"
_PROBLEM = {"application/problem+json": {"schema": {"$ref": _REF.format(model="Problem")}}}

_MEANS = {
    401: "No token, or one that is unknown, expired or revoked",
    402: "The project's credit does not cover the most this could cost",
    403: "Known, but not allowed",
    404: "Not there, or not yours to see",
    409: "The state does not allow this now",
    413: "The body is too large",
    422: "The request has problems: `errors` has all of them",
    429: "Too many requests: `Retry-After` says when to come back",
    504: "The site does not answer",
}


class Described(TypedDict):
    """Keywords of a FastAPI route."""

    status_code: int
    responses: dict[int | str, dict[str, Any]]
    openapi_extra: dict[str, Any] | None


def route(
    answer: type[BaseModel] | str | None = None,
    *,
    status: int = 200,
    body: type[BaseModel] | None = None,
    refuses: Iterable[int] = (),
) -> Described:
    """`answer`: the model of the answer, or the media type of one that is no JSON; `refuses`: beside 401 and 429."""
    codes = sorted({401, 429, *refuses})
    responses: dict[int | str, dict[str, Any]] = {
        code: {"description": _MEANS[code], "content": _PROBLEM} for code in codes
    }
    responses["default"] = {"description": "Any other refusal", "content": _PROBLEM}
    if isinstance(answer, str):
        responses[status] = {"description": "Done", "content": {answer: {"schema": {"type": "string"}}}}
    elif answer is not None:
        content = {"application/json": {"schema": {"$ref": _REF.format(model=answer.__name__)}}}
        responses[status] = {"description": (answer.__doc__ or "Done").splitlines()[0], "content": content}
    extra = None
    if body is not None:
        schema = {"$ref": _REF.format(model=body.__name__)}
        extra = {"requestBody": {"required": True, "content": {"application/json": {"schema": schema}}}}
    return {"status_code": status, "responses": responses, "openapi_extra": extra}


def install(app: FastAPI) -> None:
    """Let the application's document contain every model that `route` refers to, and how one logs in."""

    def document() -> dict[str, Any]:
        if app.openapi_schema is None:
            app.openapi_schema = _document(app)
        return app.openapi_schema

    app.openapi = document  # type: ignore[method-assign]


def _document(app: FastAPI) -> dict[str, Any]:
    found = get_openapi(title=app.title, version=app.version, description=app.description, routes=app.routes)
    components = found.setdefault("components", {})
    known = components.setdefault("schemas", {})
    known.update(_schemas())
    components["securitySchemes"] = {
        "token": {"type": "http", "scheme": "bearer", "description": "A personal token (`pst_…`)"}
    }
    for path, methods in found["paths"].items():
        if path.rpartition("/")[2] in ("healthz", "metrics"):
            continue
        for operation in methods.values():
            operation["security"] = [{"token": []}]
            # The header is what `security` says, in other words.
            named = [p for p in operation.get("parameters", []) if p["name"].lower() != "authorization"]
            operation["parameters"] = named
    return found


def _schemas() -> dict[str, Any]:
    models = [
        model
        for module in _MODULES
        for name, model in vars(module).items()
        if isinstance(model, type) and issubclass(model, BaseModel) and model.__module__ == module.__name__
        and not name.startswith("_")
    ]  # fmt: skip
    _, made = models_json_schema([(model, "validation") for model in models], ref_template=_REF)
    definitions: dict[str, Any] = made["$defs"]
    return definitions
