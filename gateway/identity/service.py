"""Open users, projects and site accounts; link an account by proving that we can log in to it."""

from __future__ import annotations

import re
from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Table, insert, select, update
from sqlalchemy.exc import IntegrityError

from accounting import store as books
from gateway.db import Database, table_of
from gateway.errors import Conflict, Invalid, NotFound, Problem, SiteClosedError, SiteUnreachableError
from gateway.identity import tokens
from gateway.identity.keys import MasterKey, new_key_pair
from gateway.identity.tables import CentreStaffRow, MembershipRow, ProjectRow, SiteAccountRow, UserRow
from gateway.ids import new_id
from gateway.services import Services
from site_adapters.errors import CredentialRefused, SiteClosed, SiteError
from site_adapters.interfaces import SiteAdapter
from site_adapters.states import PermissionModel
from site_adapters.transport.ssh import load_key
from site_adapters.types import AccountFacts

USERS, PROJECTS, MEMBERS = table_of(UserRow), table_of(ProjectRow), table_of(MembershipRow)
ACCOUNTS, STAFF = table_of(SiteAccountRow), table_of(CentreStaffRow)

_NAME = re.compile(r"[a-z][a-z0-9._-]{0,62}\Z")
_ID = re.compile(r"[a-z]{1,2}0[0-9a-hjkmnp-tv-z]{25}\Z")  # as `gateway.ids` makes them
_LOGIN = re.compile(r"[A-Za-z_][A-Za-z0-9._-]{0,31}\Z")
ROLES = frozenset({"owner", "researcher"})

# The claim that is being proved in this thread: `key_source` gives its key, which is not used for anything else yet.
_CLAIMING: ContextVar[str | None] = ContextVar("claiming", default=None)


def create_user(conn: Connection, *, name: str, operator_admin: bool = False, display: str = "", now: datetime) -> str:
    """A person; names are unique."""
    _named(name, "/name")
    user_id = new_id("u", now)
    _insert(conn, USERS, f"There is a user {name!r} already.", id=user_id, name=name, display_name=display,
            operator_admin=operator_admin, created_at=now)  # fmt: skip
    return user_id


def create_project(conn: Connection, *, name: str, currency: str, title: str = "", now: datetime) -> str:
    """A project with accounts in money and core-hours, and nothing to spend yet."""
    _named(name, "/name")
    if not re.fullmatch(r"[A-Z]{3}", currency):
        problem = Problem("/currency", f"{currency!r} is no ISO 4217 code.", "invalid", "Write it like CNY.")
        raise Invalid("The currency is not known.", problems=(problem,))
    project_id = new_id("r", now)
    _insert(conn, PROJECTS, f"There is a project {name!r} already.", id=project_id, name=name, title=title,
            currency=currency, created_at=now)  # fmt: skip
    books.open_project_accounts(conn, project_id, currency=currency)
    return project_id


def add_member(conn: Connection, *, project_id: str, user_id: str, role: str, now: datetime) -> None:
    """A person joins a project, or changes the role in it."""
    if role not in ROLES:
        problem = Problem("/role", f"{role!r} is no role.", "invalid", "owner or researcher.")
        raise Invalid("The role is not known.", problems=(problem,))
    where = (MEMBERS.c.project_id == project_id, MEMBERS.c.user_id == user_id)
    if conn.execute(update(MEMBERS).where(*where).values(role=role)).rowcount == 0:
        conn.execute(insert(MEMBERS).values(project_id=project_id, user_id=user_id, role=role, created_at=now))


def remove_member(conn: Connection, *, project_id: str, user_id: str) -> None:
    """A person leaves a project; what they have running goes on."""
    gone = conn.execute(MEMBERS.delete().where(MEMBERS.c.project_id == project_id, MEMBERS.c.user_id == user_id))
    if gone.rowcount == 0:
        raise NotFound("That person is no member.")


def add_staff(conn: Connection, *, site_id: str, user_id: str, now: datetime) -> int:
    """A person works for a centre: sees its jobs, answers its disputes, bills and signs for it.

    Who was no second pair of eyes before loses every token: an operator may have made one, and would hold both pairs.
    The next one is made on the host. Returns how many ended; raises `Conflict` for an operator, who cannot speak for
    the other side.
    """
    if conn.scalar(select(USERS.c.operator_admin).where(USERS.c.id == user_id)):
        raise Conflict("An operator does not speak for a centre.", remedy="Name somebody of the centre.")
    ended = 0 if decides_beside(conn, user_id) else tokens.revoke_all(conn, user_id=user_id, now=now)
    where = (STAFF.c.site_id == site_id, STAFF.c.user_id == user_id)
    if conn.execute(select(STAFF.c.user_id).where(*where)).first() is None:
        conn.execute(insert(STAFF).values(site_id=site_id, user_id=user_id))
    return ended


def remove_staff(conn: Connection, *, site_id: str, user_id: str) -> None:
    """A person works for a centre no longer; what they signed stands."""
    gone = conn.execute(STAFF.delete().where(STAFF.c.site_id == site_id, STAFF.c.user_id == user_id))
    if gone.rowcount == 0:
        raise NotFound(f"That person is not of the staff of {site_id!r}.")


def decides_beside(conn: Connection, user_id: str) -> bool:
    """Whether a person is the second pair of eyes for what an operator asks: another operator, or a centre's staff."""
    operates = conn.scalar(select(USERS.c.operator_admin).where(USERS.c.id == user_id))
    return bool(operates) or conn.execute(select(STAFF.c.user_id).where(STAFF.c.user_id == user_id)).first() is not None


def suspend_user(conn: Connection, *, user_id: str, now: datetime) -> None:
    """Shut a person out: every token of theirs is refused within a second, in every process."""
    conn.execute(update(USERS).where(USERS.c.id == user_id, USERS.c.disabled_at.is_(None)).values(disabled_at=now))


def resume_user(conn: Connection, *, user_id: str) -> None:
    """Let a person in again; tokens that have not run out are good again."""
    conn.execute(update(USERS).where(USERS.c.id == user_id).values(disabled_at=None))


def user_id_of(conn: Connection, name: str) -> str:
    found = conn.scalar(select(USERS.c.id).where((USERS.c.name == name) | (USERS.c.id == name)))
    if found is None:
        raise NotFound(f"There is no user {name!r}.")
    return str(found)


# ---------------------------------------------------------------- site accounts


@dataclass(frozen=True, slots=True)
class LinkedKey:
    """What a person must install at the centre before the account can be verified; empty where nothing."""

    account_id: str
    public_key: str


def link_account(
    conn: Connection,
    adapter: SiteAdapter,
    master: MasterKey,
    *,
    user_id: str,
    username: str,
    private_key: str | None,
    now: datetime,
) -> LinkedKey:
    """Claim a login one already has. It may be used only after `verify_account` has proved the claim.

    Where the site is reached without a key nothing can prove a claim: there it is the operator who says whose it is.
    """
    if not _LOGIN.match(username):
        problem = Problem("/username", f"{username!r} is no login name.", "invalid", "Give the login at that centre.")
        raise Invalid("The login name is not valid.", problems=(problem,))
    account_id = _claimable(conn, adapter.site_id, user_id, username) or new_id("a", now)
    private, public = _key_pair(adapter, username, private_key)
    claim = {
        "username": username, "permission_model": adapter.policy.permission_model.value, "status": "pending",
        "public_key": public, "last_error": None, "verified_at": None,
        "sealed_key": None if private is None else master.seal(private, owner=account_id),
    }  # fmt: skip
    if conn.execute(update(ACCOUNTS).where(ACCOUNTS.c.id == account_id).values(**claim)).rowcount == 0:
        _insert(conn, ACCOUNTS, f"You have an account at {adapter.site_id} already.", id=account_id,
                site_id=adapter.site_id, user_id=user_id, created_at=now, credential_kind="actor", **claim)  # fmt: skip
    return LinkedKey(account_id, public or "")


def _claimable(conn: Connection, site_id: str, user_id: str, username: str) -> str | None:
    """The person's claim there that is not in use, to be made anew: jobs of old name the account by its id."""
    query = select(ACCOUNTS.c.id, ACCOUNTS.c.status, ACCOUNTS.c.username)
    row = conn.execute(query.where(ACCOUNTS.c.site_id == site_id, ACCOUNTS.c.user_id == user_id)).one_or_none()
    if row is None:
        return None
    if row.status == "linked":
        remedy = f"Suspend it first: penstock account suspend {row.id}"
        raise Conflict(f"{row.username} is linked at {site_id} already.", remedy=remedy)
    if row.status == "suspended" and row.username != username:
        raise Conflict(f"Your earlier jobs at {site_id} ran as {row.username}.", remedy=f"Link {row.username} again.")
    return str(row.id)


def _key_pair(adapter: SiteAdapter, username: str, private_key: str | None) -> tuple[str | None, str | None]:
    """The private key to keep and the public line to install; neither where the site asks for none."""
    if not adapter.logins_by_key:
        return None, None
    if private_key is None:
        return new_key_pair(f"penstock:{adapter.site_id}:{username}")
    try:
        key = load_key(private_key)
    except CredentialRefused as exc:
        problem = Problem("/private_key", str(exc), "invalid", "Give an OpenSSH key without a passphrase.")
        raise Invalid("The key cannot be read.", problems=(problem,)) from exc
    return private_key, f"{key.get_name()} {key.get_base64()}"


def verify_account(services: Services, *, account_id: str, user_id: str, now: datetime) -> None:
    """Prove a claim by logging in with its own key; no transaction is open meanwhile."""
    with services.db.read() as conn:
        row = conn.execute(
            select(ACCOUNTS).where(ACCOUNTS.c.id == account_id, ACCOUNTS.c.user_id == user_id)
        ).one_or_none()
        adapter = None if row is None else services.sites.get(row.site_id)
        if row is None or adapter is None or row.status == "suspended":
            raise NotFound(f"You have no site account {account_id!r} to verify.")
        own = adapter.policy.permission_model is PermissionModel.OWN_ACCOUNT
        if own:
            _refuse_shared(conn, row)  # before we log in: an owner's connection must not be disturbed by a claim
    facts = _proved(services, adapter, row)
    with services.db.write() as conn:
        if own:
            _refuse_shared(conn, row)
        conn.execute(
            update(ACCOUNTS)
            .where(ACCOUNTS.c.id == account_id, ACCOUNTS.c.status != "suspended")
            .values(status="linked", uid=facts.uid, home=facts.home, verified_at=now, last_error=None)
        )


def _proved(services: Services, adapter: SiteAdapter, row: Any) -> AccountFacts:
    """Who the site says we are, logged in with the key of this very claim, not with another one of the same name."""
    claiming = _CLAIMING.set(row.id)
    try:
        return adapter.auth.probe(row.username)
    except CredentialRefused as exc:
        _note_failure(services, row.id, str(exc))
        line = f"Put this line into ~/.ssh/authorized_keys of {row.username} there: {row.public_key}"
        remedy = line if row.public_key else "Ask the operator which logins this centre takes."
        raise Conflict(f"{row.site_id} does not let us in as {row.username}: {exc}.", remedy=remedy) from exc
    except SiteClosed as exc:
        raise SiteClosedError(str(exc)) from exc
    except SiteError as exc:
        _note_failure(services, row.id, str(exc))
        named = str(exc).removeprefix(f"{row.site_id}: ")  # what comes from an agent names its site
        raise SiteUnreachableError(f"{row.site_id}: {named}", remedy="Try again later.") from exc
    finally:
        _CLAIMING.reset(claiming)


def suspend_account(conn: Connection, *, account_id: str, user_id: str | None) -> None:
    """Use a login no more; `user_id` limits it to that person's own. Its key is forgotten: linking makes a new one."""
    query = update(ACCOUNTS).where(ACCOUNTS.c.id == account_id, ACCOUNTS.c.status != "suspended")
    if user_id is not None:
        query = query.where(ACCOUNTS.c.user_id == user_id)
    if conn.execute(query.values(status="suspended", sealed_key=None)).rowcount == 0:
        raise NotFound(f"You have no site account {account_id!r} in use.")


def _refuse_shared(conn: Connection, row: Any) -> None:
    """Under the own-account model a login is one person's: every act there must be attributable (law 10)."""
    other = conn.scalar(
        select(ACCOUNTS.c.id).where(
            ACCOUNTS.c.site_id == row.site_id,
            ACCOUNTS.c.username == row.username,
            ACCOUNTS.c.user_id != row.user_id,
            ACCOUNTS.c.status == "linked",
        )
    )
    if other is not None:
        raise Conflict("That login is linked to another person.", remedy="Use your own login at that centre.")


def key_source(db: Database, master: MasterKey, site_id: str) -> Callable[[str], str | None]:
    """The private key of a login at one site, opened at each use and kept nowhere."""

    def key(username: str) -> str | None:
        query = select(ACCOUNTS.c.id, ACCOUNTS.c.sealed_key).where(
            ACCOUNTS.c.site_id == site_id, ACCOUNTS.c.username == username
        )
        claim = _CLAIMING.get()
        if claim is None:
            query = query.where(ACCOUNTS.c.status == "linked").order_by(ACCOUNTS.c.id)
        else:
            query = query.where(ACCOUNTS.c.id == claim, ACCOUNTS.c.status != "suspended")
        with db.read() as conn:
            row = conn.execute(query).first()
        return None if row is None or row.sealed_key is None else master.open(row.sealed_key, owner=row.id)

    return key


def reseal_all(conn: Connection, old: MasterKey, new: MasterKey) -> int:
    """Open every stored key with the old master key and seal it with the new one."""
    rows = conn.execute(select(ACCOUNTS.c.id, ACCOUNTS.c.sealed_key).where(ACCOUNTS.c.sealed_key.is_not(None))).all()
    for row in rows:
        sealed = new.seal(old.open(row.sealed_key, owner=row.id), owner=row.id)
        conn.execute(update(ACCOUNTS).where(ACCOUNTS.c.id == row.id).values(sealed_key=sealed))
    return len(rows)


def _note_failure(services: Services, account_id: str, text: str) -> None:
    with services.db.write() as conn:
        conn.execute(update(ACCOUNTS).where(ACCOUNTS.c.id == account_id).values(last_error=text[:500]))


def _named(name: str, pointer: str) -> None:
    if not _NAME.match(name):
        remedy = "Lower-case letters, digits, . _ -, a letter first, at most 63."
        raise Invalid(
            "The name is not valid.", problems=(Problem(pointer, f"{name!r} is no name.", "invalid", remedy),)
        )
    if _ID.match(name):  # everywhere a name or an id may be given: one person's name could be another's id
        problem = Problem(pointer, f"{name!r} looks like an id.", "invalid", "Choose a name that people can say.")
        raise Invalid("The name is not valid.", problems=(problem,))


def _insert(conn: Connection, table: Table, conflict: str, **values: object) -> None:
    try:
        with conn.begin_nested():
            conn.execute(insert(table).values(**values))
    except IntegrityError as exc:
        raise Conflict(conflict) from exc
