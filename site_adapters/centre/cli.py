"""`penstock-site`: what a centre's staff type."""

from __future__ import annotations

import getpass
import json
import logging
import os
import re
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from site_adapters.centre.home import Centre, Home, compose, software
from site_adapters.centre.texts import Spoken, said, tr
from site_adapters.config import SITE_NAME
from site_adapters.errors import SiteError
from site_adapters.if2 import keys
from site_adapters.if2.profile import PublicKey
from site_adapters.terminal import harmless

if TYPE_CHECKING:
    from site_adapters.centre.conformance.run import Result
    from site_adapters.centre.detect import Found
    from site_adapters.orders import Opening

_DEFAULT = Path("/etc/penstock-site")


@click.group(cls=Spoken, context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--home", type=click.Path(path_type=Path), envvar="PENSTOCK_SITE_HOME", default=_DEFAULT,
              show_default=True, help="The centre's folder.")  # fmt: skip
@click.version_option(package_name="penstock-gateway", prog_name="penstock-site", message=software())
@click.pass_context
def main(ctx: click.Context, home: Path) -> None:
    """Dock this centre to a Penstock gateway, by this centre's own rules."""
    sys.stdout, sys.stderr = harmless(sys.stdout), harmless(sys.stderr)
    ctx.obj = Home(home)


@contextmanager
def _centre(home: Home) -> Iterator[Centre]:
    """The composed centre; what is wrong with it ends the command in words."""
    try:
        centre = compose(home)
    except SiteError as exc:
        raise click.ClickException(tr("{error}. See: penstock-site check", error=said(str(exc)))) from exc
    try:
        yield centre
    except SiteError as exc:
        raise click.ClickException(said(str(exc))) from exc
    finally:
        centre.close()


# ---------------------------------------------------------------- set up


@main.command()
@click.option("--site", required=True, help="The site's name: small letters, digits, -.")
@click.option(
    "--account", default=getpass.getuser(), show_default=True, help="The login that sees queue and accounting."
)
@click.option("--act-as", "act_as", multiple=True, help="A login (or pattern) that the gateway may act as.")
@click.option("--gateway-url", default="", help="wss://…/if2/agent, where this centre dials out.")
@click.option("--set", "environment", multiple=True, help="NAME=VALUE for every command, as SLURM_CONF=….")
@click.option("--force", is_flag=True, help="Write over files that are there.")
@click.pass_obj
def init(
    home: Home, site: str, account: str, act_as: tuple[str, ...], gateway_url: str, environment: tuple[str, ...],
    force: bool,
) -> None:  # fmt: skip
    """Look what is here and write the centre's folder: site.yaml, docking.yaml, a key."""
    from site_adapters.centre import detect

    if not re.fullmatch(SITE_NAME, site):
        told = "{site} is no name of a site: 2 to 31 small letters, digits, -, a letter first"
        raise click.ClickException(tr(told, site=site))
    words = dict(pair.partition("=")[::2] for pair in environment)
    found = detect.detect(words)
    files = {
        "site.yaml": detect.site_yaml(found, site=site, account=account, environment=words),
        "docking.yaml": detect.docking_yaml(accounts=act_as, gateway_url=gateway_url),
    }
    present = [name for name in files if (home.folder / name).exists()]
    if present and not force:
        raise click.ClickException(tr("{files} is there already (--force writes over it)", files=", ".join(present)))
    home.folder.mkdir(parents=True, exist_ok=True)
    home.state.mkdir(mode=0o700, exist_ok=True)
    home.state.chmod(0o700)
    for name, text in files.items():
        (home.folder / name).write_text(text, "utf-8")
    home.audit.append("init", sync=True, site=site, by=getpass.getuser())
    _tell_found(home, found)


def _tell_found(home: Home, found: Found) -> None:
    click.echo(tr("scheduler {scheduler}, cluster {cluster}, zone {zone}", scheduler=found.scheduler,
                  cluster=found.cluster or "-", zone=found.zone))  # fmt: skip
    click.echo(tr("queues: {names}", names=", ".join(found.queues) or "-"))
    click.echo(tr("accounts: {names}", names=", ".join(found.accounts) or "-"))
    for note in found.notes:
        click.echo(tr("note: {note}", note=said(note)))
    click.echo(tr("written: {files}", files=f"{home.folder}/site.yaml, docking.yaml"))
    click.echo(tr("key: {key}", key=keys.public_text(_own(home))))
    click.echo(tr("next: give this key to the operator, `penstock-site trust` theirs, then `penstock-site check`"))


def _own(home: Home) -> PublicKey:
    return keys.load_or_create(home.key_file).public


@main.command()
@click.pass_obj
def key(home: Home) -> None:
    """Print this centre's public key, for the operator."""
    click.echo(keys.public_text(_own(home)))


@main.command()
@click.argument("gateway_key")
@click.pass_obj
def trust(home: Home, gateway_key: str) -> None:
    """Let the gateway with this key (ed25519:…) call."""
    try:
        good = keys.read_public(gateway_key)
    except ValueError as exc:
        raise click.ClickException(said(str(exc))) from exc
    home.trust.add(good)
    home.audit.append("trust", sync=True, key=good.kid, by=getpass.getuser())
    click.echo(tr("trusted: {key}", key=good.kid))


@main.command("rotate-key")
@click.option("--finish", is_flag=True, help="Sign with the new key from now on (the gateway has seen it).")
@click.pass_obj
def rotate_key(home: Home, finish: bool) -> None:
    """Replace this centre's key: announce a new one, and with --finish use it."""
    if finish:
        if not home.key_file.with_suffix(".next").exists():
            raise click.ClickException(tr("there is no new key: penstock-site rotate-key comes first"))
        made = keys.promote(home.key_file)
    else:
        made = keys.rotate(home.key_file)
    home.audit.append("rotate", sync=True, key=made.public.kid, finish=finish, by=getpass.getuser())
    click.echo(keys.public_text(made.public))
    if not finish:
        click.echo(tr("announced: the gateway takes it within a minute; then penstock-site rotate-key --finish"))


@main.command()
@click.option("--json", "as_json", is_flag=True, help="Machine-readable output")
@click.pass_obj
def check(home: Home, as_json: bool) -> None:
    """Look at everything that docking needs, with a remedy for what fails. Exit code 1 if something does."""
    from site_adapters.centre.checks import all_checks

    centre: Centre | None = None
    with suppress(SiteError):  # the checks of the folder say what is wrong
        centre = compose(home)
    try:
        results = all_checks(home, centre)
    finally:
        if centre is not None:
            centre.close()
    failed = [r for r in results if not r.ok]
    if as_json:
        click.echo(json.dumps([{"name": r.name, "ok": r.ok, "detail": r.detail, "remedy": r.remedy} for r in results]))
    else:
        for r in results:
            click.echo(f"{tr('ok  ') if r.ok else tr('FAIL')}  {said(r.name)}: {said(r.detail)}")
            if not r.ok:
                click.echo(f"      → {said(r.remedy)}")
        click.echo(tr("{count} checks, {failed} failed", count=len(results), failed=len(failed)))
    sys.exit(1 if failed else 0)


# ---------------------------------------------------------------- serve, connect


@main.command()
@click.pass_obj
def serve(home: Home) -> None:
    """Answer the gateway's calls as an HTTP service (address and certificate in docking.yaml)."""
    import uvicorn

    from site_adapters.centre.service import create_app

    _log_to_stderr()
    with _centre(home) as centre, _minutely(centre):
        host, _, port = centre.docking.listen.rpartition(":")
        app = create_app(centre.desk, lambda: centre.gate.load(home.stopped()), home.page_password())
        certificate, secret = centre.docking.tls_certificate, centre.docking.tls_key
        home.audit.append("serve", sync=True, listen=centre.docking.listen)
        logging.getLogger("penstock").info("serving at %s", centre.docking.listen)
        # Over TLS an idle gateway does not say goodbye: without a limit the end would take more than 30 s.
        uvicorn.run(app, host=host, port=int(port), log_level="warning", access_log=False, timeout_graceful_shutdown=5,
                    ssl_certfile=None if certificate is None else str(certificate),
                    ssl_keyfile=None if secret is None else str(secret))  # fmt: skip


@main.command()
@click.option("--gateway", default="penstock", show_default=True, help="The gateway's name in tokens.")
@click.pass_obj
def connect(home: Home, gateway: str) -> None:
    """Dial out to the gateway (gateway_url in docking.yaml) and answer what comes: nothing listens here."""
    from site_adapters.centre.agent import Agent, run_until

    _log_to_stderr()
    ending = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: ending.set())
    with _centre(home) as centre, _minutely(centre):
        url = centre.docking.gateway_url
        if not url:
            raise click.ClickException(tr("docking.yaml has no gateway_url"))
        home.audit.append("connect", sync=True, url=url)
        run_until(Agent(centre.desk, url, gateway, lambda: keys.load(home.key_file), home.trust, software(),
                        centre.docking.gateway_ca, home.stopped), ending)  # fmt: skip


@contextmanager
def _minutely(centre: Centre) -> Iterator[None]:
    """Once a minute: orders whose time is over are closed, and what of ours has ended is counted."""
    ending = threading.Event()

    def work() -> None:
        while not ending.wait(60):
            try:
                centre.orders.close_ended()
                centre.gate.refresh()
            except SiteError as exc:
                logging.getLogger("penstock").warning("the minute's work failed: %s", exc)

    thread = threading.Thread(target=work, name="minutely", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ending.set()
        thread.join(5)


def _log_to_stderr() -> None:
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(message)s")


# ---------------------------------------------------------------- watch, decide, stop


@main.command()
@click.option("--json", "as_json", is_flag=True, help="Machine-readable output")
@click.pass_obj
def load(home: Home, as_json: bool) -> None:
    """The load that the gateway causes here, and the share used."""
    from site_adapters.if2.codec import encode
    from site_adapters.if2.profile import LoadReport

    with _centre(home) as centre:
        centre.gate.refresh()
        report = centre.gate.load(home.stopped())
    if as_json:
        click.echo(json.dumps(encode(LoadReport, report)))
        return
    p = report.policy
    rows = (
        ("jobs", report.places, p.queued_jobs_max), ("cores", report.cores, p.cores_in_use_max),
        ("nodes", report.nodes, p.nodes_in_use_max), ("submits/min", report.submits_last_minute, p.submits_per_minute),
        ("core-hours", report.share_used_core_seconds // 3600,
         None if p.share_core_seconds is None else p.share_core_seconds // 3600),
    )  # fmt: skip
    for what, now, most in rows:
        limit = tr("no limit") if most is None else str(most)
        line = tr("{what} {now}  of {most}", what=f"{tr(what):12}", now=f"{now:>10}", most=f"{limit:10}")
        click.echo(line.rstrip())
    for person in report.people:
        click.echo(tr("  {person}: {jobs} jobs, {cores} cores", person=person.person, jobs=person.jobs,
                      cores=person.cores))  # fmt: skip
    if report.stopped:
        click.echo(tr("STOPPED: {reason}", reason=report.stopped))


@main.command("page-password")
@click.pass_obj
def page_password(home: Home) -> None:
    """The password of the page with the load, at `serve` (any user name)."""
    try:
        click.echo(home.page_password())
    except OSError as exc:
        raise click.ClickException(tr("{error}. See: penstock-site check", error=exc)) from exc


@main.group()
def orders() -> None:
    """What the gateway ordered here: accounts, blocks of core-hours, queue shares."""


@orders.command("list")
@click.option("--all", "everything", is_flag=True, help="Not only what waits for a decision.")
@click.pass_obj
def orders_list(home: Home, everything: bool) -> None:
    """Orders that wait for this centre's decision."""
    with _centre(home) as centre:
        for o in centre.orders.openings() if everything else centre.orders.waiting():
            until = tr("until {day}", day=f"{o.valid_until:%Y-%m-%d}") if o.valid_until else ""
            words = " ".join(filter(None, (_size(o), until, said(o.detail))))
            click.echo(f"{o.order_id}  {o.state.value:9} {o.kind.value:11} {o.project}: {words}")


def _size(o: Opening) -> str:
    if o.core_seconds:
        return tr("{hours} core-hours", hours=f"{o.core_seconds / 3600:.3f}".rstrip("0").rstrip("."))
    return tr("{count} cores", count=o.cores) if o.cores else o.username


@orders.command()
@click.argument("order_id")
@click.pass_obj
def approve(home: Home, order_id: str) -> None:
    """Open what was ordered."""
    with _centre(home) as centre:
        opening = centre.orders.approve(order_id, by=getpass.getuser())
    names = " ".join(filter(None, (opening.native_account, opening.username, opening.qos)))
    click.echo(f"{opening.state.value} {names} {said(opening.detail)}".strip())
    sys.exit(0 if opening.state.value == "open" else 1)


@orders.command()
@click.argument("order_id")
@click.option("--reason", required=True, help="A sentence for whoever ordered.")
@click.pass_obj
def refuse(home: Home, order_id: str, reason: str) -> None:
    """Say no, with a reason that the gateway shows."""
    with _centre(home) as centre:
        click.echo(centre.orders.refuse(order_id, by=getpass.getuser(), reason=reason).state.value)


@orders.command("close")
@click.argument("order_id")
@click.option("--reason", default="closed by the centre", show_default=True, help="A sentence for whoever ordered.")
@click.pass_obj
def orders_close(home: Home, order_id: str, reason: str) -> None:
    """Take back what was opened; what ran stays in the accounting."""
    with _centre(home) as centre:
        click.echo(centre.orders.close(order_id, reason=reason).state.value)


@main.command()
@click.option("--reason", default="stopped by the centre", show_default=True, help="What the gateway is told.")
@click.option("--hold", is_flag=True, help="Hold what waits instead of cancelling it; what runs ends in any case.")
@click.pass_obj
def stop(home: Home, reason: str, hold: bool) -> None:
    """The one switch: refuse every call, trust no key, end every job of ours, shut our accounts. Needs no gateway."""
    from site_adapters.centre.halt import halt

    home.stop(reason)  # before anything that could fail
    with _centre(home) as centre:
        report = halt(centre, reason=reason, hold=hold)
    click.echo(tr("keys revoked: {keys}; jobs ended: {ended}; held: {held}; accounts shut: {shut}; {seconds} s",
                  keys=report.keys_revoked, ended=report.jobs_ended, held=report.jobs_held,
                  shut=", ".join(report.accounts_shut) or "-", seconds=f"{report.seconds:.1f}"))  # fmt: skip
    for problem in report.problems:
        click.echo(tr("problem: {problem}", problem=said(problem)))
    if report.left:
        raise click.ClickException(tr("still there: {jobs}", jobs=", ".join(report.left)))


@main.command()
@click.argument("gateway_key")
@click.pass_obj
def resume(home: Home, gateway_key: str) -> None:
    """Open again after `stop`, for the gateway with this key. Accounts are opened again by approving their orders."""
    try:
        home.trust.add(keys.read_public(gateway_key))
    except ValueError as exc:
        raise click.ClickException(said(str(exc))) from exc
    home.resume()
    home.audit.append("resume", sync=True, by=getpass.getuser())
    click.echo(tr("open: calls of this gateway are answered again"))


@main.group()
def audit() -> None:
    """The log of every call: verify it, export it."""


@audit.command()
@click.pass_obj
def verify(home: Home) -> None:
    """Recompute the chain; prints the last hash, to be kept elsewhere."""
    lines, last, broken = home.audit.verify()
    if broken is not None:
        raise click.ClickException(tr("line {line}: {why}", line=broken.line, why=said(broken.why)))
    click.echo(tr("{lines} lines, good, last hash {last}", lines=lines, last=last))


@audit.command()
@click.option("--format", "form", type=click.Choice(["jsonl", "cef", "syslog"]), default="jsonl", show_default=True,
              help="JSON lines, ArcSight CEF or syslog (RFC 5424).")  # fmt: skip
@click.option("--after", default=0, help="Only lines with a higher number: a SIEM asks for what is new.")
@click.pass_obj
def export(home: Home, form: str, after: int) -> None:
    """Print the log as a SIEM reads it."""
    from site_adapters.centre.audit import FORMATS

    written: Callable[[dict[str, Any]], str] = FORMATS[form]
    for entry in home.audit.entries():
        if entry["n"] > after:
            click.echo(written(entry))


@main.command()
@click.option("--account", default="", help="A login for the jobs of the checks.")
@click.option("--queue", default=None, help="The queue they go to.")
@click.option("--report", type=click.Path(path_type=Path), default=Path("conformance.json"), show_default=True,
              help="The file of the report.")  # fmt: skip
@click.option("--only", multiple=True, help="Only checks whose name begins so.")
@click.option("--verify", "to_verify", is_flag=True, help="Verify a report instead of making one.")
@click.option("--by", "centre_key", default="", help="With --verify: the key (ed25519:…) that must have signed it.")
@click.pass_obj
def conformance(
    home: Home, account: str, queue: str | None, report: Path, only: tuple[str, ...], to_verify: bool, centre_key: str
) -> None:
    """Prove by small real jobs that this centre's docking keeps the rules; writes a signed report."""
    from site_adapters.centre.conformance import report as reports
    from site_adapters.centre.conformance.run import Target, run

    if to_verify:
        click.echo(reports.verified(report, centre_key))
        return
    if not account:
        raise click.UsageError(tr("--account names the login for the jobs of the checks"))
    with _centre(home) as centre:
        target = Target.at_the_centre(centre, account, queue)
        found = run(target, only=only, say=lambda text: click.echo(said(text)), tell=_tell_result)
        reports.write(report, found, site=centre.site.site, key=keys.load(home.key_file))
    click.echo(tr("{summary}; signed report: {file}", summary=said(found.summary), file=report))
    sys.exit(1 if found.failed else 0)


def _tell_result(result: Result) -> None:
    """A check that did not pass; `detail` is what the signed report says."""
    click.echo(f"{tr(f'{result.outcome:8}')} {result.name}: {said(result.detail)}")
    if result.remedy:
        click.echo(f"         → {said(result.remedy)}")


if __name__ == "__main__":
    os.umask(0o077)
    main()
