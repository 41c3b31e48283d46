"""People: who am I, tokens, site accounts, users."""

from __future__ import annotations

from datetime import timedelta

from fastapi import APIRouter
from sqlalchemy import select
from starlette.responses import Response

from gateway.api.context import Admin, Body, Svc, Who, json_bytes, read
from gateway.api.schemas import LinkIn, TokenIn, UserIn
from gateway.errors import Forbidden, NotFound, SiteClosedError
from gateway.identity import service, tokens
from gateway.identity.access import Person, Verb, can
from gateway.identity.keys import load_or_create
from gateway.identity.service import ACCOUNTS
from gateway.identity.tokens import TOKENS
from gateway.jobs import views

router = APIRouter(tags=["people"])


def _json(value: object, status: int = 200) -> Response:
    return Response(json_bytes(value), status, media_type="application/json")


def _own(person: Person) -> None:
    if not can(person, Verb.OWN_ACCOUNTS):
        raise Forbidden("This token may only read.", remedy="Use a token with the submit scope.")


@router.get("/whoami")
def whoami(person: Who) -> Response:
    """Who this token speaks for, and what it may do."""
    return _json({"id": person.user_id, "name": person.name, "operator_admin": person.operator_admin,
                  "scopes": sorted(person.scopes), "projects": dict(person.roles),
                  "staff_of": sorted(person.staff_of)})  # fmt: skip


@router.get("/tokens")
def list_tokens(services: Svc, person: Who) -> Response:
    """My tokens, without their secrets."""
    with services.db.read() as conn:
        rows = conn.execute(select(TOKENS).where(TOKENS.c.user_id == person.user_id).order_by(TOKENS.c.id)).all()
    items = [{"id": r.id, "name": r.name, "scopes": r.scopes.split(), "created_at": views.stamp(r.created_at),
              "expires_at": views.stamp(r.expires_at), "revoked_at": views.stamp(r.revoked_at)}
             for r in rows]  # fmt: skip
    return _json({"items": items})


@router.post("/tokens", status_code=201)
def issue_token(services: Svc, person: Who, body: Body) -> Response:
    """A new token for myself; its secret is shown this once. It can do no more than the one in hand."""
    _own(person)
    wanted = read(TokenIn, body)
    if not set(wanted.scopes) <= person.scopes:
        raise Forbidden("A token cannot make one that may do more.", remedy="Ask for fewer scopes.")
    with services.db.write() as conn:
        made = tokens.issue(conn, user_id=person.user_id, name=wanted.name, scopes=wanted.scopes,
                            lifetime=timedelta(days=wanted.lifetime_days), now=services.clock())  # fmt: skip
    return _json({"id": made.id, "token": made.secret, "expires_at": views.stamp(made.expires_at)}, 201)


@router.delete("/tokens/{token_id}", status_code=204)
def revoke_token(services: Svc, person: Who, token_id: str) -> Response:
    """End a token of mine, everywhere within a second."""
    _own(person)
    with services.db.write() as conn:
        if not tokens.revoke(conn, token_id=token_id, user_id=person.user_id, now=services.clock()):
            raise NotFound(f"You have no live token {token_id!r}.")
    return Response(status_code=204)


@router.get("/site-accounts")
def list_accounts(services: Svc, person: Who) -> Response:
    """My logins at the centres."""
    with services.db.read() as conn:
        query = select(ACCOUNTS).where(ACCOUNTS.c.user_id == person.user_id).order_by(ACCOUNTS.c.site_id)
        rows = conn.execute(query).all()
    return _json({"items": [{"id": r.id, "site": r.site_id, "username": r.username, "status": r.status,
                             "public_key": r.public_key, "verified_at": views.stamp(r.verified_at),
                             "permission_model": r.permission_model, "last_error": r.last_error}
                            for r in rows]})  # fmt: skip


@router.post("/site-accounts", status_code=201)
def link_account(services: Svc, person: Who, body: Body) -> Response:
    """Claim a login one already has: install the key at the centre, then verify."""
    _own(person)
    wanted = read(LinkIn, body)
    adapter = services.sites.get(wanted.site)
    if adapter is None:
        raise NotFound(f"There is no site {wanted.site!r}.")
    if adapter.closed_reason is not None:
        raise SiteClosedError(adapter.closed_reason)
    master = load_or_create(services.settings.effective_master_key_file)
    with services.db.write() as conn:
        made = service.link_account(conn, adapter, master, user_id=person.user_id, username=wanted.username,
                                    private_key=wanted.private_key, now=services.clock())  # fmt: skip
    return _json({"id": made.account_id, "public_key": made.public_key, "status": "pending",
                  "next": f"Add the key to ~/.ssh/authorized_keys at {wanted.site}, then verify."}, 201)  # fmt: skip


@router.post("/site-accounts/{account_id}/verify")
def verify_account(services: Svc, person: Who, account_id: str) -> Response:
    """Prove a claim: the gateway logs in with the key."""
    _own(person)
    service.verify_account(services, account_id=account_id, user_id=person.user_id, now=services.clock())
    return list_accounts(services, person)


@router.post("/users", status_code=201)
def create_user(services: Svc, _admin: Admin, body: Body) -> Response:
    """A new person (operator)."""
    wanted = read(UserIn, body)
    with services.db.write() as conn:
        user_id = service.create_user(conn, name=wanted.name, operator_admin=wanted.operator_admin,
                                      display=wanted.display_name, now=services.clock())  # fmt: skip
    return _json({"id": user_id, "name": wanted.name}, 201)
