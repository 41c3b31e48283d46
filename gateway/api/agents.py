"""The door for centres' agents: one WebSocket for each site; and a relay for workers that serve no HTTP."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from contextlib import suppress

import structlog
from fastapi import APIRouter, WebSocket, WebSocketDisconnect
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response

from gateway.hub import AgentLine
from gateway.services import Services
from site_adapters.errors import CredentialRefused, SiteError
from site_adapters.if2 import keys, tokens, wire
from site_adapters.if2.codec import Malformed
from site_adapters.if2.profile import VERSIONS
from site_adapters.if2.verbs import VERBS

log = structlog.get_logger()
router = APIRouter(include_in_schema=False)

# The other end is gone; Starlette says it by a RuntimeError where it had noticed before.
_LEFT = (WebSocketDisconnect, RuntimeError, OSError)
_REFUSED = 4401  # WebSocket close code: who dials is not the centre that it says it is


@router.websocket("/if2/agent")
async def agent(socket: WebSocket) -> None:
    """Serve one agent until it leaves: calls go out, answers come back, both signed."""
    services: Services = socket.app.state.services
    site, token = socket.headers.get("penstock-site", ""), socket.headers.get("authorization", "")
    line = services.hub.lines.get(site)
    try:
        if line is None:
            raise CredentialRefused(f"no site {site!r} is docked by an agent here")
        nonce = await run_in_threadpool(_centre, line, token.removeprefix("Bearer ").strip())
    except CredentialRefused as exc:
        log.warning("agent_refused", site=site, why=str(exc))
        with suppress(*_LEFT):
            await socket.accept()
            await socket.close(_REFUSED, str(exc)[:120])
        return
    with suppress(*_LEFT):
        await socket.accept()
        hello = json.dumps({"hello": site, "nonce": nonce, "versions": VERSIONS}).encode()
        await socket.send_text(f"{await run_in_threadpool(line.seal.sign, nonce, hello)}\n{hello.decode()}")
        await _serve(socket, line)


def _centre(line: AgentLine, token: str) -> str:
    """The nonce of an agent that has proved to be this site's."""
    claims = tokens.verify(token, line.seal.trust, audience=line.seal.dock.gateway, body=b"if2-agent")
    if claims.issuer != line.site:
        raise CredentialRefused("the token is another site's")
    return claims.about


async def _serve(socket: WebSocket, line: AgentLine) -> None:
    loop = asyncio.get_running_loop()
    outgoing: asyncio.Queue[str] = asyncio.Queue()

    def send(frame: str) -> None:
        if not loop.is_closed():
            loop.call_soon_threadsafe(outgoing.put_nowait, frame)

    try:
        first = json.loads(await socket.receive_text())
        window = int(first["window"])
    except (ValueError, KeyError, TypeError):
        return
    sender = asyncio.create_task(_send_all(socket, outgoing))
    log.info("agent_connected", site=line.site, software=str(first.get("software", ""))[:80])
    await run_in_threadpool(line.connected, send, window)
    try:
        await _receive_all(socket, line)
    finally:
        line.left(send)
        sender.cancel()
        log.info("agent_left", site=line.site)


async def _send_all(socket: WebSocket, outgoing: asyncio.Queue[str]) -> None:
    with suppress(*_LEFT):  # what was not sent is sent again to the next connection
        while True:
            await socket.send_text(await outgoing.get())


async def _receive_all(socket: WebSocket, line: AgentLine) -> None:
    with suppress(*_LEFT):
        while True:
            call_id, _, rest = (await socket.receive_text()).partition("\n")
            token, _, body = rest.partition("\n")
            line.answered(call_id, token, body.encode())


@router.post("/if2/relay/{site}" + wire.PREFIX + "/{interface}/{method}")
async def relay(request: Request, site: str, interface: str, method: str) -> Response:
    """A call of one of the gateway's own workers to the agent that is connected here; signed by the gateway's key."""
    services: Services = request.app.state.services
    line, verb = services.hub.lines.get(site), VERBS.get(f"{interface}.{method}")
    if line is None or verb is None:
        return Response(status_code=404)
    token, body = request.headers.get("authorization", "").removeprefix("Bearer ").strip(), await request.body()
    exchange: Callable[[], tuple[str, bytes]]
    try:
        call = wire.read_call(body)
        await run_in_threadpool(_ourselves, line, token, body)
        exchange = lambda: line.exchange(verb, call.id, lambda: f"{token}\n{body.decode()}", 50.0)  # noqa: E731
        signature, answer = await run_in_threadpool(exchange)
    except (CredentialRefused, Malformed) as exc:
        return Response(str(exc), 401)
    except SiteError as exc:
        return Response(str(exc), 503)
    return Response(answer, 200, {wire.SIGNATURE: signature}, "application/json")


def _ourselves(line: AgentLine, token: str, body: bytes) -> None:
    own = keys.load(line.seal.dock.key_file).public
    tokens.verify_with(token, own, audience=line.site, body=body)
