"""What `penstock-site check` looks at, each with what to do where it fails; nothing is changed at the centre."""

from __future__ import annotations

import os
import shutil
import socket
import stat
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

from site_adapters.centre import detect
from site_adapters.centre.home import Centre, Home
from site_adapters.command import Command, Output
from site_adapters.errors import SiteError
from site_adapters.if2 import keys
from site_adapters.script import staging_root
from site_adapters.transport import Connection
from site_adapters.types import CheckResult, SiteAccount

Found = Iterator[CheckResult]
_FREE_BYTES = 1 << 30


def all_checks(home: Home, centre: Centre | None) -> list[CheckResult]:
    """The folder first; the centre's parts where the folder could be read."""
    results = list(_folder(home))
    if centre is not None:
        for part in (_programs, _credentials, _scheduler, _accounting, _accounts, _policy, _orders, _ways):
            results += _guarded(part, centre)
    return results


def _say(name: str, ok: bool, detail: str, remedy: str = "") -> CheckResult:
    """A result; the remedy is for those that failed."""
    return CheckResult(name, ok, detail, "" if ok else remedy)


def _guarded(part: Callable[[Centre], Found], centre: Centre) -> list[CheckResult]:
    results = []
    try:
        for result in part(centre):
            results.append(result)
    except SiteError as exc:
        name = part.__name__.lstrip("_")
        results.append(_say(name, False, str(exc), "Mend what the message says, then check again."))
    return results


def _folder(home: Home) -> Found:
    try:
        home.site()
        yield _say("site.yaml", True, "good")
    except SiteError as exc:
        yield _say("site.yaml", False, str(exc), "Mend the named lines.")
    try:
        home.docking()
        yield _say("docking.yaml", True, "good")
    except SiteError as exc:
        yield _say("docking.yaml", False, str(exc), "Mend the named words.")
    yield _private("state folder", home.state, "chmod 700 the folder, and let the service's user own it.")
    yield _private("centre key", home.key_file, "chmod 600 the key; make a new one if others could read it.")
    trusted = [k for k in home.trust.all() if k.until is None or k.until > datetime.now(UTC)]
    detail = f"{len(trusted)} keys of the gateway are trusted"
    yield _say("gateway key", bool(trusted), detail, "penstock-site trust ed25519:…")
    stopped = home.stopped()
    yield _say("not stopped", stopped is None, stopped or "open", "penstock-site resume")
    lines, _, broken = home.audit.verify()
    detail = f"{lines} lines, the chain holds" if broken is None else f"line {broken.line}: {broken.why}"
    yield _say("audit log", broken is None, detail, "Find out who changed it.")
    free = shutil.disk_usage(home.folder).free
    yield _say("room for the state", free > _FREE_BYTES, f"{free >> 20} MiB free", "Give the folder 1 GiB or more.")


def _private(name: str, path: Path, remedy: str) -> CheckResult:
    if not path.exists():
        return _say(name, False, f"{path.name} is not there", "penstock-site init")
    open_to = path.stat().st_mode & (stat.S_IRWXO | stat.S_IWGRP)
    return _say(name, not open_to, oct(path.stat().st_mode & 0o777), remedy)


def _programs(centre: Centre) -> Found:
    ours = os.environ.get("PATH", "") + ":/usr/local/bin:/usr/bin:/bin:/usr/sbin"
    for name in detect.SCHEDULERS.get(centre.site.scheduler, ()):
        program = centre.site.command(name)
        place = shutil.which(program, path=centre.site.environment.get("PATH", ours))
        remedy = f"Name it in site.yaml: commands: {{{name}: …}}"
        yield _say(f"command {name}", place is not None, place or f"{program} is not found", remedy)


def _credentials(centre: Centre) -> Found:
    """Observer, meter and what each may see: the adapter's own probes."""
    yield from centre.adapter.auth.check()


def _scheduler(centre: Centre) -> Found:
    health = centre.adapter.management.health()
    yield _say("scheduler answers", health.ok, health.detail, "Start the scheduler.")
    queues = centre.adapter.resource.queues()
    open_ones = [q.name for q in queues if q.open]
    yield _say("queues", bool(open_ones), ", ".join(open_ones) or "none is open", "Open one.")
    lost = sorted(set(centre.site.queues) - {q.name for q in queues})
    yield _say("named queues exist", not lost, ", ".join(lost) or "all of them", "Mend `queues` in site.yaml.")
    bounded = [q.name for q in queues if q.duration_max is None]
    yield _say("queues bound time", True, f"no limit in: {', '.join(bounded)}" if bounded else "all of them")
    reservations = centre.adapter.resource.reservations()
    coming = [r.name for r in reservations if r.maintenance and r.end > datetime.now(UTC)]
    yield _say("maintenance is read", True, f"planned: {', '.join(coming)}" if coming else "none is planned")
    zone = detect.zone_here()
    same = datetime.now().astimezone().utcoffset() == _offset(centre.site.zone)
    yield _say("clock zone", same, f"file: {centre.site.zone}, machine: {zone}", "Mend `zone`.")
    if centre.site.scheduler == "slurm":
        yield from _slurm_says(centre)


def _offset(zone: str) -> timedelta | None:
    return datetime.now(ZoneInfo(zone)).utcoffset()


def _slurm_says(centre: Centre) -> Found:
    login = centre.logins.observer()
    if login is None:
        return
    config = _said(login, centre.site.command("scontrol"), "show", "config")
    words = {k.strip(): v.strip() for k, _, v in (line.partition("=") for line in config.splitlines())}
    keep = words.get("MinJobAge", "").split()[0] if words.get("MinJobAge") else "0"
    good = keep.isdigit() and int(keep) >= 60
    yield _say("finished jobs are shown", good, f"MinJobAge {keep} s", "Set MinJobAge to 300.")
    enforce = words.get("AccountingStorageEnforce", "none")
    good = "associations" in enforce or "limits" in enforce
    yield _say(
        "associations are enforced",
        good,
        enforce,
        "AccountingStorageEnforce=associations,limits,qos,safe: else caps bind nobody.",
    )
    safe = "safe" in enforce
    yield _say("pre-paid caps hold", True, "safe is set" if safe else "without `safe` a job may overrun its cap")
    script = words.get("AccountingStoreFlags", "")
    yield _say(
        "no environments in accounting",
        "job_env" not in script,
        script or "none",
        "" if "job_env" not in script else "Remove job_env: environments may hold secrets.",
    )


def _accounting(centre: Centre) -> Found:
    if not centre.site.accounting.kept:
        yield _say("accounting", True, "none is kept here, as site.yaml says")
        return
    now = datetime.now(UTC)
    accounts = tuple(centre.gate.accounts())
    batch = centre.adapter.billing.usage(now - timedelta(days=1), now, accounts)
    yield _say(
        "accounting is read",
        not batch.problems,
        f"{len(batch.usages)} rows in a day, {len(batch.problems)} cannot be framed",
        "Send us the rows: they are unpaid work.",
    )
    old = centre.adapter.billing.usage(now - timedelta(days=40), now - timedelta(days=35), accounts)
    yield _say("accounting retention", True, f"{len(old.usages)} rows from 35 to 40 days ago")
    login = centre.logins.meter()
    if centre.site.scheduler == "slurm" and login is not None:
        kept = _said(login, centre.site.command("sacctmgr"), "show", "configuration")
        purge = next((li.split("=")[1].strip() for li in kept.splitlines() if li.startswith("PurgeJobAfter")), "NONE")
        yield _say("accounting is kept", True, f"PurgeJobAfter {purge}: keep it longer than your settlement")


def _accounts(centre: Centre) -> Found:
    names = [n for n in centre.docking.accounts if not any(sign in n for sign in "*?[")]
    opened = [o.username for o in centre.orders.openings() if o.username]
    found = bool(centre.docking.accounts or opened)
    yield _say(
        "accounts given",
        found,
        ", ".join((*centre.docking.accounts, *opened)) or "none",
        "Name logins in docking.yaml: accounts, or approve an order.",
    )
    for name in names[:20]:
        yield from _one_account(centre, name)


def _one_account(centre: Centre, name: str) -> Found:
    try:
        facts = centre.adapter.auth.probe(name)
    except SiteError as exc:
        yield _say(f"login {name}", False, str(exc), "Does it exist, and may the service act as it?")
        return
    yield _say(f"login {name}", facts.uid != 0, f"uid {facts.uid}, home {facts.home}", "Never give us root.")
    root = Path(staging_root(centre.site.staging_root, facts.home))
    login = centre.logins.actor(name)
    wrote = login.run(
        Command(
            ("/bin/sh", "-c", 'mkdir -p -m 700 -- "$1" && test -w "$1"', "sh", str(root)),
            _code,
            write=True,
            deadline_s=20.0,
        )
    )
    yield _say(f"staging of {name}", wrote == 0, str(root), "Let the login write there.")
    point, kind = detect.mount_of(root)
    shared = kind in detect.SHARED
    place = f"{point} ({kind})"
    detail = place if shared else f"{place}: do all nodes see it? Fences need that"
    yield _say(f"staging of {name} is shared", True, detail)
    try:
        limits = centre.adapter.resource.limits(SiteAccount(name, facts.home, facts.uid))
    except SiteError as exc:
        yield _say(f"limits of {name}", False, str(exc), "Let the login read its own associations.")
        return
    has = limits.accounts is None or bool(limits.accounts)
    yield _say(
        f"limits of {name}",
        has,
        "accounts are not told" if limits.accounts is None else f"accounts {', '.join(limits.accounts) or 'none'}",
        f"sacctmgr add user {name} account=…, or let an order do it.",
    )


_LIMITS = (
    ("queued_jobs_max", "how many jobs of ours may wait"),
    ("submits_per_minute", "how fast we submit"),
    ("calls_per_minute", "how often we ask"),
    ("cores_in_use_max", "how many cores we hold"),
)


def _policy(centre: Centre) -> Found:
    policy = centre.gate.policy
    for name, what in _LIMITS:
        value = getattr(policy, name)
        yield _say(f"policy {name}", True, f"{value}" if value is not None else f"no limit on {what}")
    load = centre.gate.load(centre.home.stopped())
    yield _say("load", True, f"{load.places} jobs, {load.cores} cores of ours")


def _orders(centre: Centre) -> Found:
    if centre.site.scheduler != "slurm":
        return
    login = centre.logins.provisioner()
    if login is None:
        yield _say("provisioner", True, "none: accounts are opened by the centre's own means")
        return
    level = _said(login, centre.site.command("sacctmgr"), "-nP", "show", "user", login.username, "format=adminlevel")
    may = login.username == "root" or level.strip() in ("Operator", "Administrator")
    yield _say(
        "provisioner may open accounts",
        may,
        f"{login.username}: {level.strip()}" if level.strip() else f"{login.username}: no admin level",
        "sacctmgr modify user … set adminlevel=Operator",
    )
    parent = centre.docking.orders.parent_account
    known = _said(login, centre.site.command("sacctmgr"), "-nP", "show", "account", parent, "format=account").strip()
    yield _say("parent account", bool(known), parent, "Name one in docking.yaml: orders.")
    waiting = centre.orders.waiting()
    yield _say("orders", True, f"{len(waiting)} wait for approval: penstock-site orders list")


def _ways(centre: Centre) -> Found:
    docking = centre.docking
    if docking.gateway_url:
        host = docking.gateway_url.split("//")[-1].split("/")[0]
        name, _, port = host.partition(":")
        try:
            socket.create_connection(
                (name, int(port or (443 if docking.gateway_url.startswith("wss") else 80))), 5
            ).close()
            yield _say("gateway is reached", True, host)
        except OSError as exc:
            yield _say("gateway is reached", False, f"{host}: {exc}", "Open the way out to it, nothing else.")
        secure = docking.gateway_url.startswith("wss:")
        yield _say("the way out is TLS", secure, docking.gateway_url, "Use wss://")
    else:
        inside = docking.listen.startswith(("127.", "localhost"))
        good = inside or docking.tls_certificate is not None
        yield _say(
            "the service is TLS",
            good,
            f"{docking.listen} (loopback: put a proxy before it)" if inside else docking.listen,
            "Give tls_certificate and tls_key, or listen on loopback.",
        )
    name = keys.public_text(keys.load(centre.home.key_file).public)
    yield _say("our key", True, name)


def _said(login: Connection, *argv: str) -> str:
    return login.run(Command(argv, _text, deadline_s=30.0))


def _text(output: Output) -> str:
    return output.text if output.exit_code == 0 else ""


def _code(output: Output) -> int:
    return output.exit_code
