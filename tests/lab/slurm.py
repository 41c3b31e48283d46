"""A real Slurm centre on loopback: its scheduler, its accounting, its REST service, its login node's sshd."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

HERE = Path(__file__).parent


def missing_reason() -> str | None:
    """Why no Slurm can be started here; None where it can."""
    if os.geteuid() != 0:
        return "a real Slurm needs root (munged, slurmd switch users)"
    lost = [p for p in ("slurmctld", "slurmd", "slurmdbd", "slurmrestd", "mariadbd", "munged", "sshd")
            if shutil.which(p, path=os.environ["PATH"] + ":/usr/sbin:/sbin") is None]  # fmt: skip
    return f"not installed: {', '.join(lost)} (tests/lab/install.sh)" if lost else None


@dataclass(slots=True)
class SlurmLab:
    """One centre; centres of one root share slurmdbd and MariaDB."""

    root: Path
    cluster: str = "alpha"
    port_base: int = 26000
    shared_port_base: int = 25800
    nodes: int = 4
    cpus: int = 16
    extra: Sequence[str] = ()
    users: tuple[str, ...] = ("lab_alice", "lab_bob", "lab_gw", "lab_noassoc")
    _paused: set[int] = field(default_factory=set)

    def start(self) -> None:
        """Bring up what does not run; safe to call again (also after a part was killed)."""
        self.root.mkdir(parents=True, exist_ok=True)
        self.root.chmod(0o755)
        argv = [
            str(HERE / "slurm_up.sh"), "--root", str(self.root), "--cluster", self.cluster, "--port-base",
            str(self.port_base), "--shared-port-base", str(self.shared_port_base), "--nodes", str(self.nodes),
            "--cpus", str(self.cpus), *self.extra,
        ]  # fmt: skip
        # Output goes to a file: daemons keep the descriptors they inherit, and a pipe would never end.
        log = self.root / f"up-{self.cluster}.log"
        with log.open("wb") as out:
            done = subprocess.run(argv, stdout=out, stderr=out, stdin=subprocess.DEVNULL, check=False, timeout=180)
        if done.returncode != 0:
            raise RuntimeError(f"{self.cluster} did not start:\n{log.read_text()[-3000:]}")

    @staticmethod
    def stop_all(root: Path) -> None:
        """Stop every centre of a root and what they share, and forget their jobs and accounting."""
        if root.exists():
            subprocess.run([str(HERE / "slurm_down.sh"), "--root", str(root), "--all", "--wipe"], capture_output=True,
                           stdin=subprocess.DEVNULL, check=False, timeout=180)  # fmt: skip

    # ------------------------------------------------------------ what tests need

    @property
    def folder(self) -> Path:
        return self.root / self.cluster

    @property
    def env(self) -> dict[str, str]:
        return {"SLURM_CONF": str(self.folder / "slurm.conf")}

    @property
    def ssh_port(self) -> int:
        return self.port_base + 22

    @property
    def host_key(self) -> str:
        return (self.folder / "ssh" / "host_ed25519.pub").read_text().strip()

    @property
    def user_key_path(self) -> Path:
        """One private key that logs in as every lab user."""
        return self.root / "shared" / "ssh" / "id_ed25519"

    @property
    def rest_url(self) -> str:
        return f"http://127.0.0.1:{self.port_base + 20}"

    @property
    def jwt_key_path(self) -> Path:
        return self.root / "shared" / "jwt.key"

    def run(self, *argv: str, user: str | None = None, check: bool = True, stdin: str = "") -> str:
        """A command at this centre, as root or as one of its users; its stdout."""
        as_user = ["runuser", "-u", user, "--"] if user else []
        done = subprocess.run([*as_user, *argv], env=os.environ | self.env, capture_output=True, text=True, input=stdin,
                              check=False, timeout=120, cwd="/")  # fmt: skip
        if check and done.returncode != 0:
            raise RuntimeError(f"{argv}: {done.returncode}: {done.stderr.strip()}")
        return done.stdout.strip()

    def pid(self, name: str) -> int:
        """`ctld`, `rest`, `sshd`, `node1` … of this centre; `slurmdbd`, `mariadbd` of what is shared."""
        own = self.folder / "run" / f"{name}.pid"
        return int((own if own.exists() else self.root / "shared" / "run" / f"{name}.pid").read_text())

    def kill(self, name: str) -> None:
        """`kill -9`, and wait until it is gone."""
        pid = self.pid(name)
        os.kill(pid, signal.SIGKILL)
        wait_for(lambda: not _alive(pid), f"{name} to die")

    def pause(self, name: str) -> None:
        pid = self.pid(name)
        os.kill(pid, signal.SIGSTOP)
        self._paused.add(pid)

    def resume(self, name: str) -> None:
        pid = self.pid(name)
        os.kill(pid, signal.SIGCONT)
        self._paused.discard(pid)

    def wait_until_saved(self, job_id: str) -> None:
        """Until the controller's memory on disk holds the job as it is now: it is written every few seconds."""
        mark = f"saved-{job_id}-{time.monotonic_ns()}"
        self.run("scontrol", "update", f"jobid={job_id}", f"admincomment={mark}")
        file = self.folder / "state" / "job_state"
        wait_for(lambda: file.exists() and mark.encode() in file.read_bytes(), f"job {job_id} to be saved")

    def forget_jobs_and_restart(self) -> None:
        """Kill the controller and its memory: job ids begin at 1 again and are given to strangers."""
        self.kill("ctld")
        shutil.rmtree(self.folder / "state")
        self.start()

    def cancel_all(self) -> None:
        """End every job, whoever's."""
        for user in self.users:
            self.run("scancel", "-u", user, check=False)
        wait_for(lambda: self.run("squeue", "-h", "-o", "%i") == "", "an empty queue", 60)


def wait_for(condition: Callable[[], object], what: str, seconds: float = 30.0, every: float = 0.05) -> None:
    """Until a condition holds; TimeoutError with what was waited for."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"waited {seconds:g} s for {what}")
        time.sleep(every)


def _alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"
