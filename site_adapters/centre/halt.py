"""The one switch: nothing of ours runs, nothing of ours may come in. Needs no gateway."""

from __future__ import annotations

import math
import signal
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from site_adapters.centre.home import Centre
from site_adapters.command import Command, Output
from site_adapters.config import SiteConfig
from site_adapters.errors import SiteError
from site_adapters.pbs import commands as pbs
from site_adapters.slurm import commands as slurm
from site_adapters.sunway import commands as sunway
from site_adapters.types import JobRef, Look, NotDone, SiteAccount

_DEADLINE_S = 30.0
_LOOK_BACK = timedelta(days=60)


@dataclass(frozen=True, slots=True)
class HaltReport:
    """What the switch did. `left` still runs: its end could not be seen."""

    keys_revoked: int
    jobs_ended: int
    jobs_held: int
    accounts_shut: tuple[str, ...]
    left: tuple[str, ...]
    problems: tuple[str, ...]
    seconds: float


def halt(centre: Centre, *, reason: str, hold: bool) -> HaltReport:
    """Refuse every call, trust no key, end what runs (what waits: end or hold), shut the accounts. In this order."""
    begun = time.monotonic()
    centre.home.stop(reason)
    revoked = centre.home.trust.revoke_all()
    centre.home.audit.append("stop", sync=True, reason=reason, hold=hold, keys_revoked=revoked)
    problems: list[str] = []
    held = _hold_waiting(centre, problems) if hold else 0
    ended, left = _end_all(centre, problems, keep_waiting=hold, begun=begun)
    shut = _shut_accounts(centre, problems)
    report = HaltReport(revoked, ended, held, tuple(shut), tuple(left), tuple(problems), time.monotonic() - begun)
    centre.home.audit.append("stopped", sync=True, ended=ended, held=held, left=left, problems=problems)
    return report


def ours(centre: Centre, problems: list[str], *, running_only: bool = False) -> dict[SiteAccount, list[JobRef]]:
    """What of ours has not ended: whatever bears a tag of the form that ours have, in name, comment or submit line."""
    accounts = _accounts(centre)
    found: dict[SiteAccount, dict[str, JobRef]] = defaultdict(dict)
    by_name = {account.username: account for account in accounts}
    since = datetime.now(UTC) - _LOOK_BACK
    look = centre.adapter.management.find((), accounts=accounts, since=since)
    if look.error is not None:
        problems.append(f"the queue cannot be read: {look.error}")
    for run in look.runs:
        if run.state.final or run.username not in by_name or (running_only and run.start_time is None):
            continue
        ref = JobRef(run.native_id, run.cluster, run.username, run.tags_seen[0],
                     run.submit_time or since)  # fmt: skip
        found[by_name[run.username]][run.native_id] = ref
    shown = _in_queue(centre, [ref for refs in found.values() for ref in refs.values()], problems)
    return {account: [ref for ref in refs.values() if ref.native_id in shown] for account, refs in found.items()}


def _in_queue(centre: Centre, refs: Sequence[JobRef], problems: list[str]) -> set[str]:
    """Those that the queue itself shows: accounting keeps jobs that a controller forgot as running for ever."""
    queue = centre.adapter.management.observe(refs).queue if refs else Look()
    if queue.error is not None:
        problems.append(f"the queue cannot be read: {queue.error}")
        return {ref.native_id for ref in refs}
    return {run.native_id for run in queue.runs if not run.state.final}


def _accounts(centre: Centre) -> list[SiteAccount]:
    known = {account.username: account for account in centre.gate.accounts()}
    for username in centre.docking.accounts:
        if username not in known and not any(sign in username for sign in "*?["):
            known[username] = SiteAccount(username, f"/home/{username}")
    return list(known.values())


def _hold_waiting(centre: Centre, problems: list[str]) -> int:
    running = {r.native_id for refs in ours(centre, problems, running_only=True).values() for r in refs}
    count = 0
    for account, refs in ours(centre, problems).items():
        waiting = [ref for ref in refs if ref.native_id not in running]
        if waiting:
            outcomes = centre.adapter.management.hold(account, waiting)
            problems += [o.message for o in outcomes if isinstance(o, NotDone)]
            count += len(waiting)
    return count


def _end_all(centre: Centre, problems: list[str], *, keep_waiting: bool, begun: float) -> tuple[int, list[str]]:
    """Ask each nicely once, then without mercy, until neither these nor others of ours are in the queue."""
    asked: dict[str, float] = {}
    live = ours(centre, problems, running_only=keep_waiting)
    while any(live.values()):
        for account, refs in live.items():
            fresh = [ref for ref in refs if ref.native_id not in asked]
            late = [ref.native_id for ref in refs
                    if time.monotonic() - asked.get(ref.native_id, math.inf) > centre.docking.stop_after_s]  # fmt: skip
            if fresh:
                _ask(centre, account, fresh, problems)
                asked |= {ref.native_id: time.monotonic() for ref in fresh}
            if late:
                _kill(centre, account, late, problems)
        if time.monotonic() - begun > _DEADLINE_S:
            left = {ref.native_id for refs in live.values() for ref in refs}
            return len(asked.keys() - left), sorted(left)
        time.sleep(0.5)
        shown = _in_queue(centre, [ref for refs in live.values() for ref in refs], problems)
        live = {account: [ref for ref in refs if ref.native_id in shown] for account, refs in live.items()}
        if not any(live.values()):  # a question to all sources costs more: only when these are gone
            live = ours(centre, problems, running_only=keep_waiting)
    return len(asked), []


def _ask(centre: Centre, account: SiteAccount, refs: Sequence[JobRef], problems: list[str]) -> None:
    """Nicely. On Slurm by a signal: what `scancel` has ended takes none after that, and runs on for KillWait."""
    if centre.site.scheduler != "slurm":
        outcomes = centre.adapter.management.cancel(account, refs)
        problems += [o.message for o in outcomes if isinstance(o, NotDone)]
        return
    program, ids = centre.site.command("scancel"), [ref.native_id for ref in refs]
    try:
        login = centre.logins.actor(account.username)
        login.run(slurm.cancel_waiting(program, ids))
        login.run(slurm.signal(program, "TERM", ids))  # exit code 1 tells of those that waited; the next look sees
    except SiteError as exc:
        problems.append(str(exc))


def _kill(centre: Centre, account: SiteAccount, ids: Sequence[str], problems: list[str]) -> None:
    """A scheduler gives a job some grace after TERM (Slurm 30 s, OpenPBS 10 s); the switch does not."""
    try:
        login = centre.logins.actor(account.username)
        for command in hard_kills(centre.site, ids):
            refused = login.run(command)
            if refused.exit_code != 0 and (text := refused.error_text) not in problems:
                problems.append(text)
    except SiteError as exc:
        problems.append(str(exc))


def hard_kills(site: SiteConfig, ids: Sequence[str]) -> list[Command[Output]]:
    """What ends jobs at once, whatever they trap. This machine's own runner kills by itself, 5 s after TERM."""
    match site.scheduler:
        case "slurm":
            # Deadly without a core file, and hardly ever trapped; what traps it too has KillWait after `scancel`.
            program = site.command("scancel")
            return [slurm.signal(program, "ALRM", ids), slurm.scancel(program, ids)]
        case "pbs":
            return [pbs.act(site.command("qsig"), "-s", "SIGKILL", native_id) for native_id in ids]
        case "sunway":
            return [sunway.bsignal(site.command("bsignal"), signal.SIGKILL, native_id) for native_id in ids]
        case _:
            return []


def _shut_accounts(centre: Centre, problems: list[str]) -> list[str]:
    """No login that we used may submit for us again: orders' accounts are shut, our keys leave authorized_keys."""
    shut = []
    for account in _accounts(centre):
        if centre.orders.given(account.username):
            try:
                centre.orders.suspend(account.username)
                shut.append(account.username)
            except SiteError as exc:
                problems.append(f"{account.username}: {exc}")
        try:
            centre.logins.actor(account.username).run(_forget_keys())
        except SiteError as exc:
            problems.append(f"{account.username}: {exc}")
    return shut


def _forget_keys() -> Command[Output]:
    """Lines that people installed for us end in a comment that begins with `penstock:`."""
    script = (
        'f="$HOME/.ssh/authorized_keys"; [ -f "$f" ] || exit 0; '
        'grep -v " penstock:" "$f" >"$f.penstock"; [ $? -lt 2 ] && chmod 600 "$f.penstock" && mv "$f.penstock" "$f"'
    )
    return Command(("/bin/sh", "-c", script), lambda out: out, write=True, deadline_s=20.0)
