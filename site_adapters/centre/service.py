"""The desk as an HTTP service: one POST for each verb, OpenAPI, a page with the load that we cause."""

from __future__ import annotations

import asyncio
import base64
import hmac
import html
import json
from collections.abc import Callable
from typing import Any

from pydantic import TypeAdapter
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route

from site_adapters.centre.desk import Desk
from site_adapters.errors import CredentialRefused
from site_adapters.if2 import tokens
from site_adapters.if2.codec import Malformed, encode
from site_adapters.if2.profile import VERSIONS, LoadReport
from site_adapters.if2.verbs import VERBS
from site_adapters.if2.wire import BODY_BYTES_MAX, PREFIX, SIGNATURE

# A proxy between both sides cuts what is silent for a minute: after this the caller is told to ask again by its id.
HOLD_S = 20.0


def create_app(desk: Desk, load: Callable[[], LoadReport], password: str) -> Starlette:
    """The application; it reads nothing from the environment. The load names people: it asks for `password`."""

    async def call(request: Request) -> Response:
        name = f"{request.path_params['interface']}.{request.path_params['method']}"
        body = await _body(request)
        if body is None:
            return _problem(413, f"more than {BODY_BYTES_MAX} bytes")
        try:
            pending = await run_in_threadpool(desk.take, _bearer(request), body)
        except CredentialRefused as exc:
            return _problem(401, str(exc))
        except Malformed as exc:
            return _problem(400, str(exc))
        if name not in VERBS:
            return _problem(404, f"there is no verb {name}")
        try:
            answer = await asyncio.wait_for(asyncio.shield(asyncio.wrap_future(pending.answer)), HOLD_S)
        except TimeoutError:
            return JSONResponse({"id": pending.id, "running": True}, 202)
        token = await run_in_threadpool(desk.sign, pending, answer)
        return Response(answer, media_type="application/json", headers={SIGNATURE: token})

    async def versions(_request: Request) -> Response:
        return JSONResponse({"site": desk.site, "versions": list(VERSIONS)})

    async def openapi(_request: Request) -> Response:
        return JSONResponse(await run_in_threadpool(openapi_document, desk.site))

    async def load_json(request: Request) -> Response:
        if not _is_staff(request, password):
            return _ask_for_password()
        report = await run_in_threadpool(load)
        return JSONResponse(encode(LoadReport, report))

    async def load_page(request: Request) -> Response:
        if not _is_staff(request, password):
            return _ask_for_password()
        return HTMLResponse(page(desk.site, await run_in_threadpool(load)))

    return Starlette(routes=[
        Route(PREFIX + "/{interface}/{method}", call, methods=["POST"]), Route("/if2/versions", versions),
        Route("/if2/openapi.json", openapi), Route("/load.json", load_json), Route("/", load_page),
    ])  # fmt: skip


async def _body(request: Request) -> bytes | None:
    parts, size = [], 0
    async for part in request.stream():
        size += len(part)
        if size > BODY_BYTES_MAX:
            return None
        parts.append(part)
    return b"".join(parts)


def _bearer(request: Request) -> str:
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    return token.strip() if scheme.lower() == "bearer" else ""


def _is_staff(request: Request, password: str) -> bool:
    """Basic authentication, which browsers ask for by themselves; the user name is of no account."""
    scheme, _, coded = request.headers.get("authorization", "").partition(" ")
    try:
        given = base64.b64decode(coded.strip(), validate=True).partition(b":")[2]
    except ValueError:
        return False
    return scheme.lower() == "basic" and password != "" and hmac.compare_digest(given, password.encode())


def _ask_for_password() -> Response:
    answer = _problem(401, "penstock-site page-password prints the password of this page")
    answer.headers["WWW-Authenticate"] = 'Basic realm="Penstock at this centre", charset="UTF-8"'
    return answer


def _problem(status: int, detail: str) -> Response:
    return JSONResponse({"status": status, "detail": detail}, status, media_type="application/problem+json")


# ---------------------------------------------------------------- OpenAPI


def openapi_document(site: str) -> dict[str, Any]:
    """OpenAPI 3.1 of this service, made from the same table that serves it."""
    schemas: dict[str, Any] = {}
    paths = {}
    for verb in VERBS.values():
        interface, _, method = verb.name.partition(".")
        args = {name: _schema(kind, schemas) for name, kind in verb.types.items()}
        call = {
            "type": "object", "required": ["id", "verb", "args", "deadline_s"], "additionalProperties": False,
            "properties": {
                "id": {"type": "string", "minLength": 8, "maxLength": 64}, "verb": {"const": verb.name},
                "deadline_s": {"type": "number"},
                "args": {"type": "object", "properties": args, "required": sorted(verb.needed),
                         "additionalProperties": False},
            },
        }  # fmt: skip
        error = {"$ref": "#/components/schemas/SiteError"}
        value = _schema(verb.answer_type, schemas)
        answer = {"type": "object", "properties": {"id": {"type": "string"}, "value": value, "error": error}}
        paths[f"{PREFIX}/{interface}/{method}"] = {"post": {
            "operationId": verb.name, "tags": [interface], "summary": verb.says[:120], "description": verb.says,
            "security": [{"token": []}],
            "requestBody": {"required": True, "content": {"application/json": {"schema": call}}},
            "responses": {
                "200": {"description": "The answer", "content": {"application/json": {"schema": answer}}},
                "202": {"description": "It still runs: ask again with the same id"},
                "400": {"description": "The call cannot be read"}, "401": {"description": "The token is not good"},
            },
        }}  # fmt: skip
    schemas["SiteError"] = {"type": "object", "required": ["class", "message"], "properties": {
        "class": {"type": "string"}, "message": {"type": "string"}, "native_text": {"type": "string"},
        "code": {"type": "string"}}}  # fmt: skip
    info = {"title": f"IF2 of {site}", "version": "1", "description": tokens.__doc__}
    security = {"token": {"type": "http", "scheme": "bearer", "bearerFormat": "JWT"}}
    return {"openapi": "3.1.0", "info": info, "paths": paths,
            "components": {"schemas": schemas, "securitySchemes": security}}  # fmt: skip


def _schema(kind: Any, schemas: dict[str, Any]) -> dict[str, Any]:
    if kind is type(None):
        return {"type": "null"}
    found = TypeAdapter(kind).json_schema(ref_template="#/components/schemas/{model}")
    schemas.update(found.pop("$defs", {}))
    return dict(found)


# ---------------------------------------------------------------- page


def page(site: str, report: LoadReport) -> str:
    """The load we cause, beside what is allowed, for the centre's staff; plain HTML without scripts."""
    policy = report.policy
    rows = [
        ("Jobs of ours", report.places, policy.queued_jobs_max), ("Cores", report.cores, policy.cores_in_use_max),
        ("Nodes", report.nodes, policy.nodes_in_use_max),
        ("Submissions in the last minute", report.submits_last_minute, policy.submits_per_minute),
        ("Calls in the last minute", report.calls_last_minute, policy.calls_per_minute),
        ("Core-hours used", report.share_used_core_seconds // 3600,
         None if report.share_core_seconds is None else report.share_core_seconds // 3600),
    ]  # fmt: skip
    body = "".join(f"<tr><th scope=row>{w}<td>{n}<td>{'no limit' if m is None else m}" for w, n, m in rows)
    people = "".join(f"<tr><td>{html.escape(p.person)}<td>{p.jobs}<td>{p.cores}" for p in report.people)
    refused = html.escape(json.dumps(dict(report.refused_last_hour))) if report.refused_last_hour else "nothing"
    stopped = f"<p><strong>Stopped: {html.escape(report.stopped)}</strong>" if report.stopped else ""
    return (
        f"<!doctype html><html lang=en><meta charset=utf-8><title>Penstock at {html.escape(site)}</title>"
        "<style>body{font:16px/1.5 system-ui;margin:2rem;max-width:50rem}td,th{padding:.2rem .8rem;text-align:left}"
        "</style>"
        f"<h1>Penstock at {html.escape(site)}</h1>{stopped}<p>As of {report.at:%Y-%m-%d %H:%M:%S} UTC."
        f"<table><thead><tr><th>What<th>Now<th>Allowed<tbody>{body}</table>"
        f"<h2>By person</h2><table><thead><tr><th>Person<th>Jobs<th>Cores<tbody>{people}</table>"
        f"<p>Turned away in the last hour: {refused}"
    )
