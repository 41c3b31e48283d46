"""cancel, hold, release, modify, decide, wait."""

from __future__ import annotations

import time

import click

from penstock.cli import report
from penstock.cli.shared import client, emit, find, json_option, last_line
from penstock.cli.submit import seconds
from penstock.cli.texts import tr


def _act(verb: str, jobs: tuple[str, ...], as_json: bool) -> int:
    with client() as api:
        for wanted in jobs:
            job = getattr(api, verb)(find(api, wanted))
            if as_json:
                emit(job)
            else:
                click.echo(f"{job.id}: {job.status.state}" + (tr(", {wish} wished", wish=job.wish) if job.wish else ""))
    return report.OK


@click.command()
@json_option
@click.argument("jobs", nargs=-1, required=True)
def cancel(jobs: tuple[str, ...], as_json: bool) -> int:
    """End JOBS."""
    return _act("cancel", jobs, as_json)


@click.command()
@json_option
@click.argument("jobs", nargs=-1, required=True)
def hold(jobs: tuple[str, ...], as_json: bool) -> int:
    """Keep JOBS that wait from starting."""
    return _act("hold", jobs, as_json)


@click.command()
@json_option
@click.argument("jobs", nargs=-1, required=True)
def release(jobs: tuple[str, ...], as_json: bool) -> int:
    """Let held JOBS start."""
    return _act("release", jobs, as_json)


@click.command()
@click.option("-t", "--time", "duration", help="Walltime, like 30m")
@click.option("--queue", "queue_name")
@click.option("--account")
@click.option("--qos")
@click.option("--priority", type=int)
@json_option
@click.argument("job")
def modify(job: str, as_json: bool, duration: str | None, **attributes: str | int | None) -> int:
    """Change a JOB that waits."""
    asked = {k: v for k, v in attributes.items() if v is not None}
    if duration is not None:
        asked["duration"] = seconds(duration)
    with client() as api:
        found = api.modify(find(api, job), **asked)
    if as_json:
        emit(found)
    else:
        click.echo(last_line(found))
    return report.OK


@click.command()
@click.option("--native-id", help="Which job of the site it is (adopt)")
@json_option
@click.argument("job")
@click.argument("decision", type=click.Choice(["adopt", "resubmit", "cancel"]))
def decide(job: str, decision: str, native_id: str | None, as_json: bool) -> int:
    """Say what nobody can prove about JOB."""
    with client() as api:
        found = api.decide(find(api, job), decision, native_id)
    if as_json:
        emit(found)
    else:
        click.echo(last_line(found))
    return report.OK


@click.command()
@click.option("--timeout", help="Give up after this, like 10m")
@click.option("--charged", is_flag=True, help="Also wait for the centre's own record")
@click.option("--exit-with-job", is_flag=True, help="Exit with the job's own code")
@json_option
@click.argument("job")
def wait(job: str, timeout: str | None, charged: bool, exit_with_job: bool, as_json: bool) -> int:
    """Wait for the end of JOB. Ctrl-C stops waiting, not the job."""
    limit = None if timeout is None else float(seconds(timeout))
    deadline = None if limit is None else time.monotonic() + limit
    with client() as api:
        job_id = find(api, job)
        found = api.wait(job_id, timeout_s=limit)
        while charged and found.usage is not None and not found.usage.final:
            if deadline is not None and time.monotonic() > deadline:
                raise TimeoutError(f"{job_id}: the centre's record has not come")
            time.sleep(1.0)
            found = api.job(job_id)
    if as_json:
        emit(found)
    else:
        click.echo(last_line(found))
    return report.outcome(found, with_job=exit_with_job)
