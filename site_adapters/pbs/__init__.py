"""PBS: OpenPBS and PBS Pro, and Torque's dialect of it, by commands over a login.

commands.py (builders, parsers, errors)  attributes.py (the two forms of qstat)  runs.py (states and ends)
reasons.py (why it waits)  options.py (spec -> #PBS lines)  management.py  resource.py  billing.py  checks.py
"""

from __future__ import annotations

from site_adapters.config import SiteConfig
from site_adapters.interfaces import SiteAdapter
from site_adapters.login_node.auth import LoginNodeAuth
from site_adapters.login_node.errors import site_rules
from site_adapters.login_node.log import LoginNodeLog
from site_adapters.login_node.management import LoginNodeManagement
from site_adapters.pbs.billing import PbsBilling
from site_adapters.pbs.checks import probes
from site_adapters.pbs.management import PbsDialect
from site_adapters.pbs.resource import PbsResource
from site_adapters.transport import Logins

CAPABILITIES = frozenset({"arrays", "hold", "modify", "accounting", "fence", "requeue", "enforces_walltime"})


def build(config: SiteConfig, logins: Logins) -> SiteAdapter:
    """A PBS centre from its site file."""
    lacks = {"enforces_walltime"} if config.enforce_walltime else set()
    return SiteAdapter(
        site_id=config.site,
        title=config.title.get("en", config.site),
        scheduler="pbs",
        policy=config.binding_policy(),
        capabilities=CAPABILITIES - lacks,
        management=LoginNodeManagement(config, logins, PbsDialect(config, site_rules(config))),
        resource=PbsResource(config, logins),
        auth=LoginNodeAuth(logins, probes(config, logins)),
        billing=PbsBilling(config, logins),
        log=LoginNodeLog(logins),
    )
