"""What is here: the scheduler, its queues and accounts, the clock's zone, storage that nodes share."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import yaml

# Of each scheduler: the command that submits, and the others that we call.
SCHEDULERS = {
    "slurm": ("sbatch", "squeue", "sacct", "scancel", "scontrol", "sinfo", "sacctmgr"),
    "pbs": ("qsub", "qstat", "qdel", "qhold", "qrls", "qalter", "qmove", "qsig", "pbsnodes"),
    "sunway": ("bsub", "bjobs", "bkill", "qload", "cnload"),
}
# Slurm under other names: Tianhe's.
_RENAMED = {"yhbatch": ("sbatch", "yhbatch"), "yhqueue": ("squeue", "yhqueue"), "yhacct": ("sacct", "yhacct"),
            "yhcancel": ("scancel", "yhcancel"), "yhcontrol": ("scontrol", "yhcontrol"), "yhi": ("sinfo", "yhi"),
            "yhacctmgr": ("sacctmgr", "yhacctmgr")}  # fmt: skip
SHARED = frozenset({"nfs", "nfs4", "lustre", "gpfs", "beegfs", "ceph", "fuse.ceph", "orangefs", "panfs", "fhgfs",
                    "swgfs", "9p", "parastor", "yrfs"})  # fmt: skip


@dataclass(frozen=True, slots=True)
class Found:
    """What detection saw."""

    scheduler: str
    cluster: str
    commands: Mapping[str, str]
    queues: tuple[str, ...]
    accounts: tuple[str, ...]
    zone: str
    shared: tuple[str, ...]
    notes: tuple[str, ...]


def detect(environment: Mapping[str, str]) -> Found:
    """Look around; what cannot be found is said in `notes`, nothing is assumed."""
    notes: list[str] = []

    def there(program: str) -> bool:
        """By the PATH that the commands will have (`--set PATH=…`), else by ours."""
        return shutil.which(program, path=environment.get("PATH")) is not None

    renamed = {ours: theirs for name, (ours, theirs) in _RENAMED.items() if there(name)}
    scheduler = next((s for s, words in SCHEDULERS.items() if there(renamed.get(words[0], words[0]))), "local")
    if scheduler == "local":
        notes.append("no scheduler's commands were found in PATH: jobs would be processes on this machine")
    if scheduler not in ("slurm", "local"):
        notes.append(f"{scheduler}: look at site_configs for what its site file needs")
    cluster = ""
    queues: tuple[str, ...] = ()
    accounts: tuple[str, ...] = ()
    if scheduler == "slurm":
        config = _said(environment, renamed.get("scontrol", "scontrol"), "show", "config")
        cluster = next((li.partition("=")[2].strip() for li in config.splitlines() if li.startswith("ClusterName")), "")
        queues = _lines(_said(environment, renamed.get("sinfo", "sinfo"), "-h", "-o", "%R"))
        accounts = _lines(
            _said(environment, renamed.get("sacctmgr", "sacctmgr"), "-nP", "show", "account", "format=account")
        )
        if not config:
            notes.append("slurmctld does not answer: its queues could not be read")
        if not accounts:
            notes.append("no accounts could be read: is slurmdbd there?")
    shared = shared_mounts()
    if not shared:
        notes.append("no shared file system was recognised: staging_root must be on storage that all nodes see")
    return Found(scheduler, cluster, renamed, queues, accounts, zone_here(), shared, tuple(notes))


def site_yaml(found: Found, *, site: str, account: str, environment: Mapping[str, str]) -> str:
    """A site file to begin with: what was found, the safe limits to start from, and a comment for each section."""
    root = os.geteuid() == 0
    own = {"username": account}
    content: dict[str, object] = {
        "site": site, "title": {"en": site}, "scheduler": found.scheduler,
        "transport": {"kind": "local", "switch_user": root},
    }  # fmt: skip
    if found.scheduler != "local":
        content["credentials"] = {"observer": own, "meter": own} | (
            {"provisioner": {"username": "root"}} if root else {}
        )
    content |= {"zone": found.zone}
    content |= {"commands": dict(found.commands)} if found.commands else {}
    content |= {"environment": dict(environment)} if environment else {}
    content["policy"] = {
        "queued_jobs_max": 100, "queued_jobs_per_person_max": 50, "submits_per_minute": 60, "calls_per_minute": 240,
        "cores_in_use_max": 256, "duration_max": 86400, "log_interval_s": 1, "log_bytes_max": 1048576,
    }  # fmt: skip
    text = yaml.dump(content, Dumper=_Plain, sort_keys=False, allow_unicode=True)
    queues = ", ".join(found.queues) or "unknown"
    accounts = ", ".join(found.accounts) or "unknown"
    return (
        f"# The centre's own file: its adapter and its policy. `penstock-site check` says what is wrong with it.\n"
        f"# Seen here: queues {queues}; accounts {accounts}; shared storage {', '.join(found.shared) or 'unknown'}.\n"
        f"{text}"
        f"# The policy binds whatever the gateway wants. More words: cores_max, nodes_max, nodes_in_use_max, hours,\n"
        f"# people_admitted, projects_admitted, qos_allowed, share_core_seconds, share_until, verbs_refused,\n"
        f"# permission_model (own_account, sub_site, tenant, referral).\n"
    )


class _Plain(yaml.SafeDumper):
    """What is there twice is written twice: `&id001` is nothing that staff should have to read."""

    def ignore_aliases(self, data: object) -> bool:
        return True


def docking_yaml(*, accounts: tuple[str, ...], gateway_url: str) -> str:
    """Who may be acted as, and where the agent dials."""
    content: dict[str, object] = {"accounts": list(accounts), "listen": "127.0.0.1:8650"}
    content |= {"gateway_url": gateway_url} if gateway_url else {}
    content["orders"] = {"approve_unasked": [], "parent_account": "root"}
    return (
        "# Logins that the gateway may act as (patterns as `pn_*`), beside those that approved orders open.\n"
        "# `listen` is for `serve`, `gateway_url` (wss://…/if2/agent) for `connect`: nothing listens then.\n"
        + yaml.safe_dump(content, sort_keys=False)
    )


def zone_here() -> str:
    """The machine's time zone, as the tz database calls it."""
    link = Path("/etc/localtime")
    if link.is_symlink():
        name = str(link.resolve()).partition("zoneinfo/")[2]
        if name and not name.startswith(("Etc/UTC", "posix")):
            return name
    file = Path("/etc/timezone")
    name = file.read_text().strip() if file.exists() else ""
    return "UTC" if name in ("", "Etc/UTC") else name


def shared_mounts() -> tuple[str, ...]:
    """Mount points of file systems that several machines see."""
    rows = [line.split() for line in Path("/proc/mounts").read_text().splitlines()]
    return tuple(sorted({row[1] for row in rows if len(row) > 2 and row[2] in SHARED}))


def mount_of(path: Path) -> tuple[str, str]:
    """(mount point, file system type) below which a path lies."""
    best = ("/", "unknown")
    for line in Path("/proc/mounts").read_text().splitlines():
        _, point, kind, *_ = line.split()
        inside = path == Path(point) or Path(point) in path.parents
        if inside and len(point) >= len(best[0]):
            best = (point, kind)
    return best


def me() -> str:
    return pwd.getpwuid(os.geteuid()).pw_name


def _said(environment: Mapping[str, str], *argv: str) -> str:
    try:
        done = subprocess.run(argv, env=os.environ | dict(environment), capture_output=True, text=True, timeout=30,
                              check=False, stdin=subprocess.DEVNULL)  # fmt: skip
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout if done.returncode == 0 else ""


def _lines(text: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys(line.strip() for line in text.splitlines() if line.strip()))
