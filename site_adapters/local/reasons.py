"""Why a job waits on this machine: it has no scheduler but our own line of processes."""

from __future__ import annotations

from site_adapters.states import Reason, Why


def reason_of(state: str, text: str = "") -> Why:
    """`state` is the runner's own word."""
    if state == "held":
        return Why(Reason.HELD_BY_USER, "It is held.", "Release it.")
    return Why(Reason.RESOURCES, f"The runner says: {text}." if text else "It waits for free cores of this machine.")
