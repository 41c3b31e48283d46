"""The texts of `gateway admin` in the reader's language; what a centre's check says, too."""

from __future__ import annotations

from pathlib import Path

from site_adapters.texts import SITE, Catalogue

ADMIN = Catalogue("gateway-admin", Path(__file__).parent / "locale")
tr = ADMIN.tr


def use_catalogue() -> None:
    """Speak the reader's language, as argparse does."""
    SITE.use()
    ADMIN.use()


def said(text: str) -> str:
    """A sentence that was made elsewhere: by a service of the gateway, or by a check of a centre."""
    found = ADMIN.said(text)
    return found if found != text else SITE.said(text)
