"""Submit in this process through pyslurm, where libslurm has the controller's version (an installed extra).

pyslurm is bound to one release of Slurm: with any other it is refused in words, never tried.
"""

from __future__ import annotations

import importlib
import re
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from site_adapters.config import SiteConfig
from site_adapters.errors import Refused, Unsupported
from site_adapters.slurm.options import field_of
from site_adapters.types import Accepted, Rejected, RenderedJob, Submission, SubmitOutcome, Unknown

# sbatch options as attributes of pyslurm.JobSubmitDescription (25.11, pyslurm/core/job/submission.pyx).
_ATTRIBUTES = {
    "job-name": "name", "comment": "comment", "chdir": "working_directory", "output": "standard_output",
    "error": "standard_error", "partition": "partitions", "account": "account", "qos": "qos", "array": "array",
    "reservation": "reservations", "nodes": "nodes", "ntasks": "ntasks", "cpus-per-task": "cpus_per_task",
    "ntasks-per-node": "ntasks_per_node", "mem": "memory_per_node", "time": "time_limit", "priority": "priority",
    "constraint": "constraints", "open-mode": "log_files_open_mode",
}  # fmt: skip


@dataclass(slots=True)
class NativeSubmit:
    """pyslurm as the submit backend of a site on this machine."""

    config: SiteConfig
    module: Any

    def assert_takes(self, words: RenderedJob) -> None:
        _properties(words.argv)

    def submit(self, jobs: Sequence[tuple[Submission, RenderedJob]]) -> list[SubmitOutcome]:
        return [self._submit_one(rendered) for _, rendered in jobs]

    def close(self) -> None:
        """Nothing is kept open."""

    def _submit_one(self, rendered: RenderedJob) -> SubmitOutcome:
        wanted = {"environment": "NONE", "is_requeueable": "--requeue" in rendered.argv, **_properties(rendered.argv)}
        with tempfile.TemporaryDirectory(prefix="penstock-") as folder:
            script = Path(folder, "job.sh")
            script.write_text(rendered.script, "utf-8")
            try:
                return Accepted(str(self.module.JobSubmitDescription(script=str(script), **wanted).submit()))
            except self.module.RPCError as exc:
                text = str(exc)
                lost = re.search(r"timed out|Unable to contact|Zero Bytes", text)
                return Unknown(text) if lost else Rejected(text)


def _properties(argv: Sequence[str]) -> dict[str, Any]:
    """sbatch's options as pyslurm names them; raises `Refused` for an option without a name there."""
    found = {}
    for word in argv[1:]:
        name, _, value = word.removeprefix("--").partition("=")
        if name in _ATTRIBUTES:
            found[_ATTRIBUTES[name]] = value
        elif name not in ("parsable", "ignore-pbs", "export", "requeue", "no-requeue"):
            text = f"--{name} cannot be given through pyslurm here"
            raise Refused(text, code="unsupported", field=field_of(name))
    return found


def load(config: SiteConfig, controller_version: str) -> NativeSubmit:
    """The backend, or `Unsupported` with what is missing: the package, or its being of the controller's release."""
    if config.transport.kind != "local":
        raise Unsupported("backend pyslurm talks to the controller from this machine: transport.kind must be local")
    try:
        module = importlib.import_module("pyslurm")
    except ImportError as exc:
        raise Unsupported(
            "backend pyslurm: the extra is not installed (pip install penstock-gateway[pyslurm])"
        ) from exc
    ours, theirs = (".".join(v.split(".")[:2]) for v in (str(module.__version__), controller_version))
    if [int(p) for p in ours.split(".")] != [int(p) for p in theirs.split(".")]:
        raise Unsupported(f"backend pyslurm {module.__version__} is for Slurm {ours}; the controller is {theirs}")
    return NativeSubmit(config, module)
