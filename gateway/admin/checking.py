"""`gateway admin check`: every site with every credential, and the books; what is wrong comes with its remedy."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from accounting import store as books
from gateway.admin.docking import visiting
from gateway.admin.texts import said, tr
from gateway.bootstrap import compose
from gateway.jobs import repository
from gateway.services import Services
from site_adapters.errors import SiteError
from site_adapters.interfaces import SiteAdapter
from site_adapters.states import CredentialKind
from site_adapters.types import CheckResult


def check(_args: argparse.Namespace) -> int:
    services = compose(visiting())
    failed = 0
    for site_id, adapter in sorted(services.sites.items()):
        if adapter.closed_reason is not None:
            print(f"✗ {site_id}: {tr('closed: {reason}', reason=said(adapter.closed_reason))}")
            failed += 1
            continue
        for result in [_a_persons_login(services, adapter), *_credentials(adapter)]:
            mark = "✓" if result.ok else "✗"
            remedy = "" if result.ok else f" → {said(result.remedy)}"
            print(f"{mark} {site_id}: {said(result.name)}: {said(result.detail)}{remedy}")
            failed += not result.ok
    with services.db.read() as conn:
        off = books.check_books(conn)
    for line in off:
        print(tr("✗ books: {problem}", problem=said(line)))
    if not off:
        print(tr("✓ books: every entry sums to zero, every balance is its postings"))
    return 1 if failed or off else 0


def _credentials(adapter: SiteAdapter) -> Sequence[CheckResult]:
    """What the site says of each; one failed result where it does not answer."""
    try:
        return adapter.auth.check()
    except SiteError as exc:
        remedy = "Is the centre's penstock-site running, and the gateway itself where the centre dials in?"
        return [CheckResult("the site", False, str(exc), remedy)]


def _a_persons_login(services: Services, adapter: SiteAdapter) -> CheckResult:
    """One linked login that the site lets in; it also asks what the site tells anybody, where no other can."""
    with services.db.read() as conn:
        accounts = repository.all_site_accounts(conn, adapter.site_id)
    refused = ""
    for account in accounts:
        try:
            facts = adapter.auth.probe(account.username)
        except SiteError as exc:
            refused = refused or f"{account.username}: {exc}"
        else:
            detail = f"{facts.username} is let in (uid {facts.uid}); {len(accounts)} are linked"
            return CheckResult("a person's login", True, detail, credential=CredentialKind.ACTOR)
    if not accounts:
        return CheckResult("a person's login", True, "not asked: nobody has linked an account here")
    remedy = "Let them verify their accounts again: `penstock account verify`."
    return CheckResult("a person's login", False, f"none of {len(accounts)} is let in: {refused}", remedy)
