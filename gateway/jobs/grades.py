"""The service grade that a job asks for (惠算 economy, 质算 quality, 超算 super …): who offers it, and in which queue.

A queue that the agreement names is of its grade and of no other; `*` is only what a job gets that asks for none.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime

from accounting.agreement import Agreement
from accounting.price import PriceBook
from gateway.errors import Problem
from site_adapters.types import JobSpec, Queue

_POINTER = "/attributes/service_grade"


def in_a_queue_of_its_grade(spec: JobSpec, queues: Sequence[Queue], agreement: Agreement | None) -> JobSpec:
    """The job in the first open queue of the grade that it asks for, where it names no queue and the agreement does."""
    wanted = spec.attributes.service_grade
    if wanted is None or spec.attributes.queue_name is not None or agreement is None:
        return spec
    queue = next((q for q in queues if q.open and agreement.grades.get(q.name) == wanted), None)
    return spec if queue is None else replace(spec, attributes=replace(spec.attributes, queue_name=queue.name))


def problems_of(
    wanted: str | None, *, site_id: str, queue: str, currency: str, agreement: Agreement | None, prices: PriceBook,
    at: datetime,
) -> tuple[Problem, ...]:  # fmt: skip
    """Why a job cannot have the grade there."""
    if wanted is None:
        return ()
    offered = prices.grades(site_id=site_id, currency=currency, at=at)
    named = {} if agreement is None else dict(agreement.grades)
    offered |= set(named.values())
    if wanted not in offered:
        known = ", ".join(sorted(offered)) or "none"
        return (Problem(_POINTER, f"{site_id} offers no service grade {wanted!r}.", "unknown_grade",
                        f"Offered there: {known}."),)  # fmt: skip
    fixed = named.get(queue)
    if fixed is not None and fixed != wanted:
        detail = f"Queue {queue!r} of {site_id} is of the grade {fixed!r}."
        fitting = ", ".join(sorted(q for q, grade in named.items() if grade == wanted and q != "*"))
        remedy = f"Queues of {wanted!r}: {fitting}." if fitting else "Name another queue, or leave the grade out."
        return (Problem(_POINTER, detail, "grade_of_queue", remedy),)
    return ()
