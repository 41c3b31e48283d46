"""The demo: a small federation on this machine, and one real job through all of it.

No root, no server, nothing beyond the virtual environment: an embedded SQLite and the `local` centre; where
`scontrol ping` answers, this machine's Slurm as a second centre.
"""

from __future__ import annotations

import argparse
import getpass
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

HOME = Path(".penstock/demo")
PORT = 8642
PROGRAM = Path("docs/examples/pi_mpi.py")


def run(args: argparse.Namespace) -> int:
    """Set up what is missing, start the gateway if it does not run, and show one job."""
    if args.stop:
        return stop()
    HOME.mkdir(parents=True, exist_ok=True)
    settings = {"PENSTOCK_HOME": str(HOME.resolve()), "PENSTOCK_PORT": str(PORT), "PENSTOCK_COLLECT_S": "2",
                "PENSTOCK_WATCH_S": "1"}  # fmt: skip
    sites = _sites()
    state = HOME / "demo.json"
    tokens = json.loads(state.read_text()) if state.exists() else _set_up(settings, sites, state)
    url = _start(settings)
    client = _Client(url, tokens["token"])
    print(f"Penstock runs at {url}   (token of researcher «alice»: {tokens['token']})\n")
    for site in sites:
        _show_job(client, site)
    client("balance")
    print(f"\nThe gateway goes on running: open {url} and sign in with the token above.")
    print("Stop it with:  make demo-stop")
    return 0


def stop() -> int:
    """End the gateway that the demo started."""
    file = HOME / "gateway.pid"
    if file.exists():
        try:
            os.kill(int(file.read_text()), signal.SIGTERM)
        except ProcessLookupError:
            print("it was not running")
        file.unlink()
    print("stopped")
    return 0


def _sites() -> list[str]:
    """The centres of this machine, each with its site file."""
    folder = HOME / "sites"
    folder.mkdir(exist_ok=True)
    local = "site: local\ntitle: {en: This machine, zh: 本机}\nscheduler: local\ntransport: {kind: local}\n"
    (folder / "local.yaml").write_text(local + f'staging_root: "{HOME.resolve()}/staging"\n', "utf-8")
    if shutil.which("scontrol") is None:
        return ["local"]
    try:
        ping = subprocess.run(["scontrol", "ping"], capture_output=True, timeout=20, check=False)
    except subprocess.TimeoutExpired:
        return ["local"]
    if ping.returncode != 0:
        return ["local"]
    me = getpass.getuser()
    conf = os.environ.get("SLURM_CONF")
    (folder / "slurm.yaml").write_text(
        "site: slurm\ntitle: {en: Slurm of this machine, zh: 本机 Slurm}\nscheduler: slurm\ntransport: {kind: local}\n"
        f"credentials: {{observer: {{username: {me}}}}}\n" + (f"environment: {{SLURM_CONF: {conf}}}\n" if conf else ""),
        "utf-8",
    )
    return ["local", "slurm"]


def _set_up(settings: dict[str, str], sites: list[str], state: Path) -> dict[str, str]:
    """Researcher, project, credit, tariff, accounts: by the admin commands, as an operator would."""

    def admin(*words: str) -> str:
        argv = [sys.executable, "-m", "gateway", "admin", *words]
        done = subprocess.run(argv, env=os.environ | settings, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise SystemExit(f"demo: {' '.join(words)}: {done.stderr.strip() or done.stdout.strip()}")
        return done.stdout.strip()

    print("Setting up: an admin, researcher «alice», project «demo» with 100 CNY, 0.10 CNY per core-hour …")
    admin("init", "operator")
    admin("user", "alice")
    admin("project", "demo", "--owner", "alice")
    admin("credit", "demo", "100")
    admin("tariff", "0.10")
    for site in sites:
        admin("account", "alice", site, getpass.getuser())
    token = admin("token", "alice")
    state.touch(mode=0o600)
    state.write_text(json.dumps({"token": token}))
    return {"token": token}


def _start(settings: dict[str, str]) -> str:
    """The gateway in the background, if it is not there already; its address."""
    url = f"http://127.0.0.1:{PORT}"
    if _answers(url):
        return url
    with (HOME / "gateway.log").open("ab") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "gateway", "serve"], env=os.environ | settings, stdout=log, stderr=log,
            stdin=subprocess.DEVNULL, start_new_session=True,
        )  # fmt: skip
    (HOME / "gateway.pid").write_text(str(process.pid))
    for _ in range(600):
        if _answers(url):
            return url
        if process.poll() is not None:
            raise SystemExit(f"demo: the gateway ended at once; see {HOME / 'gateway.log'}")
        time.sleep(0.1)
    raise SystemExit(f"demo: the gateway does not answer; see {HOME / 'gateway.log'}")


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(f"{url}/healthz", timeout=2) as answer:  # noqa: S310 - our own loopback address
            return bool(answer.status == 200)
    except (urllib.error.URLError, OSError):
        return False


class _Client:
    """The `penstock` command, shown as it is typed."""

    def __init__(self, url: str, token: str) -> None:
        self._env = os.environ | {"PENSTOCK_URL": url, "PENSTOCK_TOKEN": token}
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


def _show_job(client: _Client, site: str) -> None:
    """Submit, follow, and show what was sent and what it cost."""
    command = _mpi_command()
    client("run", "--site", site, "--name", "pi-by-mpi", "-n", "2", "-t", "5m", "--", *command)
    job = json.loads(client("jobs", "--json", "--limit", "1", quiet=True).splitlines()[0])
    client("script", job["id"])
    client("wait", "--charged", job["id"], quiet=True)
    client("charges", job["id"])


def _mpi_command() -> list[str]:
    """The program under `mpiexec` where the MPI wheel is there, else with processes of its own."""
    program = str(PROGRAM.resolve())
    mpiexec = Path(sys.executable).with_name("mpiexec")
    if mpiexec.exists():
        return [str(mpiexec), "-n", "2", sys.executable, program]
    return [sys.executable, program]
