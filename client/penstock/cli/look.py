"""jobs, show, why, logs, script, events, charges, balance, sites: looking only."""

from __future__ import annotations

import sys

import click

from penstock.cli import report
from penstock.cli.shared import client, core_hours, emit, find, json_option, last_line, local_time, table


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
    click.echo(f"  id {found.id}, at {found.site} as {found.native_job_id or '–'}, attempt {found.attempt}")
    click.echo(f"  submitted {local_time(found.created_at)}, started {local_time(found.started_at)}, "
               f"ended {local_time(found.ended_at)}")  # fmt: skip
    if found.status.message:
        click.echo(f"  {found.status.message}")
    if found.status.stale_since:
        click.echo(f"  the site has not answered since {local_time(found.status.stale_since)}")
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
    click.echo(found["sentence"])
    for line in (found["evidence"], found["action"]):
        if line:
            click.echo(f"  {line}")
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
                report.warn(f"\nDetached. Attach again: penstock logs -f {job_id}")
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
                    f"{local_time(event['at'])}  {event['kind']:<22} {event['state']:<10} {event['detail'] or ''}"
                )
    return report.OK


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
        click.echo(f"{charge['meter']} meter: {charge['rule']} = {charge['core_seconds']} core-seconds")
        for part in charge["segments"]:
            click.echo(f"  {part['quantity']} {part['resource']} at {part['price']} {charge['currency']} "
                       f"for {part['per']} = {part['amount']} {charge['currency']}")  # fmt: skip
    total = found["total"]
    if total is None:
        click.echo("Nothing is charged.")
    else:
        word = "provisional, until the centre's record comes" if found["provisional"] else "the centre's record governs"
        click.echo(f"Total {total['amount']} {total['currency']}, {core_hours(found['core_seconds'])} ({word})")
    return report.OK


@click.command()
@json_option
def balance(as_json: bool) -> int:
    """What the projects have used, bound and left."""
    with client() as api:
        found = api.projects()
    if as_json:
        emit(found)
        return report.OK
    rows = [
        (project["name"], e["commodity"], e["settled"], e["in_flight"], e["committed"],
         "–" if e["limit"] is None else e["limit"], "–" if e["available"] is None else e["available"])
        for project in found for e in project["exposure"]
    ]  # fmt: skip
    table(rows, ("PROJECT", "IN", "SETTLED", "IN FLIGHT", "COMMITTED", "LIMIT", "AVAILABLE"))
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
        state = f"closed: {site['closed_reason']}" if not site["open"] else "stale" if site["stale_since"] else "open"
        account = site["account"]
        login = "no account" if account is None else f"{account['username']} ({account['status']})"
        queues = ",".join(q["name"] for q in site["queues"]) or "–"
        rows.append((site["id"], site["scheduler"], state[:60], login, str(site["waiting"]["total"]), queues))
    table(rows, ("SITE", "SCHEDULER", "STATE", "YOUR LOGIN", "WAITING HERE", "QUEUES"))
    return report.OK
