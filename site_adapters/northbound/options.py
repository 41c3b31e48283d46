"""From a job spec to `mapAppJobInfo` and a script; what the API has no word for is refused, never dropped."""

from __future__ import annotations

from dataclasses import replace

from site_adapters.config import SiteConfig
from site_adapters.errors import Refused
from site_adapters.quoting import quote
from site_adapters.script import output_paths, processes
from site_adapters.script import render as render_script
from site_adapters.types import JobSpec, RenderedJob, Submission

# Members of mapAppJobInfo that go through as `northbound.<name>`.
PASSED = {"ndcu": "GAP_NDCU", "appname": "GAP_APPNAME", "scheduler_opt": "GAP_SCHEDULER_OPT_WEB"}


def render(submission: Submission) -> RenderedJob:
    """The script of one attempt, and its output paths below the job's directory."""
    spec = submission.spec
    said = words(submission)
    stdin = f" <{quote(spec.stdin_path)}" if spec.stdin_path else ""
    script = render_script("northbound.sh.j2", submission, staging_root="", stdin=stdin, ntasks=processes(submission))
    return replace(said, script=script)


def words(submission: Submission) -> RenderedJob:
    """What is said beside the script; every refusal is made here."""
    spec = submission.spec
    _supported(spec)
    stdout, stderr = output_paths(submission, _directory(submission))
    base = f"{_directory(submission)}/{submission.fence_name}"
    stdout = stdout if spec.stdout_path else f"{base}.out"
    stderr = stderr if spec.stderr_path else f"{base}.err"
    return RenderedJob("", ("POST", "/hpc/openapi/v2/apptemplates/BASIC/BASE/job"), stdout, stderr)


def job_info(config: SiteConfig, submission: Submission, rendered: RenderedJob) -> dict[str, str]:
    """The members of one submission; empty ones are sent as the documents show them."""
    a, r = submission.spec.attributes, submission.spec.resources
    cores = r.cpu_cores_per_process or 1
    per_node = None if r.node_count is None else (r.processes_per_node or -(-processes(submission) // r.node_count))
    duration = a.duration or 86400
    gpus = (r.gpu_cores_per_process or 0) * (per_node or processes(submission))
    info = {
        "GAP_CMD_FILE": rendered.script, "GAP_SUBMIT_TYPE": "cmd", "GAP_JOB_NAME": submission.site_name,
        "GAP_WORK_DIR": _directory(submission), "GAP_QUEUE": config.native_queue(a.queue_name or ""),
        "GAP_NNODE": str(r.node_count or 1), "GAP_NODE_STRING": "",
        "GAP_NPROC": "" if per_node is not None else str(processes(submission) * cores),
        "GAP_PPN": "" if per_node is None else str(per_node * cores), "GAP_NGPU": str(gpus) if gpus else "",
        "GAP_NDCU": "", "GAP_JOB_MEM": f"{-(-r.memory // 1024**2)}MB" if r.memory is not None else "",
        "GAP_WALL_TIME": f"{duration // 3600:02}:{duration // 60 % 60:02}:{duration % 60:02}",
        "GAP_EXCLUSIVE": "1" if r.exclusive_node_use else "", "GAP_APPNAME": "BASE", "GAP_MULTI_SUB": "",
        "GAP_STD_OUT_FILE": rendered.stdout_path, "GAP_STD_ERR_FILE": rendered.stderr_path,
    }  # fmt: skip
    for key, value in a.custom_attributes.items():
        info[PASSED[key.removeprefix("northbound.")]] = value
    return info


def _directory(submission: Submission) -> str:
    return submission.spec.directory or submission.account.home


def _supported(spec: JobSpec) -> None:
    a = spec.attributes
    lacks = {
        ("array",): spec.array is not None, ("attributes", "account"): a.account is not None,
        ("attributes", "qos"): a.qos is not None, ("attributes", "reservation_id"): a.reservation_id is not None,
        ("attributes", "priority"): a.priority is not None, ("attributes", "rerunnable"): a.rerunnable,
    }  # fmt: skip
    if lacking := [field for field, asked in lacks.items() if asked]:
        name = lacking[0][-1]
        raise Refused(f"this centre's API has no word for {name}", code=name, field=lacking[0])
    for key in a.custom_attributes:
        if key.removeprefix("northbound.") not in PASSED:
            text = f"{key} cannot be set: it is no member that goes through"
            raise Refused(text, code="custom_attribute", field=("attributes", "custom_attributes", key))
    if a.queue_name is None:
        raise Refused("this centre's API needs a queue", code="queue", field=("attributes", "queue_name"))
