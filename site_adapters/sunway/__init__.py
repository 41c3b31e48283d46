"""Sunway (the TaihuLight family): its own bsub and bjobs, which share only their names with LSF's.

Not yet verified at a centre: built from what is public, and tried on an emulator that has the known quirks.

commands.py (builders, parsers, states, errors)  reasons.py (why it waits)  options.py (spec -> bsub's words)
management.py  resource.py  billing.py  checks.py
"""

from __future__ import annotations

from site_adapters.config import SiteConfig
from site_adapters.interfaces import SiteAdapter
from site_adapters.login_node.auth import LoginNodeAuth
from site_adapters.login_node.errors import site_rules
from site_adapters.login_node.log import LoginNodeLog
from site_adapters.sunway.billing import SunwayBilling
from site_adapters.sunway.checks import probes
from site_adapters.sunway.management import SunwayDialect, SunwayManagement
from site_adapters.sunway.resource import SunwayResource
from site_adapters.transport import Logins

# No arrays, no holds, no changes; and no walltime: bsub has no -W, so the gateway ends what runs too long.
CAPABILITIES = frozenset({"accounting"})


def build(config: SiteConfig, logins: Logins) -> SiteAdapter:
    """A Sunway centre from its site file."""
    fence = {"fence"} if config.sunway.mode == "script" else set()
    dialect = SunwayDialect(config, site_rules(config))
    return SiteAdapter(
        site_id=config.site,
        title=config.title.get("en", config.site),
        scheduler="sunway",
        policy=config.binding_policy(),
        capabilities=CAPABILITIES | fence,
        management=SunwayManagement(config, logins, dialect, sunway=dialect),
        resource=SunwayResource(config, logins),
        auth=LoginNodeAuth(logins, probes(config, logins)),
        billing=SunwayBilling(config, logins),
        log=LoginNodeLog(logins),
    )
