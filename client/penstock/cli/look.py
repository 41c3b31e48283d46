"""jobs, show, why, logs, script, events, charges, balance, sites: looking only."""

from __future__ import annotations

import sys
from typing import Any

import click

from penstock.cli import report
from penstock.cli.shared import (
    at_place,
    client,
    core_hours,
    emit,
    find,
    json_option,
    last_line,
    local_time,
    percent_of,
    table,
)
from penstock.cli.texts import said, tr


@click.command()
@click.option("--state", multiple=True, help="new, queued, held, active, completed, failed, canceled …")
@click.option("--site")
@click.option("--project")
@click.option("--user")
@click.option("--name")
@click.option("--tag", help="key:value")
@click.option("--limit", type=int, default=20, show_default=True)
@json_option
def jobs(limit: int, as_json: bool, state: tuple[str, ...], **filters: str | None) -> int:
    """List jobs, the newest first."""
    with client() as api:
        found = list(api.jobs(limit=limit, state=list(state), **filters))
    if as_json:
        for job in found:
            emit(job)
        return report.OK
    rows = [
        (job.id, job.name[:30], f"{job.status.state} {job.status.reason}".strip(), job.site, job.native_job_id or "–",
         local_time(job.created_at))
        for job in found
    ]  # fmt: skip
    table(rows, ("ID", "NAME", "STATE", "SITE", "NATIVE ID", "SUBMITTED"))
    return report.OK


@click.command()
@json_option
@click.argument("job")
def show(job: str, as_json: bool) -> int:
    """Show one JOB (id, beginning of it, or name)."""
    with client() as api:
        found = api.job(find(api, job))
    if as_json:
        emit(found)
        return report.OK
    click.echo(last_line(found))
    click.echo(tr("  id {id}, at {site} as {native}, attempt {attempt}", id=found.id, site=found.site,
                  native=found.native_job_id or "–", attempt=found.attempt))  # fmt: skip
    click.echo(tr("  submitted {submitted}, started {started}, ended {ended}", submitted=local_time(found.created_at),
                  started=local_time(found.started_at), ended=local_time(found.ended_at)))  # fmt: skip
    if found.status.message:
        click.echo(f"  {found.status.message}")
    if found.status.stale_since:
        since = local_time(found.status.stale_since)
        click.echo(tr("  the site has not answered since {since}", since=since))
    return report.OK


@click.command()
@json_option
@click.argument("job")
def why(job: str, as_json: bool) -> int:
    """Why is JOB in its state?"""
    with client() as api:
        found = api.why(find(api, job))
    if as_json:
        emit(found)
        return report.OK
    click.echo(said(found["sentence"]))
    for line in (found["evidence"], found["action"]):
        if line:
            click.echo(f"  {said(line)}")
    return report.OK


@click.command()
@click.option("-f", "--follow", is_flag=True, help="As it is printed, to the end")
@click.option("--stderr", "stream", flag_value="stderr", help="The error output")
@click.option("--stdout", "stream", flag_value="stdout", default=True, help="The output (default)")
@click.option("--task", type=int, help="Which task of an array")
@click.option("--offset", type=int, default=0, help="From this byte")
@click.argument("job")
def logs(job: str, follow: bool, stream: str, task: int | None, offset: int) -> int:
    """What JOB printed. Ctrl-C detaches."""
    stream = stream if stream in ("stdout", "stderr") else "stdout"
    with client() as api:
        job_id = find(api, job)
        if follow:
            try:
                for text in api.follow_log(job_id, stream=stream, task=task, offset=offset):
                    sys.stdout.write(text)
                    sys.stdout.flush()
            except KeyboardInterrupt:
                report.warn(tr("\nDetached. Attach again: penstock logs -f {job}", job=job_id))
            return report.OK
        while True:
            chunk = api.log(job_id, stream=stream, offset=offset, limit=1 << 20, task=task)
            sys.stdout.buffer.write(chunk.data)
            offset = chunk.offset + len(chunk.data)
            if chunk.eof or not chunk.data:
                sys.stdout.buffer.flush()
                return report.OK


@click.command()
@click.argument("job")
def script(job: str) -> int:
    """The very script that the site was given for JOB."""
    with client() as api:
        click.echo(api.script(find(api, job)))
    return report.OK


@click.command()
@click.option("-f", "--follow", is_flag=True)
@json_option
@click.argument("job")
def events(job: str, follow: bool, as_json: bool) -> int:
    """What happened to JOB."""
    with client() as api:
        job_id = find(api, job)
        found = (
            (e.data for e in api.events(job_id) if "n" in e.data)
            if follow
            else api.get(f"jobs/{job_id}/events")["items"]
        )
        for event in found:
            if as_json:
                emit(event)
            else:
                click.echo(
                    f"{local_time(event['at'])}  {event['kind']:<22} {event['state']:<10} {_detail(event['detail'])}"
                )
    return report.OK


def _detail(detail: dict[str, Any] | None) -> str:
    """`name value, …` of what is said with an event; what is empty is not."""
    return ", ".join(f"{name} {value}" for name, value in (detail or {}).items() if value not in ("", None))


@click.command()
@json_option
@click.argument("job")
def charges(job: str, as_json: bool) -> int:
    """What JOB costs, run by run, with the arithmetic."""
    with client() as api:
        found = api.charges(find(api, job))
    if as_json:
        emit(found)
        return report.OK
    for charge in found["charges"]:
        words = {"meter": tr(charge["meter"]), "rule": said(charge["rule"]), "core_seconds": charge["core_seconds"]}
        click.echo(tr("{meter} meter: {rule} = {core_seconds} core-seconds", **words))
        for part in charge["segments"]:
            click.echo(tr("  {quantity} {unit} at {price} {currency} {per}{times} = {amount} {currency}",
                          per=_per(part), unit=tr(part["resource"].replace("_", "-")), quantity=part["quantity"],
                          price=part["price"], currency=charge["currency"], amount=part["amount"],
                          times=_times(part)))  # fmt: skip
    total = found["total"]
    if total is None:
        click.echo(tr("Nothing is charged."))
    else:
        told = tr("provisional, until the centre's record comes")
        word = told if found["provisional"] else tr("the centre's record governs")
        click.echo(tr("Total {amount} {currency}, {hours} ({word})", amount=total["amount"], currency=total["currency"],
                      hours=core_hours(found["core_seconds"]), word=word))  # fmt: skip
        numbers = [str(charge["id"]) for charge in found["charges"]]
        click.echo(tr("Down to the raw record: penstock billing explain {charge}", charge=numbers[0]))
        if len(numbers) > 1:
            more = ", ".join(numbers[1:6]) + (", …" if len(numbers) > 6 else "")
            click.echo(tr("  (the others: {charges})", charges=more))
    return report.OK


_BUDGETS_OF = 20  # an operator's list of projects may be long: budgets are asked for of so many


def _per(part: dict[str, Any]) -> str:
    """For how much the price is."""
    if part["per"] == 3600 and part["resource"].endswith("_seconds"):
        return tr("per {unit}", unit=tr(part["resource"].replace("_seconds", "-hour")))
    return tr("for {count}", count=part["per"])


def _times(part: dict[str, Any]) -> str:
    """The discount on the price, and why: paid with an order, or by contract."""
    if not part.get("discount"):
        return ""
    why = said(part["reason"]) if part.get("reason") else tr("discount")
    return f" × {part['discount']} ({why})"


@click.command()
@json_option
def balance(as_json: bool) -> int:
    """What the projects have used, bound and left."""
    with client() as api:
        found = api.projects()
        names = [project["name"] for project in found[:_BUDGETS_OF]] if not as_json else []
        budgets = [(name, b) for name in names for b in api.get("billing/budgets", project=name)["items"]]
    if as_json:
        emit(found)
        return report.OK
    rows = [
        (project["name"], e["commodity"] + at_place(e), e["settled"], e["in_flight"], e["committed"],
         "–" if e["limit"] is None else e["limit"], "–" if e["available"] is None else e["available"])
        for project in found for e in project["exposure"]
    ]  # fmt: skip
    table(rows, ("PROJECT", "IN", "SETTLED", "IN FLIGHT", "COMMITTED", "LIMIT", "AVAILABLE"))
    for name, b in budgets:
        percent = percent_of(b)
        if b["reached"]:
            end = tr(": nothing more can be submitted") if b["stop"] and percent >= 100 else ""
            click.echo(tr("! {project}: {percent} % of the budget of {amount} {commodity} is spent or held{end}",
                          project=name, percent=f"{percent:.0f}", amount=b["amount"], commodity=b["commodity"],
                          end=end))  # fmt: skip
    return report.OK


@click.command()
@json_option
def sites(as_json: bool) -> int:
    """The docked centres, and how they stand."""
    with client() as api:
        found = api.sites()
    if as_json:
        emit(found)
        return report.OK
    rows = []
    for site in found:
        state = tr("stale") if site["stale_since"] else tr("open")
        if not site["open"]:
            state = tr("closed: {reason}", reason=site["closed_reason"])
        account = site["account"]
        login = tr("no account") if account is None else f"{account['username']} ({account['status']})"
        queues = ",".join(q["name"] for q in site["queues"]) or "–"
        rows.append((site["id"], site["scheduler"], state[:60], login, str(site["waiting"]["total"]), queues))
    table(rows, ("SITE", "SCHEDULER", "STATE", "YOUR LOGIN", "WAITING HERE", "QUEUES"))
    return report.OK
