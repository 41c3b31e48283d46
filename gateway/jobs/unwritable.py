"""What cannot be written in a site's dialect, told before the job is accepted: by the code that writes it later."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from gateway.errors import Problem
from gateway.jobs.checks import pointer_of
from gateway.jobs.ids import site_name
from gateway.jobs.opened import under_its_opening
from site_adapters.errors import Refused, SiteError
from site_adapters.interfaces import SiteAdapter
from site_adapters.types import JobSpec, SiteAccount, Submission

# No name that a job gets later is longer or holds other signs.
_TAG = f"p{'0' * 15}"
_REMEDY = "Change it, or choose another resource."
# A job without these is none: what else is wrong with it cannot be asked.
_WHOLE = ("script", "executable")


def problems_of(
    adapter: SiteAdapter, spec: JobSpec, account: SiteAccount, there: Sequence[Any], *, project_id: str, queue: str
) -> tuple[Problem, ...]:
    """Everything that the site's dialect would refuse at hand-over; `there`: what is open there (`open_there`).

    Nothing is sent. A centre that has not told yet how it writes scripts refuses nothing.
    """
    sent = under_its_opening(spec, there, project_id=project_id, username=account.username, queue=queue,
                             policy=adapter.policy)  # fmt: skip
    problems: dict[tuple[str, ...], Problem] = {}
    while (refusal := _refusal(adapter, sent, account)) is not None:
        if refusal.field in problems:  # it is not by what it asks for that this field is refused
            break
        detail = f"{adapter.site_id} cannot run it so: {refusal}."
        problems[refusal.field] = Problem(pointer_of(*refusal.field), detail, "cannot_render", _REMEDY)
        if not refusal.field or refusal.field[0] in _WHOLE:
            break
        sent = _without(sent, refusal.field)
    return tuple(problems.values())


def _refusal(adapter: SiteAdapter, spec: JobSpec, account: SiteAccount) -> Refused | None:
    try:
        adapter.management.assert_renders(Submission(spec, account, _TAG, 1, site_name(spec.name, _TAG, 1)))
    except Refused as exc:
        return exc
    except SiteError as exc:
        return None if exc.retryable else Refused(str(exc))
    return None


def _without(part: Any, field: Sequence[str]) -> Any:
    """A job spec (or a part of it) that does not ask for this, so that what else is refused is told as well."""
    name, *inner = field
    value = getattr(part, name)
    if inner and isinstance(value, Mapping):
        return replace(part, **{name: {key: asked for key, asked in value.items() if key != inner[0]}})
    if inner and name != "array":
        return replace(part, **{name: _without(value, inner)})
    return replace(part, **{name: getattr(type(part)(), name)})
