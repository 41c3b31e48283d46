"""The suite: all checks, their jobs submitted together, each judged when they have ended."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from site_adapters.centre.conformance import acts, endings, faults, looks, ordered, records, rules, shapes, texts, wire
from site_adapters.centre.conformance.kit import Check, Failed, Ran, Skipped, Target
from site_adapters.errors import SiteError
from site_adapters.types import Rejected

__all__ = ["Found", "Result", "Target", "all_checks", "run"]
_GROUPS = (texts, endings, shapes, acts, looks, records, wire, rules, ordered, faults)


@dataclass(frozen=True, slots=True)
class Result:
    """What became of one check: `passed`, `failed` or `skipped`, and what was seen."""

    name: str
    proves: str
    outcome: str
    detail: str
    remedy: str
    seconds: float

    @property
    def line(self) -> str:
        """In English, for a log."""
        return f"{self.outcome:8} {self.name}: {self.detail}" + (f"\n         → {self.remedy}" if self.remedy else "")


@dataclass(slots=True)
class Found:
    """All results of one run."""

    results: list[Result] = field(default_factory=list)

    @property
    def failed(self) -> list[Result]:
        return [r for r in self.results if r.outcome == "failed"]

    def count(self, outcome: str) -> int:
        return sum(r.outcome == outcome for r in self.results)

    @property
    def summary(self) -> str:
        parts = ", ".join(f"{self.count(o)} {o}" for o in ("passed", "failed", "skipped"))
        return f"{len(self.results)} checks: {parts}"


def all_checks(target: Target) -> Iterator[Check]:
    for group in _GROUPS:
        yield from group.checks(target)


def run(
    target: Target, *, only: Sequence[str] = (), say: Callable[[str], None] = lambda _line: None,
    tell: Callable[[Result], None] | None = None,
) -> Found:  # fmt: skip
    """Every check (or those whose names begin so); never raises for one of them. `tell` gets what did not pass."""
    told = tell or (lambda result: say(result.line))
    found = Found()
    chosen = [c for c in all_checks(target) if not only or c.name.startswith(tuple(only))]
    possible = []
    for check in chosen:
        missing = _missing(check, target)
        if missing:
            _keep(found, told, check, "skipped", missing, 0.0)
        else:
            possible.append(check)
    jobs = _submitted(target, possible, say)
    _wait(target, possible, jobs)
    for check in possible:
        begun = time.monotonic()
        outcome, detail = _judged(check, target, jobs[check.name])
        _keep(found, told, check, outcome, detail, time.monotonic() - begun)
    return found


def _missing(check: Check, target: Target) -> str:
    """Why a check cannot be made here; empty where it can."""
    for need in sorted(check.needs):
        if need == "slow":
            if not target.slow:
                return "it takes more than a minute, and was left out"
        elif need == "centre":
            if target.centre is None:
                return "it is made at the centre, by penstock-site"
        elif need == "scheduler":
            if target.adapter.scheduler == "local":
                return "there is no scheduler that could refuse"
        elif need.startswith("fault:"):
            name = need.partition(":")[2]
            if name not in target.faults and not (name == "requeue" and target.requeue):
                return f"{name.replace('_', ' ')} is not provoked at a centre that works: only in a laboratory"
        elif need not in target.adapter.capabilities:
            return f"this centre has no {need}"
    return ""


def _submitted(target: Target, checks: Sequence[Check], say: Callable[[str], None]) -> dict[str, dict[str, Ran]]:
    """All jobs of all checks, in batches; equal jobs of several checks are one."""
    wanted: dict[object, list[tuple[str, str]]] = {}
    submissions = []
    for check in checks:
        for name, spec in check.jobs.items():
            key = (repr(spec), check.site_names.get(name))
            if key not in wanted:
                one = target.submission(spec, name="check")
                if name in check.site_names:
                    one = replace(one, site_name=f"{check.site_names[name]}-{one.fence_name}")
                submissions.append((key, one))
            wanted.setdefault(key, []).append((check.name, name))
    say(f"{len(checks)} checks, {len(submissions)} jobs submitted together")
    jobs: dict[str, dict[str, Ran]] = {check.name: {} for check in checks}
    for start in range(0, len(submissions), 20):
        part = submissions[start : start + 20]
        for (key, _), ran in zip(part, target.submit([one for _, one in part]), strict=True):
            for check_name, name in wanted[key]:
                jobs[check_name][name] = ran
    return jobs


def _wait(target: Target, checks: Sequence[Check], jobs: Mapping[str, Mapping[str, Ran]]) -> None:
    """Until all have ended; what has not when patience ends is judged as it is. What is doomed is not waited for."""
    waited = {id(j): j for c in checks for name, j in jobs[c.name].items() if name != "doomed"}
    try:
        target.wait_ended(list(waited.values()), target.patience_s)
    except (Failed, SiteError):
        return


def _judged(check: Check, target: Target, jobs: Mapping[str, Ran]) -> tuple[str, str]:
    refused = [j.outcome for j in jobs.values() if isinstance(j.outcome, Rejected) and not j.outcome.retryable]
    if check.may_refuse and refused and all(outcome.message for outcome in refused):
        return "skipped", f"this scheduler takes no such job: {refused[0].message}"
    try:
        check.judge(target, jobs)
    except Skipped as exc:
        return "skipped", str(exc)
    except Failed as exc:
        return "failed", str(exc)
    except Exception as exc:  # noqa: BLE001 - an adapter that raises what it may not has failed this check
        return "failed", f"{type(exc).__name__}: {exc}"
    return "passed", ""


def _keep(
    found: Found, tell: Callable[[Result], None], check: Check, outcome: str, detail: str, seconds: float
) -> None:
    result = Result(check.name, check.proves, outcome, detail[:1000], check.remedy if outcome == "failed" else "",
                    round(seconds, 3))  # fmt: skip
    found.results.append(result)
    if outcome != "passed":
        tell(result)
