"""One call at the centre, from its signature to its answer: verified, allowed, done once, written down."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, fields, is_dataclass
from datetime import datetime
from typing import Any

from site_adapters.centre.audit import AuditLog
from site_adapters.centre.gate import Gate
from site_adapters.centre.journal import Journal
from site_adapters.errors import Busy, OutcomeUnknown, Refused, SiteClosed, SiteError, SiteUnreachable
from site_adapters.if2 import tokens, wire
from site_adapters.if2.codec import Malformed
from site_adapters.if2.keys import SigningKey, TrustStore, digest
from site_adapters.if2.profile import Docking
from site_adapters.if2.verbs import VERBS, Verb
from site_adapters.interfaces import SiteAdapter
from site_adapters.orders import Ordering
from site_adapters.states import CredentialKind
from site_adapters.types import (
    CheckResult,
    FenceTaken,
    JobRef,
    Observation,
    SiteAccount,
    Submission,
    SubmitOutcome,
    Unknown,
)

AT_ONCE = 16  # calls that run together; a scheduler serves no more any faster
WAITING_MAX = 64  # calls that may wait for their turn: more are told to come back
_REMEMBER_S = 120.0
# What the centre's own observer and meter look at: it acts as nobody.
_LOOKS = frozenset({"management.observe", "management.find", "billing.usage"})


@dataclass(slots=True)
class Pending:
    """A call that was taken: its answer comes once, to everybody who asks by its id."""

    id: str
    digest: str
    answer: Future[bytes]
    taken: float
    gateway: str


@dataclass(frozen=True, slots=True)
class Rules:
    """What the desk asks of the centre's folder: a stop, and whom we may act as."""

    stopped: Callable[[], str | None]
    may_act_as: Callable[[str], bool]


class Desk:
    """The centre's side of IF2, whatever carries the calls."""

    def __init__(
        self, *, site: str, key: Callable[[], SigningKey], trust: TrustStore, adapter: SiteAdapter, ordering: Ordering,
        docking: Docking, gate: Gate, journal: Journal, audit: AuditLog, rules: Rules, clock: Callable[[], datetime],
    ) -> None:  # fmt: skip
        self.site, self._key, self._trust = site, key, trust
        self._adapter, self._gate, self._journal, self._audit = adapter, gate, journal, audit
        self._rules, self._clock = rules, clock
        self._objects: dict[str, Any] = {
            "management": adapter.management, "resource": adapter.resource, "auth": adapter.auth,
            "billing": adapter.billing, "log": adapter.log, "orders": ordering, "docking": docking,
        }  # fmt: skip
        self._ordering = ordering
        self._pool = ThreadPoolExecutor(AT_ONCE, thread_name_prefix="if2")
        self._lock = threading.Lock()
        self._pending: dict[str, Pending] = {}

    def take(self, token: str, body: bytes) -> Pending:
        """Verify and begin a call, or join it where it was begun before; raises `CredentialRefused`, `Malformed`."""
        claims = tokens.verify(token, self._trust, audience=self.site, body=body)
        call = wire.read_call(body)
        if claims.about != call.id:
            raise Malformed("/id: the token is for another call")
        mark = digest(f"{call.verb} {body!r}".encode())
        with self._lock:
            self._forget()
            known = self._pending.get(call.id)
            if known is not None and known.digest == mark:
                return known
            pending = Pending(call.id, mark, Future(), time.monotonic(), claims.issuer)
            waiting = sum(not p.answer.done() for p in self._pending.values())
            if known is not None:
                error: SiteError = Refused("this id was used for another call", code="id_used")
                pending.answer.set_result(wire.answer_bytes(call.id, error=error))
                return pending
            if waiting >= AT_ONCE + WAITING_MAX:
                error = Busy("too many calls are waiting at the centre")
                pending.answer.set_result(wire.answer_bytes(call.id, error=error))
                return pending
            self._pending[call.id] = pending
        self._pool.submit(self._run, pending, call, claims.issuer, mark)
        return pending

    def sign(self, pending: Pending, body: bytes) -> str:
        """The token that goes with an answer: the gateway knows that the centre, and nobody between, gave it."""
        return tokens.sign(self._key(), issuer=self.site, audience=pending.gateway, about=pending.id, body=body)

    def close(self) -> None:
        """Let what runs end, begin nothing more."""
        self._pool.shutdown(wait=True, cancel_futures=True)

    # ------------------------------------------------------------ one call

    def _run(self, pending: Pending, call: wire.Call, gateway: str, mark: str) -> None:
        begun = time.monotonic()
        facts: dict[str, Any] = {"gateway": gateway, "id": call.id, "verb": call.verb}
        try:
            verb = VERBS.get(call.verb)
            if verb is None:
                raise Refused(f"there is no verb {call.verb!r} here", code="verb")
            if begun - pending.taken > call.deadline_s:
                raise Busy("its time was over before its turn came: nothing was done")
            answer = self._answer(verb, call, facts, mark)
            outcome = "ok"
        except SiteError as exc:
            answer, outcome = wire.answer_bytes(call.id, error=exc), type(exc).__name__
            facts["detail"] = str(exc)[:500]
        except Exception as exc:  # noqa: BLE001 - whatever happened, the caller is told and the log has it
            kind: type[SiteError] = OutcomeUnknown if call.verb in VERBS and VERBS[call.verb].write else SiteUnreachable
            answer = wire.answer_bytes(call.id, error=kind(f"the centre's service failed: {type(exc).__name__}"))
            outcome, facts["detail"] = "failed", f"{type(exc).__name__}: {exc}"[:500]
        self._audit.append("call", outcome=outcome, ms=int((time.monotonic() - begun) * 1000), **facts)
        pending.answer.set_result(answer)

    def _answer(self, verb: Verb, call: wire.Call, facts: dict[str, Any], mark: str) -> bytes:
        try:
            args = verb.unpack(call.args)
        except Malformed as exc:
            raise Refused(f"the call cannot be read: {exc}", code="malformed") from exc
        facts |= _named(args)
        stopped = self._rules.stopped()
        if stopped is not None and call.verb != "docking.describe":
            raise SiteClosed(f"the centre has stopped the docking: {stopped}")
        shut = {username for username in _logins(args) if not self._rules.may_act_as(username)}
        if shut and call.verb in _LOOKS:
            # What ran before a login was shut is followed and billed to its end, and nobody else's jobs hang on it.
            shut -= {account.username for account in self._gate.accounts()}
        if shut:
            raise Refused(f"the centre has not given us the account {min(shut)}", code="account")
        if not call.verb.startswith("docking."):
            self._gate.call(call.verb)
        if not verb.write:
            return wire.answer_bytes(call.id, value=verb.answer.write(self._do(verb, args)))
        before = self._journal.begin(call.id, mark, call.verb)
        if isinstance(before, bytes):
            facts["repeated"] = True
            return before
        if before is False:
            raise Refused("this id was used for another call", code="id_used")
        if before is None and call.verb != "management.submit":
            raise OutcomeUnknown("the service stopped while it did this; what it did is not known")
        self._audit.append("intent", sync=True, **facts)
        try:
            value = self._do(verb, args, begun_before=before is None)
            answer = wire.answer_bytes(call.id, value=verb.answer.write(value))
        except SiteError as exc:
            answer = wire.answer_bytes(call.id, error=exc)
            facts["detail"] = str(exc)[:500]
        self._journal.keep(call.id, answer)
        return answer

    def _do(self, verb: Verb, args: dict[str, Any], *, begun_before: bool = False) -> Any:
        match verb.name:
            case "management.submit":
                return self._submit(args["submissions"], begun_before=begun_before)
            case "log.read":
                args["limit"] = self._gate.reading(args["account"], args["path"], args["limit"])
            case "auth.check":
                return [*self._adapter.auth.check(), *self._own_checks()]
        interface, _, method = verb.name.partition(".")
        value = getattr(self._objects[interface], method)(**args)
        if isinstance(value, Observation):
            self._gate.seen(value)
        if verb.name == "management.take_fences":
            pairs = zip(args["fence_names"], value, strict=True)
            self._gate.fenced([name for name, outcome in pairs if isinstance(outcome, FenceTaken)])
        return value

    def _submit(self, submissions: tuple[Submission, ...], *, begun_before: bool) -> list[SubmitOutcome]:
        """Hand over what the gate lets in; a call that a dead service had begun hands over nothing more."""
        entered = self._gate.enter(submissions)
        let_in = [submission for submission, outcome in entered if outcome is None]
        if begun_before:
            answers: list[SubmitOutcome] = [Unknown("the service stopped while it did this") for _ in let_in]
        else:
            answers = self._adapter.management.submit(let_in) if let_in else []
        for submission, answer in zip(let_in, answers, strict=True):
            self._gate.leave(submission, answer)
        rest = iter(answers)
        return [outcome if outcome is not None else next(rest) for _, outcome in entered]

    def _own_checks(self) -> Iterable[CheckResult]:
        lines, _, broken = self._audit.verify()
        detail = f"{lines} lines, the chain holds" if broken is None else f"line {broken.line}: {broken.why}"
        yield CheckResult("audit log", broken is None, detail, "" if broken is None else "Find out who changed it.",
                          CredentialKind.PROVISIONER)  # fmt: skip

    def _forget(self) -> None:
        old = time.monotonic() - _REMEMBER_S
        for call_id in [p.id for p in self._pending.values() if p.answer.done() and p.taken < old]:
            del self._pending[call_id]


def _logins(args: Any) -> set[str]:
    """Every login that a call names, wherever it stands in it."""
    found: set[str] = set()
    for name, value in args.items():
        if name == "username" and isinstance(value, str):
            found.add(value)
        for part in _values(value):
            if isinstance(part, SiteAccount | JobRef):
                found.add(part.username)
    return found


def _values(value: Any) -> Iterable[Any]:
    yield value
    if isinstance(value, list | tuple):
        for part in value:
            yield from _values(part)
    elif is_dataclass(value) and not isinstance(value, type):
        for field in fields(value):
            yield from _values(getattr(value, field.name))


def _named(args: dict[str, Any]) -> dict[str, Any]:
    """Who and what a call is about, for the audit log: no script, no environment."""
    people, projects, jobs = set(), set(), []
    for value in _values(list(args.values())):
        if isinstance(value, Submission):
            people.add(value.person)
            projects.add(value.project)
            jobs.append(value.fence_name)
        elif isinstance(value, JobRef):
            jobs.append(value.native_id)
    facts = {"accounts": sorted(_logins(args)), "people": sorted(people - {""}), "projects": sorted(projects - {""})}
    return {k: v for k, v in facts.items() if v} | ({"jobs": jobs[:200]} if jobs else {})
