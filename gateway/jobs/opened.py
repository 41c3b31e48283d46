"""What was ordered for a project at a centre: its jobs are submitted under the names that were opened for them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from datetime import datetime
from typing import Any

from sqlalchemy import Connection

from accounting.store import openings
from site_adapters.policy import Policy, admitted
from site_adapters.types import JobSpec


def open_there(conn: Connection, site_id: str, now: datetime) -> list[Any]:
    """The centre's openings that hold now, newest first."""
    rows = openings.open_at(conn, site_id)
    return [r for r in rows if r.valid_until is None or r.valid_until > now]


def under_its_opening(
    spec: JobSpec, there: Iterable[Any], *, project_id: str, username: str, queue: str, policy: Policy
) -> JobSpec:
    """The spec with the opening's charge account and, for a share of this queue, its QOS; a person's own word stands.

    An account that was opened for another login is not this job's. A QOS that the policy does not allow is left out.
    """
    mine = [o for o in there if o.project_id == project_id
            and (o.kind != "account" or o.native_username == username)]  # fmt: skip
    wanted = spec.attributes
    account = wanted.account or next((o.native_account for o in mine if o.native_account), None)
    shares = (o.qos for o in mine if o.qos and o.queue in (None, "", queue) and o.native_account == account)
    qos = wanted.qos or next((q for q in shares if admitted(q, policy.qos_allowed)), None)
    return replace(spec, attributes=replace(wanted, account=account, qos=qos))
