"""From a job spec to a PBS script: `#PBS` lines in front, output paths and our marks in qsub's argv.

The lines hold only words that were checked; paths are free text, so they go as arguments. The job's own output is
opened by the script, behind its fence.
"""

from __future__ import annotations

import re
from dataclasses import replace

from site_adapters.config import SiteConfig
from site_adapters.dialect_config import PbsConfig
from site_adapters.errors import Refused
from site_adapters.indices import expand
from site_adapters.quoting import quote
from site_adapters.script import output_paths, own_output, processes, spool_path, staging_root
from site_adapters.script import render as render_script
from site_adapters.types import Array, JobSpec, RenderedJob, Resources, Submission

# Options that go through as they are, as `pbs.<option>`: what they become.
PASSED = {
    "place": "-l place={}", "project": "-P {}", "group_list": "-W group_list={}", "umask": "-W umask={}",
    "sandbox": "-W sandbox={}",
}  # fmt: skip
_WORD = re.compile(r"[A-Za-z0-9_.:=+/@%-]+\Z")
# Resources that a job says by its fields: said once more they would win over what was checked, priced and allowed.
_SAID = frozenset({"select", "nodes", "nodect", "neednodes", "ncpus", "procs", "mpiprocs", "ngpus", "gpus", "mem",
                   "walltime", "place", "qos", "mppwidth", "mppnppn", "mppdepth", "size"})  # fmt: skip
# The field that an option of qsub stands for.
_FIELDS = {
    "A": ("attributes", "account"), "q": ("attributes", "queue_name"), "p": ("attributes", "priority"),
    "r": ("attributes", "rerunnable"), "J": ("array",), "t": ("array",),
    "P": ("attributes", "custom_attributes", "pbs.project"),
}  # fmt: skip
_RANGE = re.compile(r"(\d+)-(\d+)(?::(\d+))?\Z")


def render(config: SiteConfig, submission: Submission) -> RenderedJob:
    """Script and argv of one attempt; raises `Refused` for what this centre or PBS cannot do."""
    lines, said = _lines_and_words(config, submission)
    root = staging_root(config.staging_root, submission.account.home)
    spec = submission.spec
    stdin = f" <{quote(spec.stdin_path)}" if spec.stdin_path else ""
    output = own_output(spec, said.stdout_path, said.stderr_path)
    script = render_script("pbs.sh.j2", submission, staging_root=root, stdin=stdin, directives=lines,
                           ntasks=processes(submission), output=output)  # fmt: skip
    return replace(said, script=script)


def words(config: SiteConfig, submission: Submission) -> RenderedJob:
    """The argv and the output paths of one attempt, without its script; every refusal is made here."""
    return _lines_and_words(config, submission)[1]


def _lines_and_words(config: SiteConfig, submission: Submission) -> tuple[list[str], RenderedJob]:
    root = staging_root(config.staging_root, submission.account.home)
    stdout, stderr = output_paths(submission, root)
    lines = directives(config, submission)
    spec = submission.spec
    marks = f"PENSTOCK_FENCE={submission.fence_name}"
    marks += f",PENSTOCK_MANIFEST={submission.manifest}" if submission.manifest else ""
    # What PBS copies back at the end would replace what the first copy of this attempt printed (law 1).
    spool = spool_path(submission, root)
    out, err = (_path(f"{spool}.{which}", config, spec) for which in ("out", "err"))
    argv = (config.command("qsub"), "-o", out, "-e", err, "-v", marks, *config.submit.extra)
    _allowed(config, [*lines, *config.submit.extra])
    return lines, RenderedJob("", argv, stdout, stderr)


def directives(config: SiteConfig, submission: Submission) -> list[str]:
    """The `#PBS` lines without their sign, one option on each."""
    spec, a = submission.spec, submission.spec.attributes
    torque = config.pbs.flavour == "torque"
    lines = [f"-N {job_name(submission, config.pbs.name_max)}", "-S /bin/bash", f"-r {'y' if a.rerunnable else 'n'}"]
    if not torque and config.pbs.direct_write:
        lines.append("-k doe")
    lines += ["-h"] if a.submit_as_hold else []
    queue = a.queue_name if a.queue_name is None else config.native_queue(a.queue_name)
    if a.reservation_id is not None and not torque:
        queue = a.reservation_id  # a reservation of PBS Pro is a queue of its own
    named = "queue_name" if a.reservation_id is None or torque else "reservation_id"
    lines += [f"-q {_word(queue, 'queue', 'attributes', named)}"] if queue is not None else []
    lines += [f"-A {_word(a.account, 'account', 'attributes', 'account')}"] if a.account is not None else []
    lines += [f"-p {a.priority}"] if a.priority is not None else []
    # Each on a line of its own: what reads #PBS lines beside PBS takes the rest of the line as part of the first.
    lines += [f"-l {wanted}" for wanted in _resources(config.pbs, spec)]
    lines += _placement(config, spec)
    if a.reservation_id is not None and torque:
        text = "Torque's reservations are its scheduler's own: qsub has no option for them"
        raise Refused(text, code="reservation", field=("attributes", "reservation_id"))
    if a.qos is not None:
        if not torque:
            raise Refused("PBS has no QOS: choose a queue", code="qos", field=("attributes", "qos"))
        lines.append(f"-l qos={_word(a.qos, 'qos', 'attributes', 'qos')}")
    if spec.array is not None:
        lines.append(_array(spec.array, torque=torque))
    return lines + _custom(spec, exclusive=_exclusive(config, spec))


def job_name(submission: Submission, name_max: int) -> str:
    """The job's name, cut from its readable front: the token stays whole as long as there is room for it.

    Where there is none, its head stands there; the whole token is in the job's variables.
    """
    name, token = submission.site_name, submission.fence_name
    if len(name) <= name_max:
        return name
    room = name_max - len(token) - 1
    return f"{name[:room]}-{token}" if room > 0 else token[:name_max]


def _resources(pbs: PbsConfig, spec: JobSpec) -> list[str]:
    chunks, per_chunk = chunk_shape(spec.resources)
    r = spec.resources
    cores = per_chunk * (r.cpu_cores_per_process or 1)
    gpus = per_chunk * (r.gpu_cores_per_process or 0)
    kib = None if r.memory is None else -(-r.memory // 1024)
    if pbs.flavour == "torque":
        wanted = [f"nodes={chunks}:ppn={cores}" + (f":gpus={gpus}" if gpus else "")]
        wanted += [f"mem={kib * chunks}kb"] if kib is not None else []
    else:
        chunk = f"select={chunks}:ncpus={cores}:mpiprocs={per_chunk}" + (f":ngpus={gpus}" if gpus else "")
        chunk += f":mem={kib}kb" if kib is not None else ""
        extra = spec.attributes.custom_attributes.get("pbs.chunk")
        wanted = [f"{chunk}:{_chunk(extra)}" if extra else chunk]
    duration = spec.attributes.duration
    if duration is not None:
        wanted.append(f"walltime={duration // 3600:02}:{duration // 60 % 60:02}:{duration % 60:02}")
    return wanted


def chunk_shape(r: Resources) -> tuple[int, int]:
    """(chunks, processes in each): nodes where they are named, else one process each, as PBS may spread them."""
    if r.node_count is not None:
        per_node = r.processes_per_node or -(-(r.process_count or r.node_count) // r.node_count)
        return r.node_count, per_node
    if r.processes_per_node is not None:
        return -(-(r.process_count or r.processes_per_node) // r.processes_per_node), r.processes_per_node
    if r.memory is not None:
        return 1, r.process_count or 1  # memory is counted by the node
    return r.process_count or 1, 1


def _chunk(words: str) -> str:
    """More words of a chunk: none that the job's fields say, and no further chunk."""
    said = [word for word in words.split(":") if word.partition("=")[0] in _SAID or "+" in word or "=" not in word]
    if said:
        text = f"pbs.chunk: {said[0]!r} is said by `resources`"
        raise Refused(text, code="custom_attribute", field=_custom_field("pbs.chunk"))
    return _word(words, "pbs.chunk", *_custom_field("pbs.chunk"))


def _exclusive(config: SiteConfig, spec: JobSpec) -> bool:
    queue = config.queues.get(spec.attributes.queue_name or "")
    return bool(spec.resources.exclusive_node_use) or (queue is not None and queue.exclusive)


def _placement(config: SiteConfig, spec: JobSpec) -> list[str]:
    exclusive = _exclusive(config, spec)
    if config.pbs.flavour == "torque":
        return ["-n"] if exclusive else []
    if "pbs.place" in spec.attributes.custom_attributes:
        return []
    nodes = spec.resources.node_count
    words = [config.pbs.place or ("scatter" if nodes is not None and nodes > 1 else "")]
    words += ["excl"] if exclusive and "excl" not in words[0] else []
    place = ":".join(filter(None, words))
    return [f"-l place={place}"] if place else []


def _array(array: Array, *, torque: bool) -> str:
    most = f"%{array.max_parallel}" if array.max_parallel is not None else ""
    if torque:
        # Torque lists and ranges know no step.
        indices = array.indices if ":" not in array.indices else ",".join(map(str, expand(array.indices)))
        return f"-t {indices}{most}"
    match = _RANGE.match(array.indices)
    if match is None or match[1] == match[2]:
        text = f"PBS arrays are one range of at least two tasks, not {array.indices!r}"
        raise Refused(text, code="array", field=("array", "indices"))
    return f"-J {array.indices}{most}"


def _custom(spec: JobSpec, *, exclusive: bool) -> list[str]:
    lines = []
    for key, value in sorted(spec.attributes.custom_attributes.items()):
        name, field = key.removeprefix("pbs."), _custom_field(key)
        if name == "chunk":
            continue
        if name.startswith("resource.") and name.removeprefix("resource.") in _SAID:
            raise Refused(f"{key} is said by a field of the job", code="custom_attribute", field=field)
        if name == "place" and "excl" in value:
            raise Refused(f"{key}: whole nodes are said by exclusive_node_use", code="custom_attribute", field=field)
        if name.startswith("resource."):
            lines.append(f"-l {_word(name.removeprefix('resource.'), key, *field)}={_word(value, key, *field)}")
        elif name in PASSED:
            whole = ":excl" if name == "place" and exclusive else ""
            lines.append(PASSED[name].format(_word(value, key, *field) + whole))
        else:
            text = f"{key} cannot be set: it is no option that goes through"
            raise Refused(text, code="custom_attribute", field=field)
    return lines


def _custom_field(key: str) -> tuple[str, ...]:
    return "attributes", "custom_attributes", key


def _word(value: str | None, what: str, *field: str) -> str:
    if value is None or not _WORD.match(value):
        raise Refused(f"{what} {value!r} cannot be written in a #PBS line", code="custom_attribute", field=field)
    return value


def _path(path: str, config: SiteConfig, spec: JobSpec) -> str:
    """An output path as qsub reads it: `host:path` is its form, so a colon cannot be in it."""
    if ":" in path or "," in path:
        raise Refused(f"{path}: PBS takes no colon and no comma in an output path", code="path")
    # Torque's server adds a task's index itself.
    return path if spec.array is None or config.pbs.flavour == "torque" else f"{path}.^array_index^"


def _allowed(config: SiteConfig, options: list[str]) -> None:
    names = {word.split()[0].lstrip("-") for word in options if word.startswith("-")}
    if wrong := sorted(names.intersection(config.submit.forbidden)):
        field = _FIELDS.get(wrong[0], ())
        raise Refused(f"{config.site} does not allow -{wrong[0]}", code="forbidden_option", field=field)
    if missing := sorted(set(config.submit.required) - names):
        field = _FIELDS.get(missing[0], ())
        raise Refused(f"{config.site} requires -{missing[0]}", code="required_option", field=field)
