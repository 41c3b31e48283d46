"""What a person names at the command line, in the books' ids."""

from __future__ import annotations

from sqlalchemy import Connection

from gateway.admin.texts import tr
from gateway.errors import NotFound
from gateway.jobs import repository


def project_named(conn: Connection, name: str) -> str:
    """The id of a project by its name or id; `NotFound` for none."""
    found = repository.project_id(conn, name)
    if found is None:
        raise NotFound(tr("There is no project {project}.", project=name))
    return found
