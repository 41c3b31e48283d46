"""A tiny batch system over a folder: real processes, a turnable clock, faults on demand. Standard library only.

No daemon: every command takes a lock, starts what may start and answers; each running job has a small process beside
it that waits for its end. The commands themselves, with their true quirks, are in slurm.py, pbs.py and sunway.py.
"""

from __future__ import annotations

import json
import os
import pwd
import re
import signal
import sqlite3
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

if TYPE_CHECKING:
    import subprocess

QUEUED, HELD, RUNNING, ENDED = "queued", "held", "running", "ended"
NO_TASK = -1
_POLL_S = 0.04
# Those of a process that lives longer than a command: it reaps them when it starts the next.
_CHILDREN: list[int] = []


class Job:
    """One job or one task of an array. Times are whole seconds of the cluster's clock; 0 = not yet.

    `status`: of wait(2). `cause`: deleted, walltime, node_fail, rerun. `place`: node numbers. `more`: what the dialect
    keeps.
    """

    # No dataclass: that module alone takes a quarter of the time in which a command starts, and tests run thousands.
    __slots__ = (
        "argv", "cause", "changed", "cores", "cwd", "ended", "environment", "exclusive", "more", "name", "nodes", "pid",
        "place", "queue", "runs", "seq", "started", "state", "status", "stderr", "stdout", "submitted", "task", "user",
        "walltime_s",
    )  # fmt: skip

    def __init__(
        self, seq: int, task: int, name: str, user: str, queue: str, argv: list[str], cwd: str,
        environment: dict[str, str], stdout: str, stderr: str, cores: int = 1, nodes: int = 1, exclusive: bool = False,
        walltime_s: int | None = None, state: str = QUEUED, submitted: int = 0, changed: int = 0, started: int = 0,
        ended: int = 0, runs: int = 0, status: int | None = None, cause: str = "", pid: int = 0,
        place: list[int] | None = None, more: dict[str, Any] | None = None,
    ) -> None:  # fmt: skip
        self.seq, self.task, self.name, self.user, self.queue = seq, task, name, user, queue
        self.argv, self.cwd, self.environment, self.stdout, self.stderr = argv, cwd, environment, stdout, stderr
        self.cores, self.nodes, self.exclusive, self.walltime_s, self.state = cores, nodes, exclusive, walltime_s, state
        self.submitted, self.changed, self.started, self.ended, self.runs = submitted, changed, started, ended, runs
        self.status, self.cause, self.pid = status, cause, pid
        self.place, self.more = [] if place is None else place, {} if more is None else more

    def fields(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in self.__slots__}

    @property
    def key(self) -> str:
        return f"{self.seq}.{self.task}"


class Refusal(Exception):
    """What a command says and exits with."""

    def __init__(self, text: str, code: int) -> None:
        super().__init__(text)
        self.code = code


class Answer(NamedTuple):
    """What a command prints."""

    stdout: str = ""
    stderr: str = ""
    exit_code: int = 0


class Cluster:
    """The state of one emulated centre. `settings`: nodes, cores_per_node, and what the dialect adds."""

    program = ""  # the module that runs a job of this dialect

    def __init__(self, root: Path) -> None:
        self.root = Path(root)
        self.root.mkdir(parents=True, exist_ok=True)
        (self.root / "kill").mkdir(exist_ok=True)
        self._db = sqlite3.connect(self.root / "state.db", timeout=60, isolation_level=None)
        self._db.execute("PRAGMA journal_mode=WAL")
        self._db.execute("PRAGMA synchronous=OFF")
        self._db.execute(
            "CREATE TABLE IF NOT EXISTS jobs (seq INTEGER, task INTEGER, state TEXT, user TEXT, data TEXT,"
            " PRIMARY KEY (seq, task))"
        )
        self._db.execute("CREATE INDEX IF NOT EXISTS live ON jobs (state) WHERE state != 'ended'")
        self._db.execute("CREATE TABLE IF NOT EXISTS meta (name TEXT PRIMARY KEY, value TEXT)")

    # ------------------------------------------------------------ settings, clock, faults

    def get(self, name: str, default: Any = None) -> Any:
        row = self._db.execute("SELECT value FROM meta WHERE name = ?", (name,)).fetchone()
        return default if row is None else json.loads(row[0])

    def put(self, name: str, value: Any) -> None:
        self._db.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (name, json.dumps(value)))

    def now(self) -> int:
        """The centre's clock, in whole seconds."""
        return int(time.time() + self.get("clock_s", 0))

    def turn_clock(self, seconds: int) -> None:
        """Let time pass at once: limits strike, histories expire."""
        self.put("clock_s", self.get("clock_s", 0) + seconds)

    def fault(self, program: str, **what: Any) -> None:
        """From now on `program` ("*": all) misbehaves: banner, slow_s, hang, exit_code, cut, bad_utf8, late_s, down;
        `times` calls long, else until `heal`."""
        self.put("faults", {**self.get("faults", {}), program: what})

    def heal(self) -> None:
        self.put("faults", {})

    def take_fault(self, program: str) -> dict[str, Any]:
        with self.locked():
            faults = self.get("faults", {})
            for name in (program, "*"):
                fault = faults.get(name)
                if fault is None or fault.get("times", 1) <= 0:
                    continue
                if "times" in fault:
                    fault["times"] -= 1
                    self.put("faults", faults)
                return dict(fault)
        return {}

    # ------------------------------------------------------------ jobs

    @contextmanager
    def locked(self) -> Iterator[None]:
        """One writer at a time; nested calls are one."""
        if self._db.in_transaction:
            yield
            return
        self._db.execute("BEGIN IMMEDIATE")
        try:
            yield
        except BaseException:
            self._db.execute("ROLLBACK")
            raise
        self._db.execute("COMMIT")

    def next_seq(self) -> int:
        seq: int = self.get("next_seq", 1)
        self.put("next_seq", seq + 1)
        return seq

    def save(self, *jobs: Job) -> None:
        rows = [(j.seq, j.task, j.state, j.user, json.dumps(j.fields())) for j in jobs]
        self._db.executemany("INSERT OR REPLACE INTO jobs VALUES (?, ?, ?, ?, ?)", rows)

    def jobs(self, where: str = "1", *values: Any) -> list[Job]:
        rows = self._db.execute(f"SELECT data FROM jobs WHERE {where} ORDER BY seq, task", values)
        return [Job(**json.loads(data)) for (data,) in rows]

    def job(self, seq: int, task: int = NO_TASK) -> Job | None:
        return next(iter(self.jobs("seq = ? AND task = ?", seq, task)), None)

    def forget(self, seq: int) -> None:
        self._db.execute("DELETE FROM jobs WHERE seq = ?", (seq,))

    # ------------------------------------------------------------ the tiny scheduler

    def may_start(self, job: Job) -> bool:
        """Whether the queue lets it run now; the dialect's own word."""
        return True

    def tell_start(self, job: Job) -> None:
        """The dialect writes its log."""

    def tell_end(self, job: Job) -> None:
        """The dialect writes its log, delivers what it delivers."""

    def schedule(self) -> None:
        """Start what fits, in the order it came. The caller holds the lock."""
        node_count, per_node = self.get("nodes", 1), self.get("cores_per_node", 4)
        free = [per_node] * node_count
        running = self.jobs("state = 'running'")
        for job in running:
            for node in job.place:
                free[node] -= per_node if job.exclusive else self._share(job)
        live = {job.seq: 0 for job in running}
        for job in running:
            live[job.seq] += 1
        for job in self.jobs("state = 'queued'"):
            most = job.more.get("max_parallel")
            if not self.may_start(job) or (most is not None and live.get(job.seq, 0) >= most):
                continue
            wanted = per_node if job.exclusive else self._share(job)
            fitting = [n for n in range(node_count) if free[n] >= wanted][: job.nodes]
            if len(fitting) < job.nodes:
                continue
            for node in fitting:
                free[node] -= wanted
            live[job.seq] = live.get(job.seq, 0) + 1
            self._start(job, fitting)

    @staticmethod
    def _share(job: Job) -> int:
        return -(-job.cores // job.nodes)

    def _start(self, job: Job, place: list[int]) -> None:
        job.state, job.place, job.runs = RUNNING, place, job.runs + 1
        job.started = job.changed = self.now()
        job.status, job.cause = None, ""
        self.save(job)
        self.tell_start(job)
        _CHILDREN[:] = [pid for pid in _CHILDREN if os.waitpid(pid, os.WNOHANG) == (0, 0)]
        argv = [sys.executable, "-IS", self.program, "--run", str(self.root), str(job.seq), str(job.task)]
        null = [(os.POSIX_SPAWN_OPEN, fd, os.devnull, os.O_RDWR, 0) for fd in (0, 1, 2)]
        _CHILDREN.append(os.posix_spawn(sys.executable, argv, os.environ, file_actions=null, setsid=True))

    def close(self) -> None:
        self._db.close()

    def is_ending(self, job: Job) -> bool:
        """Whether a running job was told to end, and has its grace."""
        return job.state == RUNNING and (self.root / "kill" / f"{job.key}.{job.runs}").exists()

    def kill(self, job: Job, cause: str) -> None:
        """Ask the process beside a running job to end it; a waiting job ends at once."""
        if job.state == RUNNING:
            file = self.root / "kill" / f"{job.key}.{job.runs}"
            if not file.exists():
                file.write_text(cause)
            return
        job.state, job.cause, job.ended, job.changed = ENDED, cause, self.now(), self.now()
        self.save(job)
        self.tell_end(job)

    def signal(self, job: Job, number: int) -> bool:
        """A signal to the processes of a running job; False where it does not run."""
        if job.state != RUNNING or not job.pid:
            return False
        _signal(job.pid, number)
        return True

    def run(self, seq: int, task: int) -> None:
        """One run from start to end: what the process beside it does."""
        with self.locked():
            job = self.job(seq, task)
        assert job is not None
        process = self._spawn(job)
        if process is not None:
            with self.locked():
                job.pid = process.pid
                self.save(job)
            cause = self._wait(job, process)
        else:
            cause = "launch"
        with self.locked():
            newest = self.job(seq, task)
            assert newest is not None
            job = newest
            job.status = None if process is None else _wait_status(process.returncode)
            job.cause, job.ended, job.changed = cause, self.now(), self.now()
            job.state = ENDED
            if cause in ("rerun", "node_fail") and job.more.get("rerunnable", False):
                self.tell_end(job)
                job.state = HELD if job.more.get("held") else QUEUED
                job.place = []
            else:
                self.tell_end(job)
            self.save(job)
            (self.root / "kill" / f"{job.key}.{job.runs}").unlink(missing_ok=True)
            self.schedule()

    def _spawn(self, job: Job) -> subprocess.Popen[bytes] | None:
        import subprocess  # here and below: most commands start nothing

        account = pwd.getpwnam(job.user)
        environment = {
            "HOME": account.pw_dir, "USER": job.user, "LOGNAME": job.user, "SHELL": "/bin/sh",
            "PATH": "/usr/local/bin:/usr/bin:/bin", "LANG": "C.UTF-8", **job.environment,
        }  # fmt: skip
        try:
            with open(job.stdout, "ab") as out, open(job.stderr or job.stdout, "ab") as err:
                return subprocess.Popen(job.argv, stdin=subprocess.DEVNULL, stdout=out, stderr=err, cwd=job.cwd,
                                        env=environment, start_new_session=True)  # fmt: skip
        except OSError:
            return None

    def _wait(self, job: Job, process: subprocess.Popen[bytes]) -> str:
        import subprocess

        cause, killed_at, grace_s = "", 0.0, self.get("kill_delay_s", 2.0)
        wish = self.root / "kill" / f"{job.key}.{job.runs}"
        while True:
            try:
                process.wait(_POLL_S)
                break
            except subprocess.TimeoutExpired:
                pass
            if not cause:
                if wish.exists():
                    cause = wish.read_text() or "deleted"
                elif job.walltime_s is not None and self.now() - job.started > job.walltime_s:
                    cause = "walltime"
                if cause:
                    killed_at = time.monotonic()
                    _signal(process.pid, signal.SIGKILL if cause == "node_fail" else signal.SIGTERM)
            elif time.monotonic() - killed_at > grace_s:
                _signal(process.pid, signal.SIGKILL)
        _signal(process.pid, signal.SIGKILL)  # what it left behind
        return cause


def _wait_status(returncode: int) -> int:
    return returncode << 8 if returncode >= 0 else -returncode


def _signal(pid: int, number: signal.Signals) -> None:
    try:
        os.killpg(pid, number)
    except (ProcessLookupError, PermissionError):
        return


# ---------------------------------------------------------------- the command line

C = TypeVar("C", bound=Cluster)


def me() -> str:
    """The login that types."""
    return pwd.getpwuid(os.geteuid()).pw_name


def main(argv: Sequence[str], kind: type[C], programs: Sequence[str], answer: Callable[[C, str, list[str]], Answer],
         down: Callable[[C, str, list[str]], Answer]) -> int:  # fmt: skip
    """`install STATE BIN [SETTING=VALUE …]` makes a centre; `--as NAME STATE …` is one command of it; `--run` a job."""
    if argv[0] == "install":
        cluster = kind(Path(argv[1]).resolve())
        for setting in argv[3:]:
            name, _, value = setting.partition("=")
            cluster.put(name, json.loads(value) if re.match(r"[\[{\d\"]|true|false", value) else value)
        install(programs, cluster.program, cluster.root, Path(argv[2]).resolve())
        return 0
    if argv[0] == "--run":
        os.chdir("/")
        os.closerange(3, 256)  # what the shell of the command's caller had open
        kind(Path(argv[1])).run(int(argv[2]), int(argv[3]))
        return 0
    name, words = argv[1], list(argv[3:])
    c = kind(Path(argv[2]))

    def command() -> Answer:
        try:
            return answer(c, name, words)
        except Refusal as exc:
            return Answer("", str(exc), exc.code)

    return serve(c, name, words, command, lambda _: down(c, name, words))


def serve(cluster: Cluster, name: str, words: Sequence[str], command: Callable[[], Answer],
          down: Callable[[str], Answer]) -> int:  # fmt: skip
    """Run one command with whatever fault is due, and print its answer."""
    fault = cluster.take_fault(name)
    if fault.get("slow_s"):
        time.sleep(fault["slow_s"])
    if fault.get("hang"):
        time.sleep(3600)
    if fault.get("late_s"):
        return _late(cluster, name, words, fault["late_s"])
    answer = down(name) if fault.get("down") else command()
    if "exit_code" in fault:
        answer = Answer("", "", fault["exit_code"])
    out, err = answer.stdout.encode("utf-8", "surrogateescape"), answer.stderr.encode("utf-8", "surrogateescape")
    if fault.get("banner"):
        out = fault["banner"].encode() + b"\n" + out
    if fault.get("bad_utf8"):
        out = out.replace(b"Job_Name", b"Job_Name\xff\xfe") + b"\xff\xfe\n"
    if "cut" in fault:
        out = out[: fault["cut"]]
    sys.stdout.buffer.write(out)
    sys.stdout.buffer.flush()
    sys.stderr.buffer.write(err)
    sys.stderr.buffer.flush()
    return answer.exit_code


def _late(cluster: Cluster, name: str, words: Sequence[str], late_s: float) -> int:
    """The client dies without a word; what it asked for lands later."""
    import subprocess

    data = sys.stdin.buffer.read() if not sys.stdin.isatty() else b""
    later = [sys.executable, "-c",
             "import subprocess,sys,time; time.sleep(float(sys.argv[1]));"
             " subprocess.run(sys.argv[2:], input=open(0,'rb').read(), stdout=subprocess.DEVNULL)",
             str(late_s), sys.executable, "-IS", cluster.program, "--as", name, str(cluster.root), *words]  # fmt: skip
    child = subprocess.Popen(later, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                             start_new_session=True)  # fmt: skip
    assert child.stdin is not None
    child.stdin.write(data)
    child.stdin.close()
    os.kill(os.getpid(), signal.SIGKILL)
    return 137


def install(programs: Sequence[str], module: str, root: Path, folder: Path) -> None:
    """Put the centre's commands into a folder, bound to the state in `root`."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in programs:
        file = folder / name
        draft = folder / f".{name}.{os.getpid()}"
        draft.write_text(f'#!/bin/sh\nexec {sys.executable} -IS {module} --as {name} {root} "$@"\n')
        draft.chmod(0o755)
        draft.rename(file)
