"""The demo: a small federation on this machine, and one real job through all of it.

No root, no server, nothing beyond the virtual environment: an embedded SQLite, this machine as centre `local`, and two
emulated centres, Jinan (PBS) and Wuxi (Sunway): their schedulers are small programs of tests/emulators that run real
processes here. Where `scontrol ping` answers, this machine's Slurm stands for Kunshan.
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
from typing import Any

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
    tokens = json.loads(state.read_text()) if state.exists() else _set_up(settings, state)
    if tokens.get("sites") != sites:
        stop()
        tokens = _link(settings, sites, state, tokens)
    url = _start(settings)
    client = _Client(url, tokens["token"])
    print(f"Penstock runs at {url}   (token of researcher «alice»: {tokens['token']})\n")
    for site in sites:
        print(f"--- {site}: {SITES[site]} ---")
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


# What each centre of the demo really is.
SITES = {
    "local": "processes of this machine",
    "kunshan": "this machine's Slurm, in the place of NSCC Kunshan",
    "jinan": "EMULATED: a PBS that stands for NSCC Jinan; nothing leaves this machine",
    "wuxi": "EMULATED: a Sunway that stands for NSCC Wuxi; nothing leaves this machine",
}
_EMULATED = """site: {site}
title: {{en: "{en} (emulated)", zh: "{zh}（模拟）"}}
scheduler: {scheduler}
transport: {{kind: local}}
credentials: {{observer: {{username: {me}}}, meter: {{username: {me}}}}}
staging_root: "{root}/staging"
environment: {{PATH: "{root}/bin:/usr/local/bin:/usr/bin:/bin"}}
{more}
"""


def _sites() -> list[str]:
    """The centres of this machine, each with its site file."""
    folder = HOME / "sites"
    folder.mkdir(exist_ok=True)
    local = "site: local\ntitle: {en: This machine, zh: 本机}\nscheduler: local\ntransport: {kind: local}\n"
    (folder / "local.yaml").write_text(local + f'staging_root: "{HOME.resolve()}/staging"\n', "utf-8")
    (folder / "slurm.yaml").unlink(missing_ok=True)
    sites = ["local"]
    if _slurm_answers():
        me, conf = getpass.getuser(), os.environ.get("SLURM_CONF")
        (folder / "kunshan.yaml").write_text(
            "site: kunshan\ntitle: {en: Kunshan (Slurm of this machine), zh: 昆山（本机 Slurm）}\nscheduler: slurm\n"
            f"transport: {{kind: local}}\ncredentials: {{observer: {{username: {me}}}}}\n"
            + (f"environment: {{SLURM_CONF: {conf}}}\n" if conf else ""),
            "utf-8",
        )
        sites.append("kunshan")
    else:
        (folder / "kunshan.yaml").unlink(missing_ok=True)
    root = (HOME / "jinan").resolve()
    _emulate("pbs", root, "nodes=2", "cores_per_node=4")
    log = f"pbs: {{accounting_log: {root}/state/accounting}}"
    _write(folder, "jinan", "NSCC Jinan", "济南", "pbs", root, log)
    root = (HOME / "wuxi").resolve()
    _emulate("sunway", root, "nodes=2", "cores_per_node=4")
    zone = Path("/etc/timezone").read_text().strip() if Path("/etc/timezone").exists() else "UTC"
    queues = f"queues: {{share: {{native: q_sw_share}}}}\nzone: {zone.removeprefix('Etc/') or 'UTC'}"
    _write(folder, "wuxi", "NSCC Wuxi", "无锡", "sunway", root, queues)
    return [*sites, "jinan", "wuxi"]


def _slurm_answers() -> bool:
    if shutil.which("scontrol") is None:
        return False
    try:
        return subprocess.run(["scontrol", "ping"], capture_output=True, timeout=20, check=False).returncode == 0
    except subprocess.TimeoutExpired:
        return False


def _emulate(kind: str, root: Path, *settings: str) -> None:
    """A small scheduler of tests/emulators: its commands in `bin`, its jobs in `state`."""
    argv = [sys.executable, f"tests/emulators/{kind}.py", "install", str(root / "state"), str(root / "bin"), *settings]
    subprocess.run(argv, check=True)


def _write(folder: Path, site: str, en: str, zh: str, scheduler: str, root: Path, more: str) -> None:
    text = _EMULATED.format(site=site, en=en, zh=zh, scheduler=scheduler, me=getpass.getuser(), root=root, more=more)
    (folder / f"{site}.yaml").write_text(text, "utf-8")


def _admin(settings: dict[str, str], *words: str) -> str:
    """One of the operator's commands."""
    argv = [sys.executable, "-m", "gateway", "admin", *words]
    done = subprocess.run(argv, env=os.environ | settings, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise SystemExit(f"demo: {' '.join(words)}: {done.stderr.strip() or done.stdout.strip()}")
    return done.stdout.strip()


def _link(settings: dict[str, str], sites: list[str], state: Path, tokens: dict[str, Any]) -> dict[str, Any]:
    """The researcher's account at each centre that is new."""
    for site in sites:
        if site not in tokens.get("sites", []):
            _admin(settings, "account", "alice", site, getpass.getuser())
    tokens = {**tokens, "sites": sites}
    state.write_text(json.dumps(tokens))
    return tokens


def _set_up(settings: dict[str, str], state: Path) -> dict[str, Any]:
    """Researcher, project, credit, tariff: by the admin commands, as an operator would."""

    def admin(*words: str) -> str:
        return _admin(settings, *words)

    print("Setting up: an admin, researcher «alice», project «demo» with 100 CNY, 0.10 CNY per core-hour …")
    admin("init", "operator")
    admin("user", "alice")
    admin("project", "demo", "--owner", "alice")
    admin("credit", "demo", "100")
    admin("tariff", "0.10")
    token = admin("token", "alice")
    state.touch(mode=0o600)
    state.write_text(json.dumps({"token": token}))
    return {"token": token, "sites": []}


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
    queue = ("--queue", "share") if site == "wuxi" else ()
    client("run", "--site", site, *queue, "--name", "pi-by-mpi", "-n", "2", "-t", "5m", "--", *command)
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
