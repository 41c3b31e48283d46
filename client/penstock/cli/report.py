"""Errors for people in three lines (what, evidence, what to do), and the exit codes of gh and a few of our own."""

from __future__ import annotations

import sys

import click

from penstock.cli.texts import said, tr
from penstock.errors import Forbidden, NeedsLogin, NoCredit, NotReachable, PenstockError, Refused, SiteDown
from penstock.models import Job

OK, FAILURE, USAGE, NEEDS_LOGIN, JOB_FAILED, TIMED_OUT, NO_CREDIT, SITE_DOWN = 0, 1, 2, 4, 5, 6, 7, 8


def explain(error: Exception) -> int:
    """Tell an error and return its exit code; a bug of ours is raised again."""
    if isinstance(error, TimeoutError):
        click.echo(f"penstock: {error}", err=True)
        return TIMED_OUT
    if not isinstance(error, PenstockError):
        raise error
    click.echo(f"penstock: {said(str(error))}", err=True)
    if isinstance(error, Refused):
        for problem in error.problems:
            words = " ".join(said(str(problem.get(part) or "")) for part in ("detail", "remedy"))
            click.echo(f"  {problem.get('pointer') or 'job'}: {words}".rstrip(), err=True)
        if error.remedy:
            click.echo(f"  → {said(error.remedy)}", err=True)
    elif isinstance(error, NotReachable):
        click.echo(tr("  → Is the address right? `penstock login URL`"), err=True)
    return _code(error)


def _code(error: PenstockError) -> int:
    if isinstance(error, NeedsLogin | Forbidden):
        return NEEDS_LOGIN
    if isinstance(error, NoCredit):
        return NO_CREDIT
    return SITE_DOWN if isinstance(error, SiteDown) else FAILURE


def outcome(job: Job, *, with_job: bool = False) -> int:
    """The exit code that a job's end stands for."""
    if job.status.state == "completed":
        return OK
    if with_job and job.status.exit_code:
        return job.status.exit_code
    return USAGE if job.status.state == "canceled" else JOB_FAILED


def warn(text: str) -> None:
    print(text, file=sys.stderr)
