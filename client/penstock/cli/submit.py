"""run, submit, plan: from words to a job spec."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from penstock.cli import report
from penstock.cli.shared import client, emit, json_of, json_option, last_line
from penstock.cli.texts import said, tr

_DURATION = re.compile(r"(?:(\d+)d)?(?:(\d+)h)?(?:(\d+)m)?(?:(\d+)s?)?\Z")
_MEMORY = re.compile(r"(\d+)([KMGT]?)i?B?\Z", re.IGNORECASE)


def seconds(text: str) -> int:
    """`1h30m`, `90m`, `2d`, or seconds."""
    match = _DURATION.match(text)
    if not text or match is None or not any(match.groups()):
        raise click.BadParameter(f"{text!r} is no duration; write it like 1h30m")
    days, hours, minutes, rest = (int(part or 0) for part in match.groups())
    return ((days * 24 + hours) * 60 + minutes) * 60 + rest


def memory_bytes(text: str) -> int:
    """`4G`, `512M`, or bytes."""
    match = _MEMORY.match(text)
    if match is None:
        raise click.BadParameter(f"{text!r} is no amount of memory; write it like 4G")
    power: int = " KMGT".index(match[2].upper() or " ")
    return int(match[1]) * int(1024**power)


def job_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """The options that describe a job."""
    options = [
        click.option("--name", help="A name for people"),
        click.option("--project", help="Who pays"),
        click.option("--site", "sites", multiple=True, help="Where (repeat it for several, in order of preference)"),
        click.option("--queue", help="Queue at the site"),
        click.option("--account", help="Charge account at the site"),
        click.option("--qos", help="Quality of service at the site"),
        click.option("--grade", help="Service grade at its price: economy, quality, super …"),
        click.option("-N", "--nodes", type=int, help="Nodes"),
        click.option("-n", "--processes", type=int, help="Processes in all"),
        click.option("-c", "--cores", type=int, help="Cores of each process"),
        click.option("-t", "--time", "duration", help="Walltime, like 1h30m"),
        click.option("--mem", help="Memory of each node, like 4G"),
        click.option("--gpus", type=int, help="GPUs of each process"),
        click.option("--units", multiple=True, help="NAME=NUMBER of what is counted, of each task: shots=1000"),
        click.option("--array", help="Task indices, like 0-9:2"),
        click.option("--max-parallel", type=int, help="Array tasks at a time"),
        click.option("--after", "dependencies", multiple=True, help="JOB or JOB:afterany … to wait for"),
        click.option("--env", "environment", multiple=True, help="NAME=VALUE for the job"),
        click.option("--dir", "directory", help="Working directory at the site"),
        click.option("--tag", "tags", multiple=True, help="key=value, to find it again"),
        click.option("--hold", is_flag=True, help="Submit it held"),
        click.option("--max-cost", help="Cancel it at this cost, like 12.50CNY"),
        click.option("--launcher", help="srun, mpirun, mpiexec …"),
        click.option("--idempotency-key", help="A key for a submission that is never made twice"),
    ]
    for option in reversed(options):
        command = option(command)
    return command


def spec_of(o: dict[str, Any]) -> dict[str, Any]:
    """The job spec that the options describe; what was not said is left out."""
    resources = {"node_count": o["nodes"], "process_count": o["processes"], "cpu_cores_per_process": o["cores"],
                 "gpu_cores_per_process": o["gpus"], "units": _counted(o["units"]) or None,
                 "memory": memory_bytes(o["mem"]) if o["mem"] else None}  # fmt: skip
    attributes = {"duration": seconds(o["duration"]) if o["duration"] else None, "queue_name": o["queue"],
                  "account": o["account"], "qos": o["qos"], "service_grade": o["grade"],
                  "submit_as_hold": o["hold"] or None}  # fmt: skip
    array = {"indices": o["array"], "max_parallel": o["max_parallel"]} if o["array"] else None
    spec = {
        "name": o["name"], "project": o["project"], "directory": o["directory"], "launcher": o["launcher"],
        "resources": _said(resources), "attributes": _said(attributes), "array": _said(array) if array else None,
        "environment": _pairs(o["environment"], "--env"), "tags": _pairs(o["tags"], "--tag"),
        "placement": {"resource_ids": list(o["sites"])} if o["sites"] else None,
        "dependencies": [_dependency(d) for d in o["dependencies"]],
        "budget": {"max_cost": _money(o["max_cost"])} if o["max_cost"] else None,
    }  # fmt: skip
    return _said(spec)


@click.command(context_settings={"ignore_unknown_options": False})
@job_options
@click.option("-d", "--detach", is_flag=True, help="Do not follow")
@click.option("--exit-with-job", is_flag=True, help="Exit with the job's own code")
@json_option
@click.argument("command", nargs=-1, required=True)
def run(command: tuple[str, ...], detach: bool, exit_with_job: bool, as_json: bool, **options: Any) -> int:
    """Submit COMMAND with its arguments and follow what it prints. Ctrl-C detaches; the job goes on."""
    spec = {**spec_of(options), "executable": command[0], "arguments": list(command[1:])}
    return _submit(spec, options["idempotency_key"], as_json, follow=not detach, exit_with_job=exit_with_job)


@click.command()
@job_options
@click.option("--spec", "spec_file", type=click.Path(exists=True, dir_okay=False), help="A job spec as JSON")
@click.option("-f", "--follow", is_flag=True, help="Follow what it prints")
@click.option("--dry-run", is_flag=True, help="Show the plan only")
@json_option
@click.argument("script", required=False, type=click.Path(exists=True, dir_okay=False, allow_dash=True))
def submit(
    script: str | None, spec_file: str | None, follow: bool, dry_run: bool, as_json: bool, **options: Any
) -> int:
    """Submit a SCRIPT (`-` for standard input); its #SBATCH lines become fields."""
    spec = _from_files(script, spec_file, options)
    if dry_run:
        return _plan(spec, as_json)
    return _submit(spec, options["idempotency_key"], as_json, follow=follow, exit_with_job=False)


@click.command()
@job_options
@click.option("--spec", "spec_file", type=click.Path(exists=True, dir_okay=False), help="A job spec as JSON")
@json_option
@click.argument("script", required=False, type=click.Path(exists=True, dir_okay=False, allow_dash=True))
def plan(script: str | None, spec_file: str | None, as_json: bool, **options: Any) -> int:
    """Show what would be sent where, what it may cost, and every problem. Nothing is sent."""
    return _plan(_from_files(script, spec_file, options), as_json)


# ---------------------------------------------------------------- parts


def _submit(spec: dict[str, Any], key: str | None, as_json: bool, *, follow: bool, exit_with_job: bool) -> int:
    with client() as api:
        job = api.submit(idempotency_key=key, **spec)
        if as_json:
            emit(job)
        else:
            click.echo(
                tr("{id}  {name}  at {site}", id=job.id, name=job.name, site=job.site)
                + (tr("  at most {estimate}", estimate=job.estimate) if job.estimate else "")
            )
        if not follow or job.array is not None:
            return report.OK
        try:
            for text in api.follow_log(job.id):
                if not as_json:
                    sys.stdout.write(text)
                    sys.stdout.flush()
            job = api.wait(job.id)
        except KeyboardInterrupt:
            report.warn(tr("\nDetached; the job goes on. Attach again: penstock logs -f {job}", job=job.id))
            return report.OK
        if as_json:
            emit(job)
        else:
            click.echo(last_line(job))
        return report.outcome(job, with_job=exit_with_job)


def _plan(spec: dict[str, Any], as_json: bool) -> int:
    with client() as api:
        found = api.plan(**spec)
    if as_json:
        emit(found)
        return report.OK if found.ok else report.FAILURE
    for problem in found.problems:
        click.echo(f"✗ {problem['pointer'] or 'job'}: {said(problem['detail'])} {said(problem['remedy'])}".rstrip())
    for candidate in found.candidates:
        reasons = "; ".join(said(p["detail"]) for p in candidate["problems"])
        click.echo(f"{'✓' if candidate['ok'] else '✗'} {candidate['resource_id']}" + (f": {reasons}" * bool(reasons)))
    if found.estimate:
        e = found.estimate
        click.echo(tr("At most {amount} {currency}: {basis} = {core_seconds_max} core-seconds", **e))
    if found.charged.get("grade"):
        click.echo(tr("Service grade: {grade}", grade=found.charged["grade"]))
    if found.script:
        click.echo(f"\n$ {' '.join(found.argv)}\n{found.script}")
    return report.OK if found.ok else report.FAILURE


def _from_files(script: str | None, spec_file: str | None, options: dict[str, Any]) -> dict[str, Any]:
    if (script is None) == (spec_file is None):
        raise click.UsageError(tr("Give either a SCRIPT or --spec FILE."))
    given = spec_of(options)
    if spec_file is not None:
        return {**json_of(spec_file), **given}
    try:
        text = sys.stdin.read() if script == "-" else Path(script or "").read_text("utf-8")
    except UnicodeDecodeError as exc:
        raise click.UsageError(tr("{file} is no text in UTF-8: to run a program, `penstock run -- {file}`",
                                  file=script)) from exc  # fmt: skip
    named = given if "name" in given or script == "-" else {"name": Path(script or "").stem, **given}
    return {**named, "script": text}


def _said(values: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value not in (None, {}, [])}


def _pairs(words: tuple[str, ...], option: str) -> dict[str, str]:
    wrong = next((word for word in words if "=" not in word), None)
    if wrong is not None:
        raise click.UsageError(tr("{option} {word}: write it as NAME=VALUE", option=option, word=wrong))
    return dict(word.split("=", 1) for word in words)


def _counted(words: tuple[str, ...]) -> dict[str, int]:
    wrong = next((word for word in words if not word.partition("=")[2].isdecimal()), None)
    if wrong is not None:
        raise click.UsageError(tr("{option} {word}: write it as NAME=NUMBER", option="--units", word=wrong))
    return {name: int(number) for name, number in _pairs(words, "--units").items()}


def _dependency(word: str) -> dict[str, str]:
    job_id, _, condition = word.partition(":")
    return {"job_id": job_id, "condition": condition or "afterok"}


def _money(text: str) -> dict[str, str]:
    match = re.fullmatch(r"(\d+(?:\.\d{1,6})?)\s*([A-Za-z]{3})", text)
    if match is None:
        raise click.BadParameter(f"{text!r} is no amount; write it like 12.50CNY")
    return {"amount": match[1], "currency": match[2].upper()}
