"""The demo: a small federation on this machine, and one real job through each of its centres.

No root, no server, nothing beyond the virtual environment: an embedded SQLite, this machine as centre `local`, and
three emulated centres, Kunshan (Slurm), Jinan (PBS) and Wuxi (Sunway), by the site files of site_configs/centres:
their schedulers are small programs of tests/emulators that run real processes here. Where `scontrol ping` answers, this
machine's own Slurm joins as `slurm`.

A second run shows what is there. It imports nothing of the gateway, so that it is there at once.
"""

from __future__ import annotations

import argparse
import getpass
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

from gateway.admin import demo_sites

HOME = Path(os.environ.get("PENSTOCK_DEMO_HOME", ".penstock/demo"))
PORT = int(os.environ.get("PENSTOCK_DEMO_PORT", "8642"))
URL = f"http://127.0.0.1:{PORT}"
PROGRAM = Path("docs/examples/pi_mpi.py")
_STATE = HOME / "demo.json"
_PID = HOME / "gateway.pid"


def run() -> None:
    """Set up what is missing, start the gateway if it does not run, and show a job at each centre."""
    state = _state()
    if not _is_ours():
        if _answers():
            raise SystemExit(
                f"demo: another gateway answers at {URL}; stop it, or set PENSTOCK_DEMO_PORT to a free port"
            )
        HOME.mkdir(parents=True, exist_ok=True)
        sites = demo_sites.write(HOME)
        if state is None:
            state = _set_up()
        _link(sites, state)
        _start()
    assert state is not None
    client = _Client(state["token"])
    print(f"Penstock runs at {URL}   (token of researcher «alice»: {state['token']})")
    print(demo_sites.HONESTLY)
    missing = [site for site in state["sites"] if site not in state["jobs"]]
    for site in missing:
        print(f"\n--- {site}: {demo_sites.WHAT[site]} ---")
        state["jobs"][site] = _show_job(client, site)
        _save(state)
    if not missing:
        print("\nThe jobs of the first run (make demo-reset forgets them):\n")
        client("jobs")
    client("balance")
    print(f"The gateway goes on running: open {URL} and sign in with the token above. In this shell, as «alice»:")
    bin_ = os.path.relpath(Path(sys.executable).parent)
    print(f"  export PATH=$PWD/{bin_}:$PATH PENSTOCK_URL={URL} PENSTOCK_TOKEN={state['token']}")
    print("  penstock --help")
    print("Stop it with:  make demo-stop")


def stop() -> None:
    """End the gateway that the demo started."""
    if _PID.exists() and _lives(pid := int(_PID.read_text())):
        os.kill(pid, signal.SIGTERM)
        for _ in range(200):
            if not _lives(pid):
                break
            time.sleep(0.05)
    _PID.unlink(missing_ok=True)
    print("stopped")


def reset() -> None:
    """Forget the demo: its gateway, its centres, its jobs."""
    stop()
    shutil.rmtree(HOME, ignore_errors=True)
    print(f"forgotten: {HOME}")


# ---------------------------------------------------------------- what is there


def _state() -> dict[str, Any] | None:
    """What the first run left; a sentence where it is of another version, or half made."""
    try:
        state: dict[str, Any] | None = json.loads(_STATE.read_text()) if _STATE.exists() else None
    except ValueError:
        state = {}
    if state is None and not (HOME / "penstock.db").exists():
        return None
    if state is None or state.get("made_by") != _version():
        raise SystemExit(
            f"demo: {HOME} is half made or of another version of Penstock; type: make demo-reset && make demo"
        )
    return state


def _version() -> str:
    """By the schema: what the gateway's migrations and this file say."""
    files = [*sorted(Path("gateway/migrations/versions").glob("*.py")), Path(demo_sites.__file__)]
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()[:16]


def _save(state: dict[str, Any]) -> None:
    draft = _STATE.with_suffix(".part")
    draft.touch(mode=0o600)
    draft.write_text(json.dumps(state))
    draft.replace(_STATE)


def _is_ours() -> bool:
    return _PID.exists() and _lives(int(_PID.read_text())) and _answers()


def _lives(pid: int) -> bool:
    """Whether it is a gateway's process; a dead one that nobody reaped has no words."""
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False
    return b"gateway" in words


def _answers() -> bool:
    try:
        with urllib.request.urlopen(f"{URL}/healthz", timeout=2) as answer:  # noqa: S310 - our own loopback address
            return bool(answer.status == 200)
    except (urllib.error.URLError, OSError):
        return False


# ---------------------------------------------------------------- set up and start


def _environment() -> dict[str, str]:
    own = {"PENSTOCK_HOME": str(HOME.resolve()), "PENSTOCK_PORT": str(PORT), "PENSTOCK_COLLECT_S": "2",
           "PENSTOCK_WATCH_S": "1"}  # fmt: skip
    return {k: v for k, v in os.environ.items() if not k.startswith("PENSTOCK_")} | own


def _admin(*words: str) -> str:
    """One of the operator's commands."""
    argv = [sys.executable, "-m", "gateway", "admin", *words]
    done = subprocess.run(argv, env=_environment(), capture_output=True, text=True, check=False)
    if done.returncode != 0:
        said = (done.stderr.strip() or done.stdout.strip()).splitlines()
        raise SystemExit(f"demo: {' '.join(words)}: {said[-1] if said else 'failed without a word'}")
    return done.stdout.strip()


def _set_up() -> dict[str, Any]:
    """Researcher, project, credit, tariff: by the admin commands, as an operator would."""
    print("Setting up: an admin, researcher «alice», project «demo» with 100 CNY, 0.10 CNY per core-hour …", flush=True)
    _admin("init", "operator")
    _admin("user", "alice")
    _admin("project", "demo", "--owner", "alice")
    _admin("credit", "demo", "100")
    _admin("tariff", "0.10")
    state = {"made_by": _version(), "token": _admin("token", "alice"), "sites": [], "jobs": {}}
    _save(state)
    return state


def _link(sites: list[str], state: dict[str, Any]) -> None:
    """The researcher's account at each centre that is new."""
    for site in sites:
        if site not in state["sites"]:
            _admin("account", "alice", site, getpass.getuser())
    state["sites"] = sites
    _save(state)


def _start() -> None:
    """The gateway in the background."""
    with (HOME / "gateway.log").open("ab") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "gateway", "serve"], env=_environment(), stdout=log, stderr=log,
            stdin=subprocess.DEVNULL, start_new_session=True,
        )  # fmt: skip
    _PID.write_text(str(process.pid))
    for _ in range(600):
        if _answers():
            return
        if process.poll() is not None:
            raise SystemExit(f"demo: the gateway ended at once; see {HOME / 'gateway.log'}")
        time.sleep(0.1)
    raise SystemExit(f"demo: the gateway does not answer; see {HOME / 'gateway.log'}")


# ---------------------------------------------------------------- show


class _Client:
    """The `penstock` command, shown as it is typed."""

    def __init__(self, token: str) -> None:
        self._env = os.environ | {"PENSTOCK_URL": URL, "PENSTOCK_TOKEN": token}
        self._program = str(Path(sys.executable).with_name("penstock"))

    def __call__(self, *words: str, quiet: bool = False) -> str:
        if not quiet:
            print(f"$ penstock {' '.join(words)}", flush=True)
        done = subprocess.run(
            [self._program, *words], env=self._env, stdout=subprocess.PIPE if quiet else None, text=True, check=False
        )
        if not quiet:
            print(flush=True)
        return (done.stdout or "").strip()


def _show_job(client: _Client, site: str) -> str:
    """Submit, follow, and show what was sent and what it cost; the job's id."""
    queue = ("--queue", demo_sites.QUEUE[site]) if site in demo_sites.QUEUE else ()
    if site == "kunshan":
        script = HOME / "pi-on-a-dcu.sh"
        script.write_text(
            "#!/bin/bash\n#SBATCH --ntasks=2 --time=5\n#SBATCH --gres=dcu:1\n" + " ".join(_command()) + "\n"
        )
        print(f"$ cat {script}\n{script.read_text()}", flush=True)
        client("submit", "--site", site, *queue, "--name", "pi-by-mpi", "--follow", str(script))
    else:
        client("run", "--site", site, *queue, "--name", "pi-by-mpi", "-n", "2", "-t", "5m", "--", *_command())
    job = json.loads(client("jobs", "--json", "--limit", "1", quiet=True).splitlines()[0])
    client("script", job["id"])
    client("wait", "--charged", job["id"], quiet=True)
    client("charges", job["id"])
    return str(job["id"])


def _command() -> list[str]:
    """The program under `mpiexec` where the MPI wheel is there, else with processes of its own."""
    program = str(PROGRAM.resolve())
    mpiexec = Path(sys.executable).with_name("mpiexec")
    if mpiexec.exists():
        return [str(mpiexec), "-n", "2", sys.executable, program]
    return [sys.executable, program]


def main() -> None:
    """`make demo`, `make demo-stop`, `make demo-reset`."""
    parser = argparse.ArgumentParser(prog="demo", description=run.__doc__)
    parser.add_argument("--stop", action="store_true", help=stop.__doc__)
    parser.add_argument("--reset", action="store_true", help=reset.__doc__)
    args = parser.parse_args()
    (reset if args.reset else stop if args.stop else run)()


if __name__ == "__main__":
    main()
