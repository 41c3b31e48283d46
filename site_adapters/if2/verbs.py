"""The verbs of IF2, read off the Protocols: their parameters, their answer, whether they change anything."""

from __future__ import annotations

import inspect
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

from site_adapters.if2.codec import Codec, Malformed, codec
from site_adapters.if2.profile import Docking
from site_adapters.interfaces import Auth, Billing, Log, Management, Resource
from site_adapters.orders import Ordering

INTERFACES: dict[str, Any] = {
    "management": Management, "orders": Ordering, "resource": Resource, "auth": Auth, "billing": Billing, "log": Log,
    "docking": Docking,
}  # fmt: skip
WRITES = frozenset({
    "management.submit", "management.cancel", "management.hold", "management.release", "management.modify",
    "management.take_fences", "auth.provision", "auth.suspend", "auth.revoke", "orders.open", "orders.change",
    "orders.renew", "orders.close", "docking.trust",
})  # fmt: skip
# How long the caller waits. Submitting: a scheduler's own client may try for 120 s (see slurm/commands.py).
_DEADLINES_S = {"management.submit": 180.0, "billing.usage": 180.0, "management.observe": 150.0}
_DEADLINE_S = 90.0
# Pure: the gateway renders by the profile that the centre told it.
_LOCAL = frozenset({"management.render", "management.assert_renders"})


@dataclass(frozen=True, slots=True)
class Verb:
    """One method of one interface."""

    name: str
    says: str
    write: bool
    deadline_s: float
    parameters: Mapping[str, Codec]
    types: Mapping[str, Any]
    needed: frozenset[str]
    answer: Codec
    answer_type: Any

    def pack(self, *args: Any, **options: Any) -> dict[str, Any]:
        """A call's arguments as JSON."""
        named = dict(zip(self.parameters, args, strict=False)) | options
        return {name: self.parameters[name].write(value) for name, value in named.items()}

    def unpack(self, sent: Any) -> dict[str, Any]:
        """The arguments of a call; raises `Malformed`."""
        if not isinstance(sent, dict):
            raise Malformed("/: an object expected")
        if unknown := sent.keys() - self.parameters.keys():
            raise Malformed(f"/: {self.name} has no {sorted(unknown)[0]!r}")
        if missing := self.needed - sent.keys():
            raise Malformed(f"/: {self.name} lacks {sorted(missing)[0]!r}")
        return {name: self.parameters[name].read(value, f"/{name}") for name, value in sent.items()}


def _verb(interface: str, name: str, function: Any) -> Verb:
    hints = typing.get_type_hints(function)
    answer = hints.pop("return")
    answer = type(None) if answer is NoReturn else answer
    parameters = {p: codec(_plain(hints[p])) for p in hints}
    signature = inspect.signature(function)
    needed = frozenset(p for p in hints if signature.parameters[p].default is inspect.Parameter.empty)
    full = f"{interface}.{name}"
    return Verb(
        full, " ".join((function.__doc__ or "").split()), full in WRITES, _DEADLINES_S.get(full, _DEADLINE_S),
        parameters, hints, needed, codec(_plain(answer)), answer,
    )  # fmt: skip


def _plain(kind: Any) -> Any:
    """Sequences are read as tuples, so that what arrives is as frozen as what was sent."""
    if typing.get_origin(kind) is Sequence:
        return tuple[typing.get_args(kind)[0], ...]  # type: ignore[misc]
    return kind


VERBS: dict[str, Verb] = {
    f"{interface}.{name}": _verb(interface, name, function)
    for interface, protocol in INTERFACES.items()
    for name, function in vars(protocol).items()
    if inspect.isfunction(function) and not name.startswith("_") and f"{interface}.{name}" not in _LOCAL
}
