"""Jobs as processes on this machine: the embedded default, no scheduler, no root.

shim.py (the runner, standard library only)  commands.py (its calls and states)
management.py  resource.py  billing.py
"""

from __future__ import annotations

from site_adapters.config import SiteConfig
from site_adapters.interfaces import SiteAdapter
from site_adapters.local.billing import LocalBilling
from site_adapters.local.management import LocalManagement
from site_adapters.local.resource import LocalResource, cores_of_machine
from site_adapters.login_node.auth import LoginNodeAuth
from site_adapters.login_node.log import LoginNodeLog
from site_adapters.transport import Logins

CAPABILITIES = frozenset({"arrays", "hold", "accounting", "fence", "enforces_walltime"})


def build(config: SiteConfig, logins: Logins) -> SiteAdapter:
    """This machine as a centre; `policy.cores_max` may give more or fewer cores than it has."""
    cores = config.policy.cores_max or cores_of_machine()
    return SiteAdapter(
        site_id=config.site,
        title=config.title.get("en", config.site),
        scheduler="local",
        policy=config.binding_policy(),
        capabilities=CAPABILITIES,
        management=LocalManagement(config, logins, cores),
        resource=LocalResource(config, cores),
        auth=LoginNodeAuth(logins),
        billing=LocalBilling(config, logins, cores),
        log=LoginNodeLog(logins),
    )
