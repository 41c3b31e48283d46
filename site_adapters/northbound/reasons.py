"""Why a job waits at a REST centre: its jobStatus in our words; the API documents no reasons, what it tells is told."""

from __future__ import annotations

from site_adapters.states import Reason, Why

BY_STATUS: dict[str, Why] = {
    "statQ": Why(Reason.RESOURCES, "It waits in the centre's queue; the centre's API gives no reason."),
    "statW": Why(Reason.DEPENDENCY, "It waits for what it depends on, or for its start time."),
    "statH": Why(Reason.HELD_BY_CENTRE, "The centre holds it.", "Ask the centre."),
    "statS": Why(Reason.OTHER, "The centre has stopped it for now."),
}


def reason_of(status: str, text: str = "") -> Why:
    """The reason behind the status; a text that the centre gives is told beside the reason of its status."""
    known = BY_STATUS.get(status, Why(Reason.NONE, "The centre gives no reason."))
    if not text or text == "None":
        return known
    return Why(known.reason, f"The centre says: {text}.", known.action)
