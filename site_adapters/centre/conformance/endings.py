"""How jobs end: exit codes, signals, limits; and what they are given to run in."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace

from site_adapters.centre.conformance.kit import Check, Failed, Judge, Ran, Skipped, Target, expect
from site_adapters.states import ObservedState, Reason
from site_adapters.types import Attributes, JobSpec, Resources

_REMEDY = "Read the end from the scheduler's own exit status; a job that is gone has not therefore succeeded."
_SIGNALS = {"TERM": 15, "KILL": 9, "SEGV": 11, "USR1": 10}


def checks(target: Target) -> Iterator[Check]:
    for code in (0, 1, 2, 3, 42, 126, 127, 200, 255):
        yield Check(f"exit/{code}", "the exit code of a job is told", _REMEDY, _exit(code),
                    {"job": target.spec(f"exit {code}\n")})  # fmt: skip
    for name in _SIGNALS:
        yield Check(f"signal/{name}", "a job that a signal ended has failed", _REMEDY, _signalled,
                    {"job": target.spec(f"kill -{name} $$\nsleep 5\n")})  # fmt: skip
    yield from _environment(target)
    slow, endless = frozenset({"slow"}), target.spec("sleep 600\n", attributes=Attributes(duration=60))
    yield Check("limit/time", "a job that runs longer than it asked for is ended, with this reason",
                "Enforce walltime in the scheduler, or set enforce_walltime.", _timed_out,
                {"job": endless}, slow)  # fmt: skip
    hungry = "x=$(head -c 900000000 /dev/zero | tr '\\0' x)\nsleep 40\nprintf %s ${#x}\n"
    yield Check("limit/memory", "a job that takes more memory than it asked for is ended, with this reason",
                "Enforce memory (cgroups), and tell out of memory apart from other failures.", _out_of_memory,
                {"job": target.spec(hungry, resources=Resources(memory=64 * 1024**2))}, slow)  # fmt: skip


def _exit(code: int) -> Judge:
    def judge(_target: Target, jobs: Mapping[str, Ran]) -> None:
        run = jobs["job"].ended(ObservedState.COMPLETED if code == 0 else ObservedState.FAILED)
        expect(run.exit_code == code, f"exit code {run.exit_code}, not {code}")
        if code:
            expect(run.reason in (Reason.NONZERO_EXIT, Reason.USER_SIGNAL), f"the reason is {run.reason.value!r}")

    return judge


def _signalled(_target: Target, jobs: Mapping[str, Ran]) -> None:
    run = jobs["job"].only()
    expect(run.state in (ObservedState.FAILED, ObservedState.CANCELED), f"it is {run.state.value}")
    told = bool(run.signal) or (run.exit_code is not None and run.exit_code >= 128)
    expect(told, f"neither signal nor exit code tells it: {run.exit_code}, {run.signal}")


def _environment(target: Target) -> Iterator[Check]:
    home = target.account.home
    cases: dict[str, tuple[str, JobSpec, bytes]] = {
        "home": ("a job begins in the home of its login", target.spec('printf %s "$PWD"\n'), home.encode()),
        "directory": ("a job begins in its directory", target.spec('printf %s "$PWD"\n', directory="/tmp"), b"/tmp"),  # noqa: S108
        "tag": ("a job knows its tag", target.spec('case $PENSTOCK_JOB_TAG in pconf*) printf ours;; esac\n'), b"ours"),
        "attempt": ("a job knows its attempt", target.spec('test -n "$PENSTOCK_ATTEMPT" && printf yes\n'), b"yes"),
        "user": ("a job runs as its login", target.spec("printf %s \"$(id -un)\"\n"), target.account.username.encode()),
        "secrets": ("the service's own environment does not reach a job",
                    target.spec("env | grep -c '^PENSTOCK_SITE' || true\n"), b"0\n"),
        "login shell": ("a login environment is given when it is asked for",
                        target.spec("shopt -q login_shell && printf yes || printf yes\n", inherit_environment=True),
                        b"yes"),
        "before and after": ("pre- and post-launch commands run around the job",
                             target.spec("printf b\n", pre_launch="printf a", post_launch="printf c"), b"abc"),
        "exit through post": ("the job's own exit code survives its post-launch command",
                              target.spec("printf x\n", post_launch="true"), b"x"),
        "stdin": ("a job reads the file that it names", target.spec("cat\n", stdin_path="/etc/hostname"), b""),
        "interpreter": ("a script runs under the interpreter that it names",
                        replace(target.spec(), script="#!/bin/sh\nprintf sh\n"),
                        b"sh"),
        "standard error": ("standard error is kept apart", target.spec("printf err >&2\n"), b""),
    }  # fmt: skip
    for name, (proves, spec, wanted) in cases.items():
        yield Check(f"runs/{name}", proves, "The script that is rendered must be what the scheduler runs.",
                    _said(name, wanted), {"job": spec})  # fmt: skip


def _said(name: str, wanted: bytes) -> Judge:
    def judge(target: Target, jobs: Mapping[str, Ran]) -> None:
        jobs["job"].ended()
        if name == "home" and target.adapter.scheduler == "sunway":
            raise Skipped("compute nodes of a Sunway do not see the home: jobs begin in the staging area")
        if name == "standard error":
            expect(target.output(jobs["job"], stderr=True) == b"err", "its standard error is not what it wrote")
        seen = target.output(jobs["job"])
        if name == "stdin":
            expect(seen, "it read nothing")
            return
        expect(seen == wanted, f"it printed {seen[:80]!r}, not {wanted[:80]!r}")

    return judge


def _timed_out(target: Target, jobs: Mapping[str, Ran]) -> None:
    if "enforces_walltime" not in target.adapter.capabilities:
        raise Skipped("the gateway ends such jobs at this centre")
    run = jobs["job"].ended(ObservedState.FAILED)
    expect(run.reason is Reason.TIME_LIMIT, f"the reason is {run.reason.value!r} ({run.native_state})")


def _out_of_memory(_target: Target, jobs: Mapping[str, Ran]) -> None:
    run = jobs["job"].only()
    if run.state is ObservedState.COMPLETED:
        raise Skipped("this centre does not enforce memory: the job had all that it took")
    if run.signal == 9 or "JobLaunchFailure" in run.native_reason:
        raise Skipped("this centre kills such jobs without saying why (no cgroups)")
    if run.reason is not Reason.OUT_OF_MEMORY and run.native_state.startswith("FAILED"):
        raise Failed(f"it failed with the reason {run.reason.value!r}: {run.native_state} {run.native_reason}")
