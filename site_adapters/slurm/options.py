"""From a job spec to sbatch's argv and script. The caller's environment never travels (`--export=NONE`)."""

from __future__ import annotations

import re
from dataclasses import replace

from site_adapters.config import SiteConfig
from site_adapters.directives import FLAGS, PASSED
from site_adapters.errors import Refused
from site_adapters.quoting import quote
from site_adapters.script import output_paths, staging_root
from site_adapters.script import render as render_script
from site_adapters.types import JobSpec, RenderedJob, Submission


def render(config: SiteConfig, submission: Submission) -> RenderedJob:
    """Script and argv of one attempt; raises `Refused` for what this centre does not allow."""
    said = words(config, submission)
    root = staging_root(config.staging_root, submission.account.home)
    spec = submission.spec
    stdin = f" <{quote(spec.stdin_path)}" if spec.stdin_path else ""
    named = spec.stdout_path is not None or spec.stderr_path is not None
    script = render_script("slurm.sh.j2", submission, staging_root=root, stdin=stdin, named_output=named)
    return replace(said, script=script)


def words(config: SiteConfig, submission: Submission) -> RenderedJob:
    """The argv and the output paths of one attempt, without its script; every refusal is made here."""
    root = staging_root(config.staging_root, submission.account.home)
    spec = submission.spec
    stdout, stderr = output_paths(submission, root, known=lambda path: _known_pattern(path, submission))
    argv = (
        config.command("sbatch"), "--parsable", "--ignore-pbs", "--export=NONE",
        f"--job-name={submission.site_name}",
        *((f"--comment={submission.manifest}",) if submission.manifest else ()),
        f"--chdir={spec.directory or submission.account.home}",
        f"--output={_pattern(stdout, spec, 'stdout_path')}", f"--error={_pattern(stderr, spec, 'stderr_path')}",
        "--open-mode=append",  # a second copy opens the file before the fence can speak
        *_resources(spec), *_attributes(config, spec), *config.submit.extra,
    )  # fmt: skip
    _allowed(config, argv)
    return RenderedJob("", argv, stdout, stderr)


def field_of(option: str) -> tuple[str, ...]:
    """The field of a job that an option of sbatch stands for; of an option that only the centre sets: none."""
    custom = ("attributes", "custom_attributes", f"slurm.{option}")
    return _FIELDS.get(option, custom if option in PASSED else ())


_FIELDS = {
    "partition": ("attributes", "queue_name"), "account": ("attributes", "account"), "qos": ("attributes", "qos"),
    "reservation": ("attributes", "reservation_id"), "priority": ("attributes", "priority"),
    "time": ("attributes", "duration"), "requeue": ("attributes", "rerunnable"),
    "no-requeue": ("attributes", "rerunnable"), "array": ("array",), "nodes": ("resources", "node_count"),
    "ntasks": ("resources", "process_count"), "ntasks-per-node": ("resources", "processes_per_node"),
    "cpus-per-task": ("resources", "cpu_cores_per_process"), "mem": ("resources", "memory"),
    "exclusive": ("resources", "exclusive_node_use"),
    "gpus-per-task": ("resources", "gpu_cores_per_process"), "chdir": ("directory",),
}  # fmt: skip
_SIGNS = re.compile(r"%(\d*)(.)")


def _known_pattern(path: str, submission: Submission) -> str:
    """Slurm's own signs in a path, as far as we can find the file again: %j %A %a %x %u %%."""

    def one(match: re.Match[str]) -> str:
        task = "{task}" if submission.spec.array is not None else "4294967294"  # as slurmd writes it then
        signs = {"j": "{native}", "A": "{native}", "a": task, "x": submission.site_name,
                 "u": submission.account.username, "%": "%"}  # fmt: skip
        if match[1] or match[2] not in signs:
            field = "stdout_path" if path == submission.spec.stdout_path else "stderr_path"
            text = f"{match[0]} in an output path cannot be followed: use %j, %A, %a, %x or %u"
            raise Refused(text, code="path", field=(field,))
        return signs[match[2]]

    return _SIGNS.sub(one, path)


def _pattern(path: str, spec: JobSpec, field: str) -> str:
    """A path as sbatch reads it: a backslash makes it read no signs, and it is left out of the name."""
    if "\\" in path:
        asked = getattr(spec, field)
        named = field if "\\" in (asked or "") else "directory"
        raise Refused("sbatch takes no backslash in an output path", code="path", field=(named,))
    return path.replace("%", "%%").replace("{task}", "%a").replace("{native}", "%A")


def _resources(spec: JobSpec) -> list[str]:
    r = spec.resources
    options = {
        "nodes": r.node_count,
        "ntasks": r.process_count,
        "ntasks-per-node": r.processes_per_node,
        "cpus-per-task": r.cpu_cores_per_process,
        "mem": None if r.memory is None else f"{-(-r.memory // 1024)}K",
        "gpus-per-task": r.gpu_cores_per_process or None,
    }
    argv = [f"--{name}={value}" for name, value in options.items() if value is not None]
    return [*argv, "--exclusive"] if r.exclusive_node_use else argv


def _attributes(config: SiteConfig, spec: JobSpec) -> list[str]:
    a = spec.attributes
    options = {
        "partition": None if a.queue_name is None else config.native_queue(a.queue_name),
        "account": a.account,
        "qos": a.qos,
        "reservation": a.reservation_id,
        "priority": a.priority,
        # Slurm counts in minutes: rounded up, so that nobody loses the rest of one.
        "time": None if a.duration is None else -(-a.duration // 60),
    }
    argv = [f"--{name}={value}" for name, value in options.items() if value is not None]
    argv.append("--requeue" if a.rerunnable else "--no-requeue")
    argv += ["--hold"] if a.submit_as_hold else []
    if spec.array is not None:
        most = f"%{spec.array.max_parallel}" if spec.array.max_parallel is not None else ""
        argv.append(f"--array={spec.array.indices}{most}")
    return argv + _custom(spec)


def _custom(spec: JobSpec) -> list[str]:
    argv = []
    for key, value in sorted(spec.attributes.custom_attributes.items()):
        name = key.removeprefix("slurm.")
        if name == "licenses" and spec.resources.units:
            value = ",".join(filter(None, (value, _licences(spec))))  # of two options sbatch takes the last one alone
        field = ("attributes", "custom_attributes", key)
        if name not in PASSED:
            text = f"slurm.{name} cannot be set: it is no option that goes through"
            raise Refused(text, code="custom_attribute", field=field)
        if name in FLAGS and value:
            raise Refused(f"slurm.{name} takes no value", code="custom_attribute", field=field)
        # An option without its value would take the next one, a required one of the centre, for it.
        argv.append(f"--{name}" if name in FLAGS else f"--{name}={value}")
    if spec.resources.units and "slurm.licenses" not in spec.attributes.custom_attributes:
        argv.append(f"--licenses={_licences(spec)}")
    return argv


def _licences(spec: JobSpec) -> str:
    """What is counted, not timed, is a licence to Slurm: man sbatch, --licenses."""
    return ",".join(f"{name}:{count}" for name, count in sorted(spec.resources.units.items()))


def _allowed(config: SiteConfig, argv: tuple[str, ...]) -> None:
    names = {word[2:].partition("=")[0] for word in argv[1:]}
    if wrong := sorted(names.intersection(config.submit.forbidden)):
        raise Refused(f"{config.site} does not allow --{wrong[0]}", code="forbidden_option", field=field_of(wrong[0]))
    if missing := sorted(set(config.submit.required) - names):
        raise Refused(f"{config.site} requires --{missing[0]}", code="required_option", field=field_of(missing[0]))
