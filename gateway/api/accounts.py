"""People: who am I, tokens, site accounts, users."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from typing import Any

from fastapi import APIRouter
from sqlalchemy import Connection, select
from starlette.responses import Response

from gateway.api import answers, describe
from gateway.api.context import Admin, Body, IdemHeader, Svc, Who, Word, answer, read
from gateway.api.idempotency import Once
from gateway.api.schemas import LinkIn, MailIn, TokenIn, UserIn
from gateway.errors import Forbidden, NotFound, SiteClosedError
from gateway.identity import service, tokens
from gateway.identity.access import Person, Verb, can
from gateway.identity.keys import MasterKey, load_or_create
from gateway.identity.service import ACCOUNTS, USERS
from gateway.identity.tokens import TOKENS
from gateway.jobs import views
from gateway.notices import addresses
from gateway.services import Services
from site_adapters.interfaces import SiteAdapter

router = APIRouter(tags=["people"])


@router.get("/whoami", **describe.route(answers.Whoami))
def whoami(person: Who) -> Response:
    """Who this token speaks for, and what it may do."""
    return answer({
        "id": person.user_id, "name": person.name, "operator_admin": person.operator_admin,
        "scopes": sorted(person.scopes), "projects": dict(person.roles), "staff_of": sorted(person.staff_of),
    })  # fmt: skip


@router.get("/whoami/mail", **describe.route(answers.MailAddress))
def mail_address(services: Svc, person: Who) -> Response:
    """Where I am told of my projects' budgets; null: nowhere."""
    with services.db.read() as conn:
        return answer({"address": addresses.address_of(conn, person.user_id)})


@router.put("/whoami/mail", **describe.route(answers.MailAddress, body=MailIn, refuses=(403, 422)))
def set_mail_address(services: Svc, person: Who, body: Body) -> Response:
    """Where I want to be told."""
    _own(person)
    wanted = read(MailIn, body)
    with services.db.write() as conn:
        addresses.set_address(conn, person.user_id, wanted.address, now=services.clock())
    return answer({"address": wanted.address})


@router.delete("/whoami/mail", **describe.route(status=204, refuses=(403,)))
def forget_mail_address(services: Svc, person: Who) -> Response:
    """Tell me no more."""
    _own(person)
    with services.db.write() as conn:
        addresses.forget_address(conn, person.user_id)
    return Response(status_code=204)


# ---------------------------------------------------------------- tokens


@router.get("/tokens", **describe.route(answers.Tokens))
def list_tokens(services: Svc, person: Who) -> Response:
    """My tokens, without their secrets."""
    with services.db.read() as conn:
        rows = conn.execute(select(TOKENS).where(TOKENS.c.user_id == person.user_id).order_by(TOKENS.c.id)).all()
    return answer({"items": [_token(row) for row in rows]})


@router.post("/tokens", **describe.route(answers.NewToken, status=201, body=TokenIn, refuses=(403, 409, 422)))
def issue_token(services: Svc, person: Who, body: Body, idempotency_key: IdemHeader = None) -> Response:
    """A new token for myself; its secret is shown this once. It can do no more than the one in hand."""
    _own(person)
    wanted = read(TokenIn, body)
    if not set(wanted.scopes) <= person.scopes:
        raise Forbidden("A token cannot make one that may do more.", remedy="Ask for fewer scopes.")
    once = Once.of(person, idempotency_key, "POST /tokens", body)
    made = once.made(services, lambda conn: _issued(services, conn, person.user_id, wanted), seal=_master(services))
    return answer(made, 201)


@router.delete("/tokens/{token_id}", **describe.route(status=204, refuses=(403, 404)))
def revoke_token(services: Svc, person: Who, token_id: Word) -> Response:
    """End a token of mine, everywhere within a second."""
    _own(person)
    with services.db.write() as conn:
        if not tokens.revoke(conn, token_id=token_id, user_id=person.user_id, now=services.clock()):
            raise NotFound(f"You have no live token {token_id!r}.")
    return Response(status_code=204)


# ---------------------------------------------------------------- site accounts


@router.get("/site-accounts", **describe.route(answers.SiteAccounts))
def list_accounts(services: Svc, person: Who) -> Response:
    """My logins at the centres."""
    return answer({"items": _accounts(services, person.user_id)})


@router.post("/site-accounts", **describe.route(
    answers.NewSiteAccount, status=201, body=LinkIn, refuses=(403, 404, 409, 422)
))  # fmt: skip
def link_account(services: Svc, person: Who, body: Body, idempotency_key: IdemHeader = None) -> Response:
    """Claim a login one already has: install the key at the centre, then verify.

    At a centre that is reached without a key nothing proves a claim: there only the operator links, for `user`.
    """
    _own(person)
    wanted = read(LinkIn, body)
    adapter = services.sites.get(wanted.site)
    if adapter is None:
        raise NotFound(f"There is no site {wanted.site!r}.")
    if adapter.closed_reason is not None:
        raise SiteClosedError(adapter.closed_reason)
    if (wanted.user is not None or not adapter.logins_by_key) and not can(person, Verb.OPERATE):
        remedy = f"Ask the operator to link {wanted.username} for you."
        raise Forbidden(f"Only the operator says whose a login at {wanted.site} is.", remedy=remedy)
    once = Once.of(person, idempotency_key, "POST /site-accounts", body)
    return answer(once.made(services, lambda conn: _linked(services, conn, person, adapter, wanted)), 201)


@router.post("/site-accounts/{account_id}/verify", include_in_schema=False)
@router.post("/site-accounts/{account_id}:verify", **describe.route(
    answers.SiteAccounts, refuses=(403, 404, 409, 504)
))  # fmt: skip
def verify_account(services: Svc, person: Who, account_id: Word) -> Response:
    """Prove a claim: the gateway logs in with the key. The operator may do it for everybody."""
    _own(person)
    with services.db.read() as conn:
        owner = conn.scalar(select(ACCOUNTS.c.user_id).where(ACCOUNTS.c.id == account_id))
    if owner is None or (owner != person.user_id and not can(person, Verb.OPERATE)):
        raise NotFound(f"You have no site account {account_id!r}.")
    service.verify_account(services, account_id=account_id, user_id=owner, now=services.clock())
    return answer({"items": _accounts(services, owner)})


@router.delete("/site-accounts/{account_id}", **describe.route(status=204, refuses=(403, 404)))
def suspend_account(services: Svc, person: Who, account_id: Word) -> Response:
    """Let the gateway use this login no more; its key is forgotten. The operator may do it for everybody."""
    _own(person)
    theirs = None if can(person, Verb.OPERATE) else person.user_id
    with services.db.write() as conn:
        service.suspend_account(conn, account_id=account_id, user_id=theirs)
    return Response(status_code=204)


# ---------------------------------------------------------------- users


@router.get("/users", **describe.route(answers.Users, refuses=(403,)))
def list_users(services: Svc, _admin: Admin) -> Response:
    """Everybody (operator)."""
    with services.db.read() as conn:
        rows = conn.execute(select(USERS).order_by(USERS.c.name)).all()
    return answer({"items": [_user(row) for row in rows]})


@router.post("/users", **describe.route(answers.User, status=201, body=UserIn, refuses=(403, 409, 422)))
def create_user(services: Svc, admin: Admin, body: Body, idempotency_key: IdemHeader = None) -> Response:
    """A new person (operator)."""
    wanted = read(UserIn, body)

    def make(conn: Connection) -> Mapping[str, Any]:
        user_id = service.create_user(conn, name=wanted.name, operator_admin=wanted.operator_admin,
                                      display=wanted.display_name, now=services.clock())  # fmt: skip
        return _user(conn.execute(select(USERS).where(USERS.c.id == user_id)).one())

    return answer(Once.of(admin, idempotency_key, "POST /users", body).made(services, make), 201)


@router.post("/users/{name}/tokens", **describe.route(
    answers.NewToken, status=201, body=TokenIn, refuses=(403, 404, 409, 422)
))  # fmt: skip
def issue_token_for(
    services: Svc, admin: Admin, name: Word, body: Body, idempotency_key: IdemHeader = None
) -> Response:
    """A first token for a person (operator); for another operator, and a centre's staff, it is made on the host alone:
    else one person could hold both pairs of eyes."""
    wanted = read(TokenIn, body)

    def make(conn: Connection) -> Mapping[str, Any]:
        user_id = service.user_id_of(conn, name)
        if user_id != admin.user_id and service.decides_beside(conn, user_id):
            raise Forbidden(f"{name} countersigns what an operator asks for: no operator may hold their token.",
                            remedy=f"On the gateway's host: python -m gateway admin token {name}")  # fmt: skip
        return _issued(services, conn, user_id, wanted)

    once = Once.of(admin, idempotency_key, f"POST /users/{name}/tokens", body)
    return answer(once.made(services, make, seal=_master(services)), 201)


@router.post("/users/{name}/suspend", **describe.route(answers.User, refuses=(403, 404)))
def suspend_user(services: Svc, _admin: Admin, name: Word) -> Response:
    """Shut a person out, everywhere within a second (operator)."""
    with services.db.write() as conn:
        user_id = service.user_id_of(conn, name)
        service.suspend_user(conn, user_id=user_id, now=services.clock())
        return answer(_user(conn.execute(select(USERS).where(USERS.c.id == user_id)).one()))


@router.post("/users/{name}/resume", **describe.route(answers.User, refuses=(403, 404)))
def resume_user(services: Svc, _admin: Admin, name: Word) -> Response:
    """Let a person in again (operator)."""
    with services.db.write() as conn:
        user_id = service.user_id_of(conn, name)
        service.resume_user(conn, user_id=user_id)
        return answer(_user(conn.execute(select(USERS).where(USERS.c.id == user_id)).one()))


# ---------------------------------------------------------------- parts


def _own(person: Person) -> None:
    if not can(person, Verb.OWN_ACCOUNTS):
        raise Forbidden("This token may only read.", remedy="Use a token with the submit scope.")


def _master(services: Services) -> MasterKey:
    return load_or_create(services.settings.effective_master_key_file)


def _issued(services: Services, conn: Connection, user_id: str, wanted: TokenIn) -> Mapping[str, Any]:
    made = tokens.issue(conn, user_id=user_id, name=wanted.name, scopes=wanted.scopes,
                        lifetime=timedelta(days=wanted.lifetime_days), now=services.clock())  # fmt: skip
    return {"id": made.id, "token": made.secret, "expires_at": views.stamp(made.expires_at)}


def _linked(
    services: Services, conn: Connection, person: Person, adapter: SiteAdapter, wanted: LinkIn
) -> Mapping[str, Any]:
    user_id = person.user_id if wanted.user is None else service.user_id_of(conn, wanted.user)
    made = service.link_account(conn, adapter, _master(services), user_id=user_id, username=wanted.username,
                                private_key=wanted.private_key, now=services.clock())  # fmt: skip
    install = f"Add the key to ~/.ssh/authorized_keys at {wanted.site}, then verify." if made.public_key else "Verify."
    return {"id": made.account_id, "public_key": made.public_key, "status": "pending", "next": install}


def _accounts(services: Services, user_id: str) -> list[dict[str, Any]]:
    query = select(ACCOUNTS).where(ACCOUNTS.c.user_id == user_id).order_by(ACCOUNTS.c.site_id)
    with services.db.read() as conn:
        rows = conn.execute(query).all()
    return [
        {"id": r.id, "site": r.site_id, "username": r.username, "status": r.status, "public_key": r.public_key,
         "verified_at": views.stamp(r.verified_at), "permission_model": r.permission_model, "last_error": r.last_error}
        for r in rows
    ]  # fmt: skip


def _token(row: Any) -> dict[str, Any]:
    return {
        "id": row.id, "name": row.name, "scopes": row.scopes.split(), "created_at": views.stamp(row.created_at),
        "expires_at": views.stamp(row.expires_at), "revoked_at": views.stamp(row.revoked_at),
    }  # fmt: skip


def _user(row: Any) -> dict[str, Any]:
    return {
        "id": row.id, "name": row.name, "display_name": row.display_name, "operator_admin": row.operator_admin,
        "disabled": row.disabled_at is not None,
    }  # fmt: skip
