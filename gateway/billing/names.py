"""People in what centres send and operators write: their logins stand there only under their own keys.

A login of ours is replaced by its pseudonym wherever text is kept (a break's explanation, a note, a memo), and what
says more of the person (a statement line's fields, a line that nobody could read) is sealed. Whoever may see it gets it
back as long as the key is there; erasing the person drops the key, and with it all of this at once.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime
from functools import cached_property
from typing import Any

from sqlalchemy import Connection, select

from accounting.evidence import personal
from accounting.reconciling.statement import Statement
from accounting.usage import Unreadable
from gateway.billing.kept_lines import KeptLines
from gateway.identity import vault
from gateway.jobs.repository import ACCOUNTS
from gateway.services import Services

ERASED = "(erased)"
_PSEUDONYM = re.compile(r"~[0-9a-f]{20}")


class Names:
    """The logins of a site (None: of all) with their owners' keys. One that several people share names nobody."""

    def __init__(self, services: Services, conn: Connection, site_id: str | None, *, make: datetime | None = None):
        """`make`: now, in a write transaction: who has no key yet gets one."""
        query = select(ACCOUNTS.c.user_id, ACCOUNTS.c.username).distinct()
        rows = conn.execute(query if site_id is None else query.where(ACCOUNTS.c.site_id == site_id)).all()
        self._pairs = [(row.user_id, row.username) for row in rows]
        owners: dict[str, set[str]] = {}
        for person, login in self._pairs:
            owners.setdefault(login, set()).add(person)
        self._owner = {login: next(iter(persons)) for login, persons in owners.items() if len(persons) == 1}
        self._opener = vault.Opener(services, conn)
        persons = {person for person, _ in self._pairs}
        if make is not None:
            self._keys = vault.keys_of(services, conn, persons, make)
        else:
            self._keys = {person: self._opener.key(person) for person in persons}

    # ------------------------------------------------------------ keeping

    def login(self, username: str) -> str:
        """What is kept for a login; a stranger's stays."""
        owner = self._owner.get(username)
        return username if owner is None else personal.pseudonym(username, self._keys[owner])

    def text(self, text: str) -> str:
        """A text in which no login of ours stands."""
        if self._words is None:
            return text
        return self._words.sub(lambda found: self.login(found[0]) or ERASED, text)

    def sealed(self, text: str, ref: str) -> str:
        """A whole text, sealed under the key of each person that it names; as it is where it names nobody."""
        named = sorted({self._owner[word] for word in self._words.findall(text)}) if self._words is not None else []
        for person in named:
            key = self._keys[person]
            text = ERASED if key is None else personal.seal_text(text, person=person, key=key, ref=ref)
        return text

    def unreadable(self, found: Unreadable) -> tuple[str, str]:
        """The raw text and the reason as quarantine keeps them."""
        return self.sealed(found.raw, f"{found.site_id}/{found.content_sha256}"), self.text(found.why)

    def keeper(self, ref: str) -> KeptLines:
        """What keeps the lines of the statement `ref`."""
        return KeptLines(self._owner, self._keys, ref)

    def problems(self, statement: Statement) -> Statement:
        """A statement whose unreadable lines are as they are kept."""
        ref = f"{statement.site_id}/{statement.sha256}"
        sealed = (
            replace(p, raw=self.sealed(p.raw, f"{ref}/{p.line_no}"), why=self.text(p.why)) for p in statement.problems
        )
        return replace(statement, problems=tuple(sealed))

    # ------------------------------------------------------------ showing

    @cached_property
    def pseudonyms(self) -> dict[str, str]:
        """What stands in the books for each login of somebody who has a key, and the login."""
        found = {personal.pseudonym(login, self._keys[person]): login for person, login in self._pairs}
        return {name: login for name, login in found.items() if name}

    @property
    def logins(self) -> frozenset[str]:
        return frozenset(login for _, login in self._pairs)

    def shown(self, text: str) -> str:
        """A kept text as it was; of whom the key is gone only that somebody stood there."""
        return _PSEUDONYM.sub(lambda found: self.pseudonyms.get(found[0], ERASED), text)

    def opened(self, text: str) -> str:
        """A sealed text as it came, or that it is erased."""
        while (sealed := personal.sealed_text(text)) is not None:
            key = self._opener.key(sealed.person)
            if key is None:
                return ERASED
            text = personal.open_text(sealed, key=key)
        return text

    def raw(self, raw: Mapping[str, Any]) -> dict[str, Any]:
        """A line's fields as they came; of an erased person only what is not personal."""
        return self._opener(raw)

    @cached_property
    def _words(self) -> re.Pattern[str] | None:
        if not self._owner:
            return None
        some = "|".join(re.escape(login) for login in sorted(self._owner, key=len, reverse=True))
        return re.compile(rf"(?<![\w.~-])(?:{some})(?![\w-])")
