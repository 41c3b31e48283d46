"""Whether a job can be right: each check returns problems with their JSON pointer, none of them raises."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from typing import Any

from accounting.usage import GPU_SECONDS, MEMORY, NODE_SECONDS
from gateway.errors import Problem
from site_adapters.indices import expand
from site_adapters.interfaces import SiteAdapter
from site_adapters.policy import admitted
from site_adapters.states import PermissionModel
from site_adapters.types import Attributes, JobSpec, Queue, Resources
from site_adapters.weight import cores_at_most, nodes_at_most, unweighed

NAME_CHARS_MAX = 255
SCRIPT_BYTES_MAX = 4 * 1024 * 1024 - 64 * 1024  # sbatch's own limit is 4 MiB, ours leaves room for the prologue
ENVIRONMENT_BYTES_MAX = 128 * 1024
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\Z")
_SURROGATE = re.compile("[\ud800-\udfff]")
_POSITIVE = ("node_count", "process_count", "processes_per_node", "cpu_cores_per_process", "memory")


def shape(spec: JobSpec) -> tuple[Problem, ...]:
    """What is wrong wherever the job would run."""
    return (*_body(spec), *_texts(spec), *_numbers(spec), *_array(spec), *_budget(spec))


def _body(spec: JobSpec) -> list[Problem]:
    if (spec.script is None) == (spec.executable is None):
        remedy = "Give `executable` with `arguments`, or a `script`, not both."
        return [Problem("", "A job is either a script or an executable.", "required", remedy)]
    if spec.script is None:
        return [] if spec.executable else [Problem("/executable", "The executable is empty.", "required")]
    problems = []
    if not spec.script.strip():
        problems.append(Problem("/script", "The script is empty.", "required"))
    if len(spec.script.encode("utf-8", "surrogatepass")) > SCRIPT_BYTES_MAX:
        remedy = "Put the bulk into a file at the site."
        problems.append(Problem("/script", f"The script is longer than {SCRIPT_BYTES_MAX} bytes.", "too_long", remedy))
    if spec.arguments:
        remedy = "Write them into the script."
        problems.append(Problem("/arguments", "A script takes no arguments.", "invalid", remedy))
    return problems


def _texts(spec: JobSpec) -> list[Problem]:
    """No site can be given a NUL; a path or a name with a line break has only ever been an accident."""
    problems = []
    named: dict[str, str | None] = {
        "/name": spec.name, "/executable": spec.executable, "/script": spec.script, "/directory": spec.directory,
        "/stdin_path": spec.stdin_path, "/stdout_path": spec.stdout_path, "/stderr_path": spec.stderr_path,
        "/pre_launch": spec.pre_launch, "/post_launch": spec.post_launch, "/launcher": spec.launcher,
        "/attributes/queue_name": spec.attributes.queue_name, "/attributes/account": spec.attributes.account,
        "/attributes/qos": spec.attributes.qos, "/attributes/service_grade": spec.attributes.service_grade,
        "/attributes/reservation_id": spec.attributes.reservation_id,
        **{f"/arguments/{i}": a for i, a in enumerate(spec.arguments)},
        **{f"/environment/{_escaped(k)}": v for k, v in spec.environment.items()},
    }  # fmt: skip
    for pointer, text in named.items():
        if text is None:
            continue
        if "\0" in text:
            problems.append(Problem(pointer, "A NUL character cannot be handed to a site.", "invalid", "Remove it."))
        elif _SURROGATE.search(text):
            problems.append(Problem(pointer, "Half of a surrogate pair is not a character.", "invalid", "Send UTF-8."))
        elif pointer.endswith("_path") or pointer == "/directory" or pointer.startswith("/attributes/"):
            if "\n" in text or "\r" in text:
                problems.append(Problem(pointer, "A line break is not allowed here.", "invalid", "Remove it."))
            elif not text:
                problems.append(Problem(pointer, "This is empty.", "invalid", "Leave the field out."))
    for pointer in ("/stdout_path", "/stderr_path"):
        path = named[pointer] or ""
        if "{native}" in path or ("{task}" in path and spec.array is None):
            detail = "{task} is of an array, and {native} is a sign of ours: the file could not be found again."
            problems.append(Problem(pointer, detail, "invalid", "Choose another name."))
    if len(spec.name) > NAME_CHARS_MAX:
        problems.append(Problem("/name", f"The name is longer than {NAME_CHARS_MAX} characters.", "too_long"))
    for key in spec.environment:
        if not _VARIABLE.match(key):
            pointer = f"/environment/{_escaped(key)}"
            remedy = "Letters, digits and _, no digit first."
            problems.append(Problem(pointer, f"{key!r} is no variable name.", "invalid", remedy))
    if sum(len(k) + len(v) for k, v in spec.environment.items()) > ENVIRONMENT_BYTES_MAX:
        problems.append(Problem("/environment", f"More than {ENVIRONMENT_BYTES_MAX} characters.", "too_long"))
    return problems


def _numbers(spec: JobSpec) -> list[Problem]:
    problems = []
    r = spec.resources
    for field in _POSITIVE:
        value = getattr(r, field)
        if value is not None and not 0 < value < 2**53:
            problems.append(Problem(f"/resources/{field}", f"{value} is not a positive number.", "invalid"))
    if r.gpu_cores_per_process is not None and not 0 <= r.gpu_cores_per_process < 2**31:
        problems.append(Problem("/resources/gpu_cores_per_process", "Must be 0 or more.", "invalid"))
    if r.process_count and r.node_count and r.processes_per_node:
        if r.process_count != r.node_count * r.processes_per_node:
            detail = f"process_count {r.process_count} is not {r.node_count} nodes × {r.processes_per_node} processes."
            problems.append(Problem("/resources/process_count", detail, "invalid", "Leave one of the three out."))
    elif r.process_count and r.node_count and r.process_count < r.node_count:
        detail = f"{r.process_count} processes cannot fill {r.node_count} nodes."
        problems.append(Problem("/resources/node_count", detail, "invalid", "Ask for fewer nodes."))
    duration = spec.attributes.duration
    if duration is not None and not 0 < duration <= 10 * 365 * 86400:
        problems.append(
            Problem("/attributes/duration", f"{duration} s is no duration.", "invalid", "Give seconds > 0.")
        )
    return problems


def _array(spec: JobSpec) -> list[Problem]:
    if spec.array is None:
        return []
    problems = []
    try:
        expand(spec.array.indices)
    except ValueError as exc:
        problems.append(Problem("/array/indices", str(exc), "invalid", "Write it like 0-9:2,12."))
    if spec.array.max_parallel is not None and spec.array.max_parallel < 1:
        problems.append(Problem("/array/max_parallel", "At least one task must run at a time.", "invalid"))
    return problems


def _budget(spec: JobSpec) -> list[Problem]:
    if spec.budget.max_cost_micro is not None and spec.budget.max_cost_micro <= 0:
        return [Problem("/budget/max_cost/amount", "The budget must be more than 0.", "invalid")]
    return []


def budget_currency(spec: JobSpec, currency: str) -> tuple[Problem, ...]:
    """A most cost is compared with what the project is charged: in that currency, or it means nothing."""
    if spec.budget.max_cost_micro is None or spec.budget.currency == currency:
        return ()
    detail = f"The project is charged in {currency}, not in {spec.budget.currency}."
    return (Problem("/budget/max_cost/currency", detail, "invalid", f"Give the most cost in {currency}."),)


def queue_of(spec: JobSpec, queues: Sequence[Queue], site_id: str) -> tuple[Queue | None, tuple[Problem, ...]]:
    """The queue that the job goes to; None where the site's queues are not known yet."""
    if not queues:
        return None, ()
    wanted = spec.attributes.queue_name
    if wanted is None:
        return next((q for q in queues if q.default), None), ()
    pointer = "/attributes/queue_name"
    queue = next((q for q in queues if q.name == wanted), None)
    if queue is None:
        known = ", ".join(q.name for q in queues)
        detail = f"{site_id} has no queue {wanted!r}."
        return None, (Problem(pointer, detail, "unknown_queue", f"Its queues: {known}."),)
    if not queue.open:
        return queue, (Problem(pointer, f"Queue {wanted!r} takes no jobs ({queue.native_state}).", "queue_closed"),)
    return queue, ()


def not_admitted(adapter: SiteAdapter, user_id: str, project_id: str) -> Problem | None:
    """What the centre's policy says to this person and project, whatever the job is."""
    policy, pointer = adapter.policy, "/placement/resource_ids"
    if policy.permission_model is PermissionModel.REFERRAL:
        where = policy.referral_url or "the centre's own desk"
        return Problem(pointer, f"{adapter.site_id} is only pointed at.", "referral", f"Apply at {where}.")
    if not admitted(user_id, policy.people_admitted):
        return Problem(pointer, f"{adapter.site_id} has not admitted you.", "not_admitted", "Ask the centre.")
    if not admitted(project_id, policy.projects_admitted):
        return Problem(pointer, f"{adapter.site_id} has not admitted the project.", "not_admitted", "Ask the centre.")
    return None


def site_limits(spec: JobSpec, adapter: SiteAdapter, queue: Queue | None) -> tuple[Problem, ...]:
    """Limits of the queue and of the centre's policy: Slurm accepts by default what can never run."""
    policy, problems = adapter.policy, []
    nodes, per_node = node_shape(spec, queue)
    cores, most_nodes = nodes * per_node, nodes_at_most(spec.resources)
    most_cores = max(cores_charged(spec, queue), cores_at_most(spec.resources, queue))
    duration = spec.attributes.duration

    def over(pointer: str, asked: int | None, most: int | None, what: str, remedy: str = "") -> None:
        if asked is not None and most is not None and asked > most:
            problems.append(
                Problem(
                    pointer,
                    f"{asked} {what} is more than {adapter.site_id} allows ({most}).",
                    "over_limit",
                    remedy or f"Ask for {most} or less.",
                )
            )

    unnamed = "Name `node_count`: each process may get a node of its own." if spec.resources.node_count is None else ""
    over("/resources/node_count", most_nodes, policy.nodes_max, "nodes", unnamed)
    over("/resources/process_count", most_cores, policy.cores_max, "cores")
    over("/resources/process_count", most_cores, policy.cores_in_use_max, "cores")
    over("/resources/node_count", most_nodes, policy.nodes_in_use_max, "nodes", unnamed)
    if (option := unweighed(spec, policy)) is not None:
        pointer = f"/attributes/custom_attributes/{_escaped(option)}"
        detail = f"{adapter.site_id} counts cores and nodes, and {option} would take more than the fields say."
        problems.append(Problem(pointer, detail, "over_limit", "Say it by `resources`."))
    over("/attributes/duration", duration, policy.duration_max, "s")
    if spec.attributes.qos is not None and not admitted(spec.attributes.qos, policy.qos_allowed):
        detail = f"{adapter.site_id} allows us no QOS {spec.attributes.qos!r}."
        problems.append(Problem("/attributes/qos", detail, "invalid", f"It allows: {', '.join(policy.qos_allowed)}."))
    if spec.array is not None:
        try:
            size = len(expand(spec.array.indices))
        except ValueError:
            size = 0
        over("/array/indices", size, policy.array_tasks_max, "tasks")
        over("/array/indices", size, policy.queued_jobs_max, "tasks")
        over("/array/indices", size, policy.queued_jobs_per_person_max, "tasks")
        if "arrays" not in adapter.capabilities:
            problems.append(Problem("/array", f"{adapter.site_id} has no job arrays.", "unsupported"))
    problems += _over_share(spec, adapter, queue)
    problems += _uncounted(spec, adapter)
    if queue is not None:
        over("/resources/node_count", nodes, queue.nodes_max or queue.nodes_total, "nodes")
        over("/attributes/duration", duration, queue.duration_max, "s")
        over("/resources/memory", spec.resources.memory, queue.memory_per_node_max, "bytes of memory per node")
        pointer = "/resources/cpu_cores_per_process"
        if spec.resources.node_count is not None or spec.resources.processes_per_node is not None:
            over(pointer, per_node, queue.cores_per_node_max, "cores on one node")
        else:
            over(pointer, spec.resources.cpu_cores_per_process, queue.cores_per_node_max, "cores of one process")
            over("/resources/process_count", cores, queue.cores_total, "cores")
        account, allowed = spec.attributes.account, queue.accounts_allowed
        if account is not None and allowed is not None and account not in allowed:
            detail = f"Queue {queue.name!r} does not take account {account!r}."
            problems.append(Problem("/attributes/account", detail, "invalid", f"It takes: {', '.join(allowed)}."))
    problems += _foreign_attributes(spec, adapter)
    return tuple(problems)


def _uncounted(spec: JobSpec, adapter: SiteAdapter) -> list[Problem]:
    """What the centre's meter does not tell could be held for, and never charged."""
    counted = ", ".join(adapter.policy.countables) or "nothing"
    return [
        Problem(f"/resources/units/{name}", f"{adapter.site_id} does not count {name}.", "unsupported",
                f"It counts: {counted}.")
        for name in spec.resources.units if name not in adapter.policy.countables
    ]  # fmt: skip


def _over_share(spec: JobSpec, adapter: SiteAdapter, queue: Queue | None) -> list[Problem]:
    """A job that is larger than all of the contracted share would wait for ever."""
    share = adapter.policy.share_core_seconds
    if share is None:
        return []
    try:
        tasks = len(expand(spec.array.indices)) if spec.array is not None else 1
    except ValueError:
        return []  # said by the check of the array itself
    asked = cores_charged(spec, queue) * (spec.attributes.duration or duration_default(adapter, queue)) * tasks
    if asked <= share:
        return []
    detail = f"It may use {asked} core-seconds; all of our share at {adapter.site_id} is {share}."
    return [Problem("/attributes/duration", detail, "over_share", "Ask for less time or fewer cores.")]


def _foreign_attributes(spec: JobSpec, adapter: SiteAdapter) -> list[Problem]:
    return [
        Problem(f"/attributes/custom_attributes/{_escaped(key)}",
                f"{adapter.site_id} runs {adapter.scheduler}, which does not know {key!r}.", "invalid",
                f"Only `{adapter.scheduler}.*` can be passed there.")
        for key in spec.attributes.custom_attributes
        if not key.startswith(f"{adapter.scheduler}.")
    ]  # fmt: skip


def node_shape(spec: JobSpec, queue: Queue | None = None) -> tuple[int, int]:
    """(nodes, cores on each) as asked; what is not said counts as one, or as what the queue gives each process."""
    r = spec.resources
    nodes = r.node_count or 1
    if r.processes_per_node is not None:
        processes = r.processes_per_node
        if r.node_count is None and r.process_count:
            nodes = -(-r.process_count // r.processes_per_node)
    else:
        processes = -(-(r.process_count or nodes) // nodes)
    return nodes, processes * _cores_of_process(spec, queue)


def _cores_of_process(spec: JobSpec, queue: Queue | None) -> int:
    return spec.resources.cpu_cores_per_process or (queue.cores_per_process if queue is not None else 1)


def cores_charged(spec: JobSpec, queue: Queue | None) -> int:
    """Cores that one task will be charged for: the whole nodes where they are exclusive."""
    nodes, per_node = node_shape(spec, queue)
    exclusive = spec.resources.exclusive_node_use or (queue is not None and queue.exclusive)
    if exclusive and queue is not None and queue.cores_per_node_max:
        return nodes * queue.cores_per_node_max
    if spec.resources.process_count and spec.resources.processes_per_node is None:
        return max(nodes, spec.resources.process_count * _cores_of_process(spec, queue))
    return nodes * per_node


def gpus_charged(spec: JobSpec, queue: Queue | None) -> int:
    """Accelerators that one task asks for."""
    r = spec.resources
    if not r.gpu_cores_per_process:
        return 0
    nodes, _ = node_shape(spec, queue)
    return r.gpu_cores_per_process * (r.process_count or nodes * (r.processes_per_node or 1))


def held_beside_cores(spec: JobSpec, queue: Queue | None, *, seconds: int) -> dict[str, int]:
    """Accelerators, nodes and memory (as far as it is asked for) that a job holds for so long, by resource."""
    nodes, _ = node_shape(spec, queue)
    held = {GPU_SECONDS: gpus_charged(spec, queue), NODE_SECONDS: nodes,
            MEMORY: nodes * (-(-(spec.resources.memory or 0) // 2**20))}  # fmt: skip
    return {resource: count * seconds for resource, count in held.items() if count}


def duration_default(adapter: SiteAdapter, queue: Queue | None) -> int:
    """What the queue gives a job that names no duration: its default, else its maximum, else a day."""
    if queue is not None and (queue.duration_default or queue.duration_max):
        return queue.duration_default or queue.duration_max or 86400
    return adapter.policy.duration_max or 86400


def merge_lifted(spec: JobSpec, lifted: Mapping[str, Any]) -> tuple[JobSpec, tuple[Problem, ...]]:
    """Fill fields from the script's directives; a field that the request set as well, and otherwise, is a problem.

    `lifted` maps `resources.node_count`-like names to values.
    """
    problems: list[Problem] = []
    top: dict[str, Any] = {}
    resources: dict[str, Any] = {}
    attributes: dict[str, Any] = {}
    parts: dict[str, tuple[Resources | Attributes | JobSpec, dict[str, Any]]] = {
        "resources": (spec.resources, resources), "attributes": (spec.attributes, attributes), "": (spec, top)
    }  # fmt: skip
    for name, value in lifted.items():
        group, _, field = name.rpartition(".")
        current, changes = parts[group]
        asked = getattr(current, field)
        default = next(f for f in fields(current) if f.name == field)
        unset = asked is None or asked == default.default or asked == {} or asked == ()
        if field in ("custom_attributes", "environment"):
            changes[field] = {**value, **asked}
        elif unset or asked == value:
            changes[field] = value
        else:
            pointer = "/" + name.replace(".", "/")
            detail = f"The request says {asked!r}, a directive in the script says {value!r}."
            problems.append(Problem(pointer, detail, "contradiction", "Remove one of the two."))
    merged = replace(
        spec, resources=replace(spec.resources, **resources), attributes=replace(spec.attributes, **attributes), **top
    )
    return merged, tuple(problems)


def pointer_of(*names: str) -> str:
    """The JSON pointer of a field; of none: the whole document."""
    return "".join(f"/{_escaped(name)}" for name in names)


def _escaped(key: str) -> str:
    """A key inside a JSON pointer (RFC 6901 section 3)."""
    return key.replace("~", "~0").replace("/", "~1")
