"""What travels: a call, its answer, and site errors by name. A body is signed as the very bytes that are sent."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from site_adapters import errors
from site_adapters.errors import CommandFailed, OutcomeUnknown, Refused, SiteError, SiteUnreachable
from site_adapters.if2.codec import Malformed
from site_adapters.if2.verbs import Verb

BODY_BYTES_MAX = 64 * 1024 * 1024
PREFIX = "/if2/v1"
SIGNATURE = "Penstock-Signature"
_ERRORS: dict[str, type[SiteError]] = {
    name: kind for name, kind in vars(errors).items() if isinstance(kind, type) and issubclass(kind, SiteError)
}


@dataclass(frozen=True, slots=True)
class Call:
    """One call under an id that the gateway gives once: asked again, the site answers again and does nothing again."""

    id: str
    verb: str
    args: dict[str, Any]
    deadline_s: float

    def to_bytes(self) -> bytes:
        content = {"id": self.id, "verb": self.verb, "args": self.args, "deadline_s": self.deadline_s}
        return json.dumps(content, separators=(",", ":")).encode()


def read_call(body: bytes) -> Call:
    """A call as it arrived; raises `Malformed`."""
    content = _object(body)
    try:
        call = Call(content["id"], content["verb"], content["args"], float(content["deadline_s"]))
    except (KeyError, TypeError, ValueError) as exc:
        raise Malformed(f"/: no call: {exc}") from exc
    if not isinstance(call.id, str) or not 8 <= len(call.id) <= 64 or not call.id.isascii():
        raise Malformed("/id: 8 to 64 ASCII characters expected")
    return call


def answer_bytes(call_id: str, *, value: Any = None, error: SiteError | None = None) -> bytes:
    """The answer to a call: `value` is encoded already."""
    content: dict[str, Any] = {"id": call_id}
    content |= {"value": value} if error is None else {"error": error_json(error)}
    return json.dumps(content, separators=(",", ":")).encode()


def read_answer(verb: Verb, call_id: str, body: bytes) -> Any:
    """The value of an answer; raises the site's error, or what a lost answer means for this verb."""
    try:
        content = _object(body)
        if content.get("id") != call_id:
            raise Malformed("/id: this answers another call")
        if "error" in content:
            raise error_of(content["error"])
        return verb.answer.read(content["value"], "/value")
    except (Malformed, KeyError) as exc:
        raise lost(verb, f"the site's answer cannot be read: {exc}") from exc


def lost(verb: Verb, why: str) -> SiteError:
    """What it means that the answer to a call that was sent is not known."""
    return OutcomeUnknown(why) if verb.write else SiteUnreachable(why)


def error_json(error: SiteError) -> dict[str, str]:
    found = {"class": type(error).__name__, "message": str(error)}
    if isinstance(error, CommandFailed):
        found["native_text"] = error.native_text
    if isinstance(error, Refused):
        found["code"] = error.code
    return found


def error_of(content: Any) -> SiteError:
    """A site's error; a class that we do not know is the most general one."""
    if not isinstance(content, dict):
        return SiteError("the site answered with an error that cannot be read")
    kind, message = _ERRORS.get(str(content.get("class")), SiteError), str(content.get("message", ""))
    if issubclass(kind, Refused):
        code = str(content.get("code", "refused"))
        return kind(message, native_text=str(content.get("native_text", "")), code=code)
    if issubclass(kind, CommandFailed):
        return kind(message, native_text=str(content.get("native_text", "")))
    return kind(message)


def _object(body: bytes) -> dict[str, Any]:
    try:
        content = json.loads(body)
    except (ValueError, RecursionError) as exc:
        raise Malformed(f"/: no JSON: {exc}") from exc
    if not isinstance(content, dict):
        raise Malformed("/: an object expected")
    return content
