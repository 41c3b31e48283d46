"""`upgrade [URL]`, `check` (on a fresh SQLite), `revision TEXT`."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from gateway.db import Database
from gateway.migrations import schema


def main() -> None:
    verb, *rest = sys.argv[1:]
    if verb == "upgrade":
        schema.upgrade(Database(rest[0]))
        return
    with tempfile.TemporaryDirectory() as folder:
        db = Database(f"sqlite:///{Path(folder, 'check.sqlite')}")
        schema.upgrade(db)
        if verb == "check":
            schema.check(db)
        else:
            schema.revision(db, " ".join(rest))
        db.dispose()


main()
