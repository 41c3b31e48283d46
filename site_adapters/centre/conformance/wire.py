"""The docking itself: who is let in, what is done once, what is written down. Made at the centre, on its own desk."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from joserfc import jwt
from joserfc.jwk import OctKey, OKPKey

from site_adapters.centre.conformance.kit import Check, Failed, Ran, Target, expect
from site_adapters.centre.home import Centre
from site_adapters.errors import CredentialRefused, SiteError
from site_adapters.if2 import keys, tokens
from site_adapters.if2.codec import Malformed
from site_adapters.if2.keys import SigningKey, read_public
from site_adapters.if2.verbs import VERBS
from site_adapters.if2.wire import Call, read_answer
from site_adapters.types import Accepted

_CENTRE = frozenset({"centre"})
_US = "conformance"


def checks(_target: Target) -> Iterator[Check]:
    remedy = "Install the same penstock-site again; if it stays, tell us: this is our code, not yours."
    for name, proves, act in (
        ("docking/describes itself", "the centre says who it is and what it allows", _describes),
        ("docking/tells its load", "the centre shows the load that we cause", _loads),
        ("docking/no token", "who brings no token is not let in", _no_token),
        ("docking/another key", "a key that is not trusted is not let in", _another_key),
        ("docking/old token", "a token that is out of date is not let in", _old_token),
        ("docking/token from tomorrow", "a token that is not yet good is not let in", _early_token),
        ("docking/for another site", "a token for another site is not let in", _another_site),
        ("docking/another message", "a token is good for its own message only", _another_message),
        ("docking/another algorithm", "a token of another algorithm is not let in", _another_algorithm),
        ("docking/no json", "what is no JSON is refused in words", _no_json),
        ("docking/unknown verb", "a verb that does not exist is refused", _unknown_verb),
        ("docking/unknown argument", "an argument that does not exist is refused, not overlooked", _unknown_argument),
        ("docking/wrong type", "an argument of the wrong type is refused", _wrong_type),
        ("docking/account not given", "no login is used that the centre has not given", _not_given),
        ("docking/root is not given", "root is never given", _root_not_given),
        ("docking/asked twice", "the same call asked twice is done once", _twice),
        ("docking/asked again later", "a call asked again after its answer is answered again", _again),
        ("docking/same id, other call", "an id that was used is not used for another call", _same_id),
        ("docking/an attempt once", "an attempt handed over by two calls runs once", _attempt_once),
        ("docking/answers are signed", "an answer bears the centre's signature", _signed),
        ("docking/audit", "each call is in the audit log, and its chain holds", _audited),
        ("docking/no secrets in the log", "scripts and environments are not in the audit log", _no_secrets),
        ("docking/late call", "a call whose time is over when its turn comes is not begun", _late),
    ):
        yield Check(name, proves, remedy, _judge(act), needs=_CENTRE)


class _Caller:
    """A gateway of the kit's own, trusted for as long as its check lasts."""

    def __init__(self, centre: Centre, target: Target) -> None:
        self.centre, self.target = centre, target
        self.key = _fresh_key()

    def send(
        self, verb: str, args: dict[str, Any], *, call_id: str = "", deadline_s: float = 90.0, **token: Any
    ) -> Any:
        call = Call(call_id or secrets.token_hex(12), verb, args, deadline_s)
        return self.raw(call, **token)

    def raw(self, call: Call, *, key: SigningKey | None = None, audience: str = "", now: float | None = None,
            body: bytes | None = None) -> Any:  # fmt: skip
        sent = call.to_bytes()
        token = tokens.sign(key or self.key, issuer=_US, audience=audience or self.centre.site.site, about=call.id,
                            body=sent if body is None else body, now=now)  # fmt: skip
        answer = self.centre.desk.take(token, sent).answer.result(120)
        verb = VERBS.get(call.verb, VERBS["docking.describe"])
        return read_answer(verb, call.id, answer)

    def refused(self, act: Callable[[], Any], *kinds: type[Exception]) -> None:
        expected = kinds or (CredentialRefused, Malformed, SiteError)
        try:
            value = act()
        except expected as exc:
            expect(str(exc), "the refusal has no words")
            return
        raise Failed(f"it was let in: {str(value)[:200]}")


def _fresh_key() -> SigningKey:
    key = OKPKey.generate_key("Ed25519")
    return SigningKey(read_public(f"ed25519:{key.as_dict(private=False)['x']}"), key)


@contextmanager
def _caller(target: Target) -> Iterator[_Caller]:
    centre = target.centre
    assert centre is not None  # the check needs `centre`
    caller = _Caller(centre, target)
    before = centre.home.trust.all()
    centre.home.trust.add(caller.key.public)
    try:
        yield caller
    finally:
        centre.home.trust.learn([k for k in centre.home.trust.all() if k.kid != caller.key.public.kid] or before)


def _judge(act: Callable[[_Caller], None]) -> Callable[[Target, Mapping[str, Ran]], None]:
    def judge(target: Target, _jobs: Mapping[str, Ran]) -> None:
        with _caller(target) as caller:
            act(caller)

    return judge


def _account(caller: _Caller) -> dict[str, Any]:
    a = caller.target.account
    return {"username": a.username, "home": a.home, "uid": a.uid}


def _describes(c: _Caller) -> None:
    told = c.send("docking.describe", {})
    expect(told.site == c.centre.site.site and told.versions and told.keys, f"{told}")
    expect("credentials" not in told.rendering and "transport" not in told.rendering, "it tells of credentials")


def _loads(c: _Caller) -> None:
    expect(c.send("docking.load", {}).jobs >= 0, "no number")


def _no_token(c: _Caller) -> None:
    c.refused(lambda: c.centre.desk.take("", Call("x" * 12, "docking.describe", {}, 9).to_bytes()), CredentialRefused)


def _another_key(c: _Caller) -> None:
    c.refused(lambda: c.send("docking.describe", {}, key=_fresh_key()), CredentialRefused)


def _old_token(c: _Caller) -> None:
    c.refused(lambda: c.send("docking.describe", {}, now=time.time() - 600), CredentialRefused)


def _early_token(c: _Caller) -> None:
    c.refused(lambda: c.send("docking.describe", {}, now=time.time() + 86400), CredentialRefused)


def _another_site(c: _Caller) -> None:
    c.refused(lambda: c.send("docking.describe", {}, audience="elsewhere"), CredentialRefused)


def _another_message(c: _Caller) -> None:
    c.refused(lambda: c.send("docking.describe", {}, body=b"{}"), CredentialRefused)


def _another_algorithm(c: _Caller) -> None:
    call = Call(secrets.token_hex(12), "docking.describe", {}, 9.0)
    header = {"alg": "HS256", "kid": c.key.public.kid}
    token = jwt.encode(header, {"aud": c.centre.site.site}, OctKey.import_key(c.key.public.x), algorithms=["HS256"])
    c.refused(lambda: c.centre.desk.take(token, call.to_bytes()), CredentialRefused)


def _no_json(c: _Caller) -> None:
    for body in (b"", b"[]", b"{", b'{"id":1}', b"\xff"):
        token = tokens.sign(c.key, issuer=_US, audience=c.centre.site.site, about="x" * 12, body=body)
        c.refused(lambda token=token, body=body: c.centre.desk.take(token, body), Malformed)  # type: ignore[misc]


def _unknown_verb(c: _Caller) -> None:
    c.refused(lambda: c.send("management.reboot", {}), SiteError)


def _unknown_argument(c: _Caller) -> None:
    c.refused(lambda: c.send("management.cancel", {"account": _account(c), "jobs": [], "force": True}), SiteError)


def _wrong_type(c: _Caller) -> None:
    c.refused(lambda: c.send("log.read", {"account": _account(c), "path": 7, "offset": 0, "limit": 1}), SiteError)


def _not_given(c: _Caller) -> None:
    c.refused(lambda: c.send("auth.probe", {"username": "nosuchlogin"}), SiteError)


def _root_not_given(c: _Caller) -> None:
    c.refused(lambda: c.send("auth.probe", {"username": "root"}), SiteError)


def _submit_args(c: _Caller, script: str) -> tuple[dict[str, Any], Any]:
    submission = c.target.submission(c.target.spec(script), name="wire")
    return VERBS["management.submit"].pack([submission]), submission


def _runs_once(c: _Caller, submission: Any, outcome: Any) -> None:
    if not isinstance(outcome, Accepted):
        raise Failed(f"it was not accepted: {outcome}")
    job = c.target._ran(submission, outcome)
    c.target.wait_ended([job])
    count = c.target.output(job).count(b"ran")
    expect(count == 1, f"it ran {count} times")
    look = c.target.adapter.management.find([submission.fence_name], accounts=[c.target.account],
                                            since=job.ref().submitted_at)  # fmt: skip
    ids = {r.native_id for r in look.runs}
    expect(ids == {outcome.native_id}, f"the scheduler has {sorted(ids)}")


def _twice(c: _Caller) -> None:
    args, submission = _submit_args(c, "printf ran\n")
    call_id = secrets.token_hex(12)
    first, second = (c.send("management.submit", args, call_id=call_id)[0] for _ in range(2))
    expect(first == second, f"{first} and {second}")
    _runs_once(c, submission, first)


def _again(c: _Caller) -> None:
    args, submission = _submit_args(c, "printf ran\n")
    call_id = secrets.token_hex(12)
    first = c.send("management.submit", args, call_id=call_id)[0]
    c.centre.desk._pending.pop(call_id, None)
    second = c.send("management.submit", args, call_id=call_id)[0]
    expect(first == second, f"{first} and {second}")
    _runs_once(c, submission, first)


def _same_id(c: _Caller) -> None:
    call_id = secrets.token_hex(12)
    c.send("management.cancel", {"account": _account(c), "jobs": []}, call_id=call_id)
    c.refused(lambda: c.send("management.hold", {"account": _account(c), "jobs": []}, call_id=call_id), SiteError)


def _attempt_once(c: _Caller) -> None:
    args, submission = _submit_args(c, "printf ran\n")
    first = c.send("management.submit", args)[0]
    second = c.send("management.submit", args)[0]
    expect(getattr(second, "native_id", "") == getattr(first, "native_id", None), f"{first} and {second}")
    _runs_once(c, submission, first)


def _signed(c: _Caller) -> None:
    call = Call(secrets.token_hex(12), "docking.load", {}, 60.0)
    body = call.to_bytes()
    token = tokens.sign(c.key, issuer=_US, audience=c.centre.site.site, about=call.id, body=body)
    pending = c.centre.desk.take(token, body)
    answer = pending.answer.result(60)
    own = keys.load(c.centre.home.key_file).public
    claims = tokens.verify_with(c.centre.desk.sign(pending, answer), own, audience=_US, body=answer)
    expect(claims.about == call.id and claims.issuer == c.centre.site.site, f"{claims}")


def _audited(c: _Caller) -> None:
    call_id = secrets.token_hex(12)
    c.send("resource.queues", {}, call_id=call_id)
    found = [e for e in c.centre.home.audit.entries() if e.get("id") == call_id]
    expect(len(found) == 1 and found[0]["verb"] == "resource.queues", f"{len(found)} lines")
    broken = c.centre.home.audit.verify()[2]
    expect(broken is None, f"{broken}")


def _no_secrets(c: _Caller) -> None:
    secret = f"secret-{secrets.token_hex(8)}"
    args, _ = _submit_args(c, f"true # {secret}\n")
    c.send("management.submit", args)
    text = (c.centre.home.state / "audit.jsonl").read_text()
    expect(secret not in text, "the script is in the log")


def _late(c: _Caller) -> None:
    c.refused(lambda: c.send("docking.load", {}, deadline_s=-1.0), SiteError)
