"""Run jobs as processes of one account: a queue in folders, one shim process per running job. Standard library only.

    queue/<order>-<id>/   waits        running/<id>/   has a live shim        done/<id>/   has ended
    usage.jsonl           one line for each ended run, appended

Every step is a rename, so that a kill at any moment leaves a job in exactly one place. A shim holds a lock on `alive`
for as long as it lives: one that was killed, or a machine that went down, is seen by whoever looks next. This file is
also the program: `python shim.py ROOT submit|look|usage|cancel|hold|release`, with JSON on stdin and stdout.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import pwd
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

if TYPE_CHECKING:
    import subprocess

TERM_GRACE_S = 5.0
POLL_S = 0.1
FENCED = 75


def main() -> None:
    """Serve one call; prints one JSON value."""
    root, verb = Path(sys.argv[1]), sys.argv[2]
    os.umask(0o077)
    for name in ("queue", "running", "done", "new"):
        (root / name).mkdir(parents=True, exist_ok=True)
    asked: dict[str, Any] = json.load(sys.stdin)
    verbs = {"submit": submit, "look": look, "usage": usage, "cancel": cancel, "hold": hold, "release": release}
    print(json.dumps(verbs[verb](root, asked)))


# ---------------------------------------------------------------- verbs


def submit(root: Path, asked: dict[str, Any]) -> dict[str, Any]:
    """Put all tasks of a job into the queue, once: an id that is there already is left as it is."""
    import shutil  # here: most calls are looks, which would take a sixth longer

    with locked(root):
        for job in asked["jobs"]:
            if _exists(root, job["key"]):
                continue
            draft = root / "new" / f"{job['key']}.{os.getpid()}"
            shutil.rmtree(draft, ignore_errors=True)
            draft.mkdir()
            submitted = time.time_ns()
            write_json(draft / "job.json", {**job, "submit_ns": submitted})
            (draft / "script").write_text(job["script"], "utf-8", "surrogateescape")
            if job["held"]:
                (draft / "held").touch()
            draft.rename(root / "queue" / f"{submitted:020d}-{job['key']}")
        pump(root, asked["cores"])
    return {"ok": True}


def look(root: Path, asked: dict[str, Any]) -> dict[str, Any]:
    """Everything that waits or runs, and those of the ended that were asked for (`ids`; null: all)."""
    with locked(root):
        pump(root, asked["cores"])
        ids = None if asked["ids"] is None else set(asked["ids"])
        rows = [{**read_json(p / "job.json"), "state": "held" if (p / "held").exists() else "queued"}
                for p in sorted((root / "queue").iterdir())]  # fmt: skip
        rows += [{**read_json(p / "job.json"), **_start(p), "state": "active"} for p in (root / "running").iterdir()]
        if ids is None:
            rows += [read_json(p / "end.json") for p in (root / "done").iterdir()]
        else:
            rows += [read_json(p / "end.json") for p in _ended(root, ids)]
    for row in rows:
        row.pop("script", None)
    return {"runs": rows}


def usage(root: Path, asked: dict[str, Any]) -> dict[str, Any]:
    """The lines of all runs that ended at or after `since_ns` and before `until_ns`."""
    file = root / "usage.jsonl"
    lines = file.read_text("utf-8").splitlines() if file.exists() else []
    return {"lines": [line for line in lines if _ended_within(line, asked["since_ns"], asked["until_ns"])]}


def cancel(root: Path, asked: dict[str, Any]) -> dict[str, Any]:
    """End jobs: a waiting one at once, a running one by its shim."""
    with locked(root):
        for place in _live(root, asked["ids"]):
            (place / "cancel").touch()
        pump(root, asked["cores"])
    return {"ok": True}


def hold(root: Path, asked: dict[str, Any]) -> dict[str, Any]:
    with locked(root):
        waiting = [p for p in _live(root, asked["ids"]) if p.parent.name == "queue"]
        for place in waiting:
            (place / "held").touch()
    return {"ok": True}


def release(root: Path, asked: dict[str, Any]) -> dict[str, Any]:
    with locked(root):
        for place in _live(root, asked["ids"]):
            (place / "held").unlink(missing_ok=True)
        pump(root, asked["cores"])
    return {"ok": True}


# ---------------------------------------------------------------- the queue


def pump(root: Path, cores: int) -> None:
    """Bury dead shims, end canceled waiters, start what fits, in order. The caller holds the lock."""
    used, running = 0, dict[str, int]()
    for place in list((root / "running").iterdir()):
        if not _alive(place):
            _bury(root, place)
            continue
        job = read_json(place / "job.json")
        used += job["cores"]
        running[job["id"]] = running.get(job["id"], 0) + 1
    for place in sorted((root / "queue").iterdir()):
        job = read_json(place / "job.json")
        if (place / "cancel").exists():
            finish(root, place, {"state": "canceled", "start_ns": 0, "exit_code": None, "signal": None})
            continue
        if (place / "held").exists():
            continue
        if job["max_parallel"] is not None and running.get(job["id"], 0) >= job["max_parallel"]:
            continue
        if used + job["cores"] > cores:
            break
        used += job["cores"]
        running[job["id"]] = running.get(job["id"], 0) + 1
        _start_shim(root, place, job, cores)


def _start_shim(root: Path, place: Path, job: dict[str, Any], cores: int) -> None:
    """Move the job to `running` with the lock on `alive` already held by the process that will be its shim."""
    alive = (place / "alive").open("w")
    fcntl.flock(alive, fcntl.LOCK_EX)
    target = root / "running" / job["key"]
    place.rename(target)
    if os.fork():
        alive.close()
        return
    # The child: it keeps the lock (the descriptor is shared by fork) until it dies.
    status = 1
    try:
        _become_shim(root, alive)
        run(root, target, job)
        status = 0
        with locked(root):
            pump(root, cores)
    finally:
        os._exit(status)


def _become_shim(root: Path, alive: TextIO) -> None:
    os.setsid()
    os.chdir("/")
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        # Not SIG_IGN: the job would inherit it, and could neither be asked to end nor trap the signal.
        signal.signal(number, lambda *_: None)
    null = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1):
        os.dup2(null, descriptor)
    log = os.open(root / "shim.log", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    os.dup2(log, 2)
    keep = alive.fileno()
    for name in os.listdir("/proc/self/fd"):  # noqa: PTH208 - the names are descriptors
        if int(name) > 2 and int(name) != keep:
            with contextlib.suppress(OSError):
                os.close(int(name))


def run(root: Path, place: Path, job: dict[str, Any]) -> None:
    """One run from start to end, with its walltime; what happened is in `end.json`."""
    account = pwd.getpwuid(os.geteuid())
    environment = {
        "HOME": account.pw_dir, "USER": account.pw_name, "LOGNAME": account.pw_name, "SHELL": account.pw_shell,
        "PATH": "/usr/local/bin:/usr/bin:/bin", "LANG": "C.UTF-8", "PENSTOCK_NATIVE_ID": job["id"],
    }  # fmt: skip
    if job["task"] is not None:
        environment["PENSTOCK_ARRAY_TASK"] = str(job["task"])
    start = time.time_ns()
    end: dict[str, Any] = {"start_ns": start, "exit_code": None, "signal": None}
    try:
        process = _spawn(place, job, environment)
    except OSError as exc:
        write_text(place / "start.json", json.dumps({"start_ns": start}))
        with locked(root):
            finish(root, place, {**end, "state": "launch_failed", "message": f"{exc.strerror}: {exc.filename}"})
        return
    write_text(place / "start.json", json.dumps({"start_ns": start, "pid": process.pid, "born": _born(process.pid)}))
    state = _wait(place, job, process, start)
    code = process.returncode
    end |= {"exit_code": code if code >= 0 else None, "signal": -code if code < 0 else None}
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)  # whatever the job left behind
    if not state:
        state = "completed" if code == 0 else "fenced" if code == FENCED else "failed"
    with locked(root):
        finish(root, place, {**end, "state": state})


def _spawn(place: Path, job: dict[str, Any], environment: dict[str, str]) -> subprocess.Popen[bytes]:
    import subprocess  # in a shim, not in each call

    with Path(job["stdout"]).open("ab") as out, Path(job["stderr"]).open("ab") as err:
        login = ["-l"] if job["login"] else []
        return subprocess.Popen(
            ["/bin/bash", *login, str(place / "script")], stdin=subprocess.DEVNULL, stdout=out, stderr=err,
            env=environment, cwd=job["directory"], start_new_session=True,
        )  # fmt: skip


def _wait(place: Path, job: dict[str, Any], process: subprocess.Popen[bytes], start: int) -> str:
    """Wait for the end; the reason where it was ended by us: `canceled`, `timeout`."""
    import subprocess

    state, killed_at = "", 0.0
    while True:
        try:
            process.wait(POLL_S)
            return state
        except subprocess.TimeoutExpired:
            pass
        if not state:
            if (place / "cancel").exists():
                state = "canceled"
            elif job["walltime_s"] is not None and time.time_ns() - start >= job["walltime_s"] * 1_000_000_000:
                state = "timeout"
            if state:
                killed_at = time.monotonic()
                _signal_group(process.pid, signal.SIGTERM)
        elif time.monotonic() - killed_at > TERM_GRACE_S:
            _signal_group(process.pid, signal.SIGKILL)


def finish(root: Path, place: Path, end: dict[str, Any]) -> None:
    """Write the end once, add it to the meter, move the job to `done`. The caller holds the lock."""
    job = read_json(place / "job.json")
    job.pop("script", None)
    record = {**job, **end, "end_ns": time.time_ns(), "username": pwd.getpwuid(os.geteuid()).pw_name}
    if not (place / "end.json").exists():
        write_json(place / "end.json", record)
    line = (json.dumps(read_json(place / "end.json")) + "\n").encode()
    with (root / "usage.jsonl").open("ab") as meter:
        meter.write(line)
        meter.flush()
        os.fsync(meter.fileno())
    place.rename(root / "done" / job["key"])


def _bury(root: Path, place: Path) -> None:
    """A shim that died: its processes are ended, and the run ends where it was last known to live."""
    if (place / "end.json").exists():
        finish(root, place, {})  # it died between writing its end and moving
        return
    started = _start(place)
    pid = started.get("pid")
    if pid is not None and _born(pid) == started["born"]:
        _signal_group(pid, signal.SIGKILL)
    if not started:
        # It died before it started anything: the job goes back to the front of the queue.
        place.rename(root / "queue" / f"{read_json(place / 'job.json')['submit_ns']:020d}-{place.name}")
        return
    finish(root, place, {"state": "node_fail", "start_ns": started["start_ns"], "exit_code": None, "signal": None})


# ---------------------------------------------------------------- parts


@contextlib.contextmanager
def locked(root: Path) -> Iterator[None]:
    """One at a time in this queue; the lock dies with its process."""
    with (root / "lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _alive(place: Path) -> bool:
    with (place / "alive").open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        return False


def _start(place: Path) -> dict[str, Any]:
    file = place / "start.json"
    return read_json(file) if file.exists() else {}


def _exists(root: Path, key: str) -> bool:
    if (root / "running" / key).exists() or (root / "done" / key).exists():
        return True
    return any(p.name.partition("-")[2] == key for p in (root / "queue").iterdir())


def _live(root: Path, ids: list[str]) -> list[Path]:
    wanted = set(ids)
    places = [*(root / "queue").iterdir(), *(root / "running").iterdir()]
    return [p for p in places if read_json(p / "job.json")["id"] in wanted]


def _ended(root: Path, ids: set[str]) -> list[Path]:
    found = [root / "done" / i for i in ids if (root / "done" / i).exists()]
    arrays = {i for i in ids if (root / "done" / i).exists() is False}
    if arrays:
        found += [p for p in (root / "done").iterdir() if p.name.rpartition("_")[0] in arrays]
    return found


def _ended_within(line: str, since_ns: int, until_ns: int) -> bool:
    try:
        return bool(since_ns <= json.loads(line)["end_ns"] < until_ns)
    except (ValueError, KeyError, TypeError):
        return True  # a line that cannot be read is handed on, for the gateway to keep


def _signal_group(pid: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, number)


def _born(pid: int) -> str:
    """The kernel's start time of a process: with its number it is unique, as numbers are used again."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except OSError:
        return ""


def read_json(file: Path) -> dict[str, Any]:
    value: dict[str, Any] = json.loads(file.read_text("utf-8"))
    return value


def write_json(file: Path, value: dict[str, Any]) -> None:
    write_text(file, json.dumps(value))


def write_text(file: Path, text: str) -> None:
    """All of it or nothing, on disk."""
    draft = file.with_suffix(".draft")
    with draft.open("w", encoding="utf-8") as out:
        out.write(text)
        out.flush()
        os.fsync(out.fileno())
    draft.rename(file)


if __name__ == "__main__":
    main()
