"""From a job spec to bsub's words. Two modes: a script under our wrapper, or the binary itself.

A program that a shell has started may crash on the compute nodes, so `sunway.mode=direct` hands the binary to bsub as
it is. No fence can stand before it then: an answer that is lost needs a person's decision (DESIGN law 1).
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

from site_adapters.config import SiteConfig
from site_adapters.errors import Refused
from site_adapters.quoting import quote
from site_adapters.script import output_paths, own_output, processes, script_parts, spool_path, staging_root
from site_adapters.script import render as render_script
from site_adapters.sunway.commands import Staged
from site_adapters.types import JobSpec, RenderedJob, Submission

# Options of bsub that go through as `sunway.<option>`; those of `_FLAGS` with an empty value.
PASSED = frozenset(
    {
        *("b", "cgsp", "share_size", "host_stack", "priv_size", "cross_size", "ro_size", "cache_size", "xmalloc"),
        *("ldm_share_mode", "ldm_share_size", "mpecg", "exclu", "akernel", "cross", "m", "p", "pr", "debug"),
        *("allmaster", "sw3run", "sw3runarg", "swlu", "mpmd"),
    }
)
_FLAGS = frozenset({"b", "xmalloc", "exclu", "akernel", "cross", "p", "pr", "debug", "allmaster"})
_VALUE = re.compile(r"[A-Za-z0-9_./:=+, -]*\Z")


@dataclass(frozen=True, slots=True)
class Shape:
    """How many nodes (0: not said), processes and core groups a job takes."""

    nodes: int
    processes: int
    cgs: int
    exclusive: bool


def render(config: SiteConfig, submission: Submission) -> RenderedJob:
    """Script and argv of one attempt; raises `Refused` for what Sunway cannot do."""
    said = words(config, submission)
    spec = submission.spec
    if mode_of(config, spec) == "direct":
        return said
    root = staging_root(config.staging_root, submission.account.home)
    stdin = f" <{quote(spec.stdin_path)}" if spec.stdin_path else ""
    output = own_output(spec, said.stdout_path, said.stderr_path)
    script = render_script("sunway.sh.j2", submission, staging_root=root, default_interpreter="/bin/sh", stdin=stdin,
                           output=output, ntasks=processes(submission),
                           id_variable=config.sunway.job_id_variable)  # fmt: skip
    return replace(said, script=script)


def words(config: SiteConfig, submission: Submission) -> RenderedJob:
    """The argv and the output paths of one attempt, without its script; every refusal is made here."""
    spec = submission.spec
    _supported(config, spec)
    root = staging_root(config.staging_root, submission.account.home)
    directory = spec.directory or f"{root}/work"
    for path in (root, directory):
        if any(path == base or path.startswith(f"{base}/") for base in config.sunway.refused_roots):
            text = f"bsub submits nothing from {path}: use a shared file system as directory"
            raise Refused(text, code="path", field=("directory",))
    stdout, stderr = output_paths(submission, root)
    direct = mode_of(config, spec) == "direct"
    if direct:
        stderr = stdout  # bsub knows no -e
    opened = stdout if direct else spool_path(submission, root)  # a script opens its own output, behind its fence
    if "%" in opened:
        field = ("stdout_path",) if direct and spec.stdout_path is not None else ()
        raise Refused("bsub reads % in an output path as its own sign", code="path", field=field)
    options = (config.command("bsub"), "-J", submission.fence_name, "-o", opened, *_options(config, spec))
    if direct:
        stdin = ("-i", spec.stdin_path) if spec.stdin_path else ()
        assert spec.executable is not None
        return RenderedJob("", (*options, *stdin, spec.executable, *spec.arguments), stdout, stderr)
    return RenderedJob("", (*options, "/bin/sh", f"{root}/jobs/{submission.fence_name}.sh"), stdout, stderr)


def staged(config: SiteConfig, submission: Submission, rendered: RenderedJob) -> Staged:
    """What is put beside the submission; the record is what the meter later needs and bjobs does not tell."""
    root = staging_root(config.staging_root, submission.account.home)
    shape = shape_of(config, submission.spec)
    record = f"cgs={shape.cgs} nodes={shape.nodes} processes={shape.processes} exclusive={int(shape.exclusive)}"
    record += f" cores={shape.cgs * config.sunway.chip.cores_per_cg}"
    record += f" manifest={submission.manifest}" if submission.manifest else ""
    return Staged(root, submission.fence_name, record, submission.spec.directory or f"{root}/work",
                  rendered.script or None)  # fmt: skip


def mode_of(config: SiteConfig, spec: JobSpec) -> str:
    """`script` or `direct`: the job's own word, else the centre's; a script cannot be handed over as a binary."""
    asked = spec.attributes.custom_attributes.get("sunway.mode", config.sunway.mode)
    if asked not in ("script", "direct"):
        raise Refused("sunway.mode is script or direct", code="custom_attribute", field=_custom_field("sunway.mode"))
    if asked == "direct" and spec.script is not None:
        if "sunway.mode" in spec.attributes.custom_attributes:
            text = "a script cannot be started without a shell: give an executable"
            raise Refused(text, code="custom_attribute", field=_custom_field("sunway.mode"))
        return "script"
    return asked


def shape_of(config: SiteConfig, spec: JobSpec) -> Shape:
    """A process is one management core with its core group, or with as many as `mpecg` says."""
    r, chip = spec.resources, config.sunway.chip
    attributes = {**config.sunway.defaults, **_own(spec)}
    each = int(attributes.get("mpecg") or 1)
    per_node = r.processes_per_node or chip.cgs_per_node // max(1, min(each, chip.cgs_per_node))
    if r.node_count is not None:
        count = r.process_count or r.node_count * (r.processes_per_node or 1)
        nodes = r.node_count
    else:
        count = r.process_count or r.processes_per_node or 1
        nodes = -(-count // per_node) if r.processes_per_node else 0
    exclusive = bool(r.exclusive_node_use) or "exclu" in attributes or r.node_count is not None
    cgs = max(count * each, nodes * chip.cgs_per_node) if exclusive and nodes else count * each
    return Shape(nodes, count, cgs, exclusive)


def _options(config: SiteConfig, spec: JobSpec) -> list[str]:
    a, r, chip = spec.attributes, spec.resources, config.sunway.chip
    if a.queue_name is None:
        raise Refused("bsub needs a queue", code="queue", field=("attributes", "queue_name"))
    words = ["-q", config.native_queue(a.queue_name)]
    if r.node_count is not None:
        per_node = r.processes_per_node or -(-(r.process_count or r.node_count) // r.node_count)
        words += ["-N", str(r.node_count), "-np", str(per_node)]
    else:
        words += ["-n", str(shape_of(config, spec).processes)]
    options = {**config.sunway.defaults, **_own(spec)}
    if r.memory is not None and "sunway.share_size" not in a.custom_attributes:
        options["share_size"] = str(-(-r.memory // (1024**2 * chip.cgs_per_node)))
    share = options.get("share_size", "")
    if chip.share_size_max is not None and share.isdigit() and int(share) > chip.share_size_max:
        own = "sunway.share_size" in a.custom_attributes
        field = _custom_field("sunway.share_size") if own else ("resources", "memory")
        text = f"share_size {share} MB is more than {chip.share_size_max} for a core group"
        raise Refused(text, code="resources", field=field)
    if r.exclusive_node_use:
        options["exclu"] = ""
    for name, value in sorted(options.items()):
        words += [f"-{name}", value] if value else [f"-{name}"]
    return [*words, *config.submit.extra]


def _own(spec: JobSpec) -> dict[str, str]:
    found = {}
    for key, value in spec.attributes.custom_attributes.items():
        name = key.removeprefix("sunway.")
        if name == "mode":
            continue
        if name not in PASSED or not _VALUE.match(value):
            text = f"{key} cannot be set: it is no option that goes through"
            raise Refused(text, code="custom_attribute", field=_custom_field(key))
        if bool(value) == (name in _FLAGS):  # else bsub takes the next word for its value, or the value for the program
            text = f"{key} takes no value" if value else f"{key} takes a value"
            raise Refused(text, code="custom_attribute", field=_custom_field(key))
        found[name] = value
    if not (found.get("mpecg") or "1").isdigit() or int(found.get("mpecg") or 1) < 1:
        text = "sunway.mpecg is a number of core groups"
        raise Refused(text, code="custom_attribute", field=_custom_field("sunway.mpecg"))
    return found


def _custom_field(key: str) -> tuple[str, ...]:
    return "attributes", "custom_attributes", key


def _supported(config: SiteConfig, spec: JobSpec) -> None:
    """What bsub has no option for is refused, never dropped."""
    a, r = spec.attributes, spec.resources
    lacks = {
        ("array",): spec.array is not None, ("attributes", "account"): a.account is not None,
        ("attributes", "qos"): a.qos is not None, ("attributes", "reservation_id"): a.reservation_id is not None,
        ("attributes", "priority"): a.priority is not None, ("attributes", "rerunnable"): a.rerunnable,
        ("resources", "gpu_cores_per_process"): bool(r.gpu_cores_per_process),
        ("resources", "cpu_cores_per_process"):
            r.cpu_cores_per_process not in (None, 1, config.sunway.chip.cores_per_cg),
    }  # fmt: skip
    if lacking := [field for field, asked in lacks.items() if asked]:
        name = lacking[0][-1]
        raise Refused(f"Sunway's bsub has no option for {name}", code=name, field=lacking[0])
    if mode_of(config, spec) == "direct":
        shells = {
            "environment": bool(spec.environment), "pre_launch": spec.pre_launch is not None,
            "post_launch": spec.post_launch is not None, "launcher": spec.launcher not in (None, "", "none"),
        }  # fmt: skip
        if wrong := [name for name, asked in shells.items() if asked]:
            text = f"{wrong[0]} needs a shell: there is none in sunway.mode=direct"
            raise Refused(text, code=wrong[0], field=(wrong[0],))
    elif spec.script is not None:
        interpreter = script_parts(spec.script, "/bin/sh")[0].split()
        if interpreter and interpreter[0].rpartition("/")[2] == "bash":
            text = "the compute nodes of a Sunway have no bash: begin the script with #!/bin/sh"
            raise Refused(text, code="script", field=("script",))
