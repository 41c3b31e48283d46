"""Why a Sunway job waits: `Pend reason<…>` in our words. Few of them are public; the others are kept and told."""

from __future__ import annotations

from site_adapters.states import Reason, Why

REASONS: dict[str, Why] = {
    "": Why(Reason.RESOURCES, "It waits for its core groups."),
    "RMS_USER_QUOTA_ERROR": Why(Reason.LIMIT, "Your quota of core groups is in use.", "Wait until some have ended."),
}


def reason_of(native: str) -> Why:
    """The reason behind the word; one that we do not know is kept and told."""
    return REASONS.get(native.strip(), Why(Reason.OTHER, f"The scheduler says: {native}."))
