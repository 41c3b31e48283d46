"""What a submission takes of a centre, as far as its words say; counted the same at the gateway and at the centre."""

from __future__ import annotations

from dataclasses import dataclass

from site_adapters.indices import expand
from site_adapters.policy import Policy
from site_adapters.types import JobSpec, Queue, Resources, Submission

_DURATION_S = 86400  # what a job may run that names no duration at a centre whose policy names none
# Options that go through as they are and make a job larger than its fields say, as far as somebody likes.
_ENLARGING = frozenset(
    {
        *("slurm.mincpus", "slurm.nodelist", "slurm.cpus-per-gpu", "slurm.core-spec", "slurm.thread-spec"),
        *("sunway.mpecg", "sunway.exclu"),
    }
)


@dataclass(frozen=True, slots=True)
class Weight:
    """What a submission takes of the centre: `places` in the queue, of which `at_once` run together; each of them
    `cores_each` and `nodes_each` for `duration_s`.
    """

    places: int
    at_once: int
    cores_each: int
    nodes_each: int
    duration_s: int

    @property
    def cores(self) -> int:
        return self.cores_each * self.at_once

    @property
    def nodes(self) -> int:
        return self.nodes_each * self.at_once

    @property
    def core_seconds(self) -> int:
        """The most that it can use."""
        return self.cores_each * self.places * self.duration_s


def weigh(submission: Submission, policy: Policy, queue: Queue | None = None) -> Weight:
    """As asked, in the queue that it goes to; what neither says counts as one."""
    r, array = submission.spec.resources, submission.spec.array
    places = len(expand(array.indices)) if array is not None else 1
    at_once = min(places, array.max_parallel or places) if array is not None else 1
    duration = submission.spec.attributes.duration or policy.duration_max or _DURATION_S
    return Weight(places, at_once, cores_at_most(r, queue), nodes_at_most(r), duration)


def cores_at_most(r: Resources, queue: Queue | None) -> int:
    """Of one task: those of its processes, or of all nodes that it may get whole."""
    processes = r.process_count or (r.node_count or 1) * (r.processes_per_node or 1)
    cores = processes * (r.cpu_cores_per_process or (queue.cores_per_process if queue is not None else 1))
    if queue is not None and (r.exclusive_node_use or queue.exclusive):
        cores = max(cores, nodes_at_most(r) * (queue.cores_per_node_max or 1))
    return cores


def nodes_at_most(r: Resources) -> int:
    """Where nodes are not named, each process may be given one of its own."""
    if r.node_count is not None:
        return r.node_count
    processes = r.process_count or r.processes_per_node or 1
    return -(-processes // (r.processes_per_node or 1))


def unweighed(spec: JobSpec, policy: Policy) -> str | None:
    """The option of a job that would outgrow what its fields say, where the centre's policy counts those."""
    counted = (policy.cores_max, policy.cores_in_use_max, policy.nodes_max, policy.nodes_in_use_max,
               policy.share_core_seconds)  # fmt: skip
    if all(limit is None for limit in counted):
        return None
    return next((key for key in sorted(spec.attributes.custom_attributes) if key in _ENLARGING), None)
