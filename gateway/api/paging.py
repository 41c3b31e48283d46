"""Cursors of lists: opaque to clients, the last id of the page that they had."""

from __future__ import annotations

import base64
import binascii
import re

from gateway.errors import Invalid, Problem

_ID = re.compile(r"[A-Za-z][0-9A-Za-z-]{1,31}\Z")


def cursor_of(last: str | None) -> str | None:
    """The cursor that goes on behind an id; None where there is no next page."""
    return None if last is None else base64.urlsafe_b64encode(last.encode()).decode().rstrip("=")


def from_cursor(cursor: str | None) -> str | None:
    """The id behind a cursor; `Invalid` where it is none of ours."""
    if cursor is None:
        return None
    try:
        padded = cursor + "=" * (-len(cursor) % 4)
        last = base64.b64decode(padded.encode("ascii"), altchars=b"-_", validate=True).decode("ascii")
    except (binascii.Error, UnicodeError) as exc:
        raise _no_cursor() from exc
    if not _ID.match(last):
        raise _no_cursor()
    return last


def _no_cursor() -> Invalid:
    problem = Problem("/cursor", "This is no cursor of ours.", "invalid", "Start again without a cursor.")
    return Invalid("The cursor is not valid.", problems=(problem,))
