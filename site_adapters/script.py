"""From a submission to script text: Jinja2 with undefined names refused and every value quoted."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

from jinja2 import Environment, FunctionLoader, StrictUndefined

from site_adapters.quoting import quote
from site_adapters.types import JobSpec, Submission

# Where a script's own interpreter line may begin.
_SHEBANG = "#!"


def _load(name: str) -> str:
    return (files("job_templates") / "dialects" / name).read_text("utf-8")


_ENVIRONMENT = Environment(
    loader=FunctionLoader(_load),
    undefined=StrictUndefined,
    autoescape=False,  # noqa: S701 - shell, not HTML: every value goes through the `sh` filter
    keep_trailing_newline=True,
    trim_blocks=True,
    lstrip_blocks=True,
)
_ENVIRONMENT.filters["sh"] = lambda value: quote(str(value))


def render(
    template: str, submission: Submission, *, staging_root: str, default_interpreter: str = "/bin/bash", **more: Any
) -> str:
    """The script of one attempt. `default_interpreter`: for scripts that name none; `more`: the dialect's values."""
    spec = submission.spec
    interpreter, body = script_parts(spec.script, default_interpreter) if spec.script is not None else ("", "")
    marker = f"PENSTOCK-BODY-{submission.tag}"
    return _ENVIRONMENT.get_template(template).render(
        spec=spec,
        submission=submission,
        staging_root=staging_root,
        fence=f"{staging_root}/fence/{submission.fence_name}",
        interpreter=interpreter,
        body=body,
        marker=marker,
        command=command_words(submission),
        **more,
    )


def staging_root(pattern: str, home: str) -> str:
    """The shared staging area of an account: `{home}` is its home folder, `{user}` the last part of that."""
    home = home.rstrip("/")
    return pattern.replace("{home}", home).replace("{user}", home.rpartition("/")[2])


def output_paths(
    submission: Submission, root: str, *, known: Callable[[str], str] = str, suffix: str = ".{task}"
) -> tuple[str, str]:
    """Absolute paths of stdout and stderr with `{task}` for arrays; relative ones are below the job's directory.

    `known` translates a scheduler's own signs in a path that the person gave.
    """
    spec = submission.spec
    base = f"{root}/out/{submission.fence_name}"
    task = suffix if spec.array is not None else ""
    directory = spec.directory or submission.account.home

    def placed(path: str | None, default: str) -> str:
        if path is None:
            return default
        told = known(path)
        return told if told.startswith("/") else f"{directory}/{told}"

    stdout = placed(spec.stdout_path, f"{base}{task}.out")
    return stdout, placed(spec.stderr_path, f"{base}{task}.err")


@dataclass(frozen=True, slots=True)
class Output:
    """Where a script itself writes to, as shell words; `anew`: its first run begins the files anew."""

    stdout: str
    stderr: str
    anew: bool


def own_output(spec: JobSpec, stdout: str, stderr: str) -> Output:
    """For schedulers whose own output file another copy of the attempt may write to: behind the fence, by the script.

    A file that all tasks of an array share is never begun anew: nobody knows which of them is the first.
    """
    named = spec.stdout_path is not None or spec.stderr_path is not None
    apart = spec.array is None or all("{task}" in path for path in (stdout, stderr))
    return Output(_shell_path(stdout), _shell_path(stderr), anew=named and apart)


def spool_path(submission: Submission, root: str) -> str:
    """Where a scheduler may put what it opens itself: nothing but what a script says before its fence."""
    return f"{root}/out/{submission.fence_name}.spool"


def _shell_path(path: str) -> str:
    return '"$PENSTOCK_ARRAY_TASK"'.join(quote(part) for part in path.split("{task}"))


def command_words(submission: Submission) -> tuple[str, ...]:
    """Launcher, executable and arguments as argv; empty for scripts."""
    spec = submission.spec
    if spec.executable is None:
        return ()
    count = str(processes(submission))
    launchers: dict[str, tuple[str, ...]] = {
        "": (), "none": (), "single": (), "srun": ("srun",), "mpirun": ("mpirun", "-n", count),
        "mpiexec": ("mpiexec", "-n", count),
    }  # fmt: skip
    name = spec.launcher or ""
    return (*launchers.get(name, tuple(name.split())), spec.executable, *spec.arguments)


def processes(submission: Submission) -> int:
    """How many processes the job asked for."""
    r = submission.spec.resources
    if r.process_count is not None:
        return r.process_count
    return (r.node_count or 1) * (r.processes_per_node or 1)


def script_parts(script: str, shell: str = "/bin/bash") -> tuple[str, str]:
    """(interpreter line without `#!`, the rest); a script without one is a script of the shell."""
    text = script.replace("\r\n", "\n")
    if not text.startswith(_SHEBANG):
        return shell, text
    first, _, rest = text.partition("\n")
    return first.removeprefix(_SHEBANG).strip(), rest
