"""Northbound REST centres (SCNet's documented API): AI and computing centres that are asked by HTTP, not by a login.

Requests follow what is publicly documented; not yet verified at a centre.

commands.py (requests, parsers, states)  login.py (HMAC or token)  options.py (spec -> mapAppJobInfo)
management.py  resource.py  billing.py  auth.py  log.py
"""

from __future__ import annotations

from site_adapters.config import SiteConfig
from site_adapters.errors import SiteClosed
from site_adapters.interfaces import SiteAdapter
from site_adapters.northbound.auth import NorthboundAuth
from site_adapters.northbound.billing import NorthboundBilling
from site_adapters.northbound.commands import Api
from site_adapters.northbound.log import NorthboundLog
from site_adapters.northbound.login import login_of
from site_adapters.northbound.management import NorthboundManagement
from site_adapters.northbound.resource import NorthboundResource
from site_adapters.transport import Logins
from site_adapters.transport.http import HttpConnection

# No fence: nothing can be created there at once and only once, so a lost answer needs a person's decision.
CAPABILITIES = frozenset({"accounting", "enforces_walltime"})


def build(config: SiteConfig, logins: Logins) -> SiteAdapter:
    """A REST centre from its site file; it uses no login of its own people."""
    if config.northbound is None:
        raise SiteClosed("scheduler northbound needs a `northbound` section")
    connection, api = HttpConnection(login_of(config.northbound)), Api(config.northbound, config.zone)
    return SiteAdapter(
        site_id=config.site,
        title=config.title.get("en", config.site),
        scheduler="northbound",
        policy=config.binding_policy(),
        capabilities=CAPABILITIES,
        management=NorthboundManagement(config, connection, api),
        resource=NorthboundResource(config, connection, api),
        auth=NorthboundAuth(connection, api),
        billing=NorthboundBilling(connection, api),
        log=NorthboundLog(connection, api),
        close=connection.close,
    )
