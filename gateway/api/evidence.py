"""Evidence: checkpoints, proofs, witnesses, bundles for the independent verifier."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Annotated, Any

from fastapi import APIRouter, Query
from sqlalchemy import Connection, or_, select
from starlette.responses import Response, StreamingResponse

from accounting.evidence import log
from accounting.evidence.about import About
from gateway.api import describe, proof_answers
from gateway.api.context import Admin, Body, IdemHeader, Svc, Who, Word, answer, read
from gateway.api.idempotency import Once
from gateway.api.schemas import CosignatureIn, ErasureIn, Instant, KeyIn
from gateway.billing import evidence, proofs
from gateway.errors import Conflict, Invalid, NotFound, Problem
from gateway.identity import service, vault
from gateway.identity.service import PROJECTS
from gateway.jobs import views

router = APIRouter(prefix="/evidence", tags=["evidence"])

At = Annotated[Instant | None, Query()]
Size = Annotated[int | None, Query(ge=0, le=2**62, description="A number of leaves; without it the newest checkpoint")]


@router.get("/log", **describe.route(proof_answers.LogStatus))
def status(services: Svc, _person: Who) -> Response:
    """How far the log is."""
    with services.db.read() as conn:
        name = evidence.origin(services, conn)
        newest = log.checkpoint(conn)
        key = next((k for k in evidence.known_keys(conn, purpose="log") if k.name == name), None)
        return answer({
            "origin": name, "size": log.tree_size(conn), "waiting": log.waiting(conn),
            "checkpoint": None if newest is None else newest.size, "vkey": None if key is None else key.verifier.vkey,
        })  # fmt: skip


@router.get("/checkpoint", **describe.route("text/plain", refuses=(404,)))
def checkpoint(services: Svc, _person: Who, size: Size = None) -> Response:
    """The newest checkpoint (C2SP signed note) with its cosignatures, or the one of a size."""
    with services.db.read() as conn:
        return Response(proofs.newest(conn, size).note, media_type="text/plain; charset=utf-8")


@router.get("/consistency", **describe.route(proof_answers.Consistency, refuses=(404, 422)))
def consistency(services: Svc, _person: Who, old: Annotated[int, Query(ge=0, le=2**62)], new: Size = None) -> Response:
    """The proof that the tree of `old` leaves is the beginning of a newer one."""
    with services.db.read() as conn:
        return answer(proofs.consistency(conn, old, new))


@router.get("/proof", **describe.route(proof_answers.Inclusion, refuses=(404, 409)))
def proof(services: Svc, person: Who, kind: Word, ref: Word, size: Size = None) -> Response:
    """A leaf that I may see (`kind=entry&ref=<journal entry>`) with its path to the signed root."""
    with services.db.read() as conn:
        return answer(proofs.inclusion(conn, person, kind, ref, size))


@router.get("/tile/{path:path}", **describe.route("application/octet-stream", refuses=(404,)))
def tile(services: Svc, _person: Who, path: Word) -> Response:
    """Hashes of the tree by C2SP tlog-tiles paths: `<L>/<N>[.p/<W>]`."""
    with services.db.read() as conn:
        return Response(proofs.tile(conn, path), media_type="application/octet-stream")


@router.get("/bundle", **describe.route("application/x-ndjson", refuses=(403, 404, 409, 422)))
def bundle(
    services: Svc, person: Who, since: At = None, until: At = None,
    project: Word | None = None, site: Word | None = None, payer: Word | None = None, invoice: Word | None = None,
    seen: Size = None, disclose: bool = False,
) -> Response:  # fmt: skip
    """All that the independent verifier needs about a period: what ended in [since, until) of a project or a site; with
    `payer` the documents that bill that time; with `invoice` that one (and its credit notes), whenever it was.

    `seen`: the size of a checkpoint that one has kept, so that the bundle leads on from it.
    """
    if invoice is not None:
        since = until = datetime.now(UTC)  # the document knows its own
    elif since is None or until is None or since >= until:
        problem = Problem("/until", "Two times with their zone, the later one last.", "invalid", "2026-11-01T00:00:00Z")
        raise Invalid("The period cannot be read.", problems=(problem,))
    with services.db.read() as conn:
        project_id = None if project is None else _project_id(conn, project)
    about = About(since, until, project_id, site, payer_id=payer, document=invoice)
    wanted = proofs.Wanted(about, seen, disclose)
    proofs.assert_may_have(services, person, wanted)
    lines = proofs.lines(services, wanted, services.clock())
    return StreamingResponse(lines, media_type="application/x-ndjson")


# ---------------------------------------------------------------- keys, witnesses, persons


@router.get("/keys", **describe.route(proof_answers.SigningKeys))
def list_keys(services: Svc, _person: Who) -> Response:
    """The log's, the operator's and the witnesses' keys, also those that have ended; parties have their own."""
    with services.db.read() as conn:
        return answer({"items": [proofs.key_json(k) for k in evidence.known_keys(conn)]})


@router.post("/keys", **describe.route(proof_answers.SigningKey, status=201, body=KeyIn, refuses=(403, 409, 422)))
def add_key(services: Svc, admin: Admin, body: Body, idempotency_key: IdemHeader = None) -> Response:
    """Learn the key by which a centre cosigns checkpoints (operator); what it signs documents with goes to /parties."""
    wanted = read(KeyIn, body)
    if wanted.owner not in services.sites:
        problem = Problem("/owner", f"There is no site {wanted.owner!r}.", "unknown", "Name a site of the centre's.")
        raise Invalid("Whose key?", problems=(problem,))

    def make(conn: Connection) -> Mapping[str, Any]:
        public = base64.b64decode(wanted.public)
        if any(k.public == public for k in evidence.known_keys(conn)):
            raise Conflict("That key is known already.", remedy="Each purpose has a key of its own.")
        made = evidence.register_key(conn, owner=wanted.owner, purpose=wanted.purpose, name=wanted.name,
                                     public=public, did=wanted.did, now=services.clock())  # fmt: skip
        return proofs.key_json(next(k for k in evidence.known_keys(conn) if k.id == made))

    return answer(Once.of(admin, idempotency_key, "POST /evidence/keys", body).made(services, make), 201)


@router.post("/keys/{key_id}/end", **describe.route(proof_answers.SigningKey, refuses=(403, 404)))
def end_key(services: Svc, _admin: Admin, key_id: Word) -> Response:
    """Take no more signatures of a key (operator); what it signed stays signed."""
    with services.db.write() as conn:
        if not evidence.end_key(conn, key_id, now=services.clock()):
            raise NotFound(f"There is no live key {key_id!r}.")
        return answer(proofs.key_json(next(k for k in evidence.known_keys(conn) if k.id == key_id)))


@router.post("/cosignatures", **describe.route(
    proof_answers.CheckpointOut, status=201, body=CosignatureIn, refuses=(403, 404, 422)
))  # fmt: skip
def cosign(services: Svc, person: Who, body: Body, idempotency_key: IdemHeader = None) -> Response:
    """Hand in a witness's line under a checkpoint (a centre's staff). Twice is once."""
    wanted = read(CosignatureIn, body)
    signed = proofs.keep_cosignature(services, person, wanted.size, wanted.line, services.clock())
    return answer({"size": signed.size, "note": signed.note, "made_at": views.stamp(signed.made_at)}, 201)


@router.post("/erasures", **describe.route(proof_answers.Erased, body=ErasureIn, refuses=(403, 404, 422)))
def erase(services: Svc, _admin: Admin, body: Body) -> Response:
    """Forget what raw records say of a person (operator). It cannot be undone; every proof still holds."""
    wanted = read(ErasureIn, body)
    with services.db.write() as conn:
        user_id = service.user_id_of(conn, wanted.user)
        return answer({"user": wanted.user, "erased": vault.erase(conn, user_id, now=services.clock())})


def _project_id(conn: Connection, name: str) -> str:
    found = conn.scalar(select(PROJECTS.c.id).where(or_(PROJECTS.c.name == name, PROJECTS.c.id == name)))
    return str(found) if found is not None else name
