"""Slurm: commands over a login, slurmrestd or pyslurm for submitting where a centre offers them.

commands.py (builders, parsers, states, errors)  reasons.py (why it waits)  options.py (spec -> sbatch)
management.py  resource.py  billing.py  rest.py  native.py
"""

from __future__ import annotations

import re

from site_adapters.command import Command
from site_adapters.config import SiteConfig
from site_adapters.errors import SiteClosed
from site_adapters.interfaces import SiteAdapter
from site_adapters.login_node.auth import LoginNodeAuth
from site_adapters.login_node.errors import site_rules
from site_adapters.login_node.log import LoginNodeLog
from site_adapters.login_node.management import LoginNodeManagement, SubmitBackend
from site_adapters.slurm import native
from site_adapters.slurm.billing import SlurmBilling
from site_adapters.slurm.checks import probes, sees_everybody
from site_adapters.slurm.management import SlurmDialect
from site_adapters.slurm.resource import SlurmResource
from site_adapters.slurm.rest import RestSubmit
from site_adapters.transport import Logins

CAPABILITIES = frozenset({"arrays", "hold", "modify", "accounting", "fence", "requeue", "enforces_walltime"})


def build(config: SiteConfig, logins: Logins) -> SiteAdapter:
    """A Slurm centre from its site file; raises `SiteError` where the file asks for what cannot be had."""
    dialect = SlurmDialect(config, site_rules(config))
    management = LoginNodeManagement(
        config, logins, dialect, _backend(config, logins), sees_everybody=lambda login: sees_everybody(config, login)[0]
    )
    capabilities = CAPABILITIES if not config.enforce_walltime else CAPABILITIES - {"enforces_walltime"}
    return SiteAdapter(
        site_id=config.site,
        title=config.title.get("en", config.site),
        scheduler="slurm",
        policy=config.binding_policy(),
        capabilities=capabilities,
        management=management,
        resource=SlurmResource(config, logins),
        auth=LoginNodeAuth(logins, probes(config, logins)),
        billing=SlurmBilling(config, logins),
        log=LoginNodeLog(logins),
        close=management.close,
    )


def _backend(config: SiteConfig, logins: Logins) -> SubmitBackend | None:
    if config.backend == "rest" and config.rest is not None:
        return RestSubmit(config, config.rest)
    if config.backend == "pyslurm":
        observer = logins.observer()
        if observer is None:
            raise SiteClosed("backend pyslurm needs an observer, to ask for the controller's version")
        version = observer.run(
            Command((config.command("scontrol"), "--version"), lambda out: _version(out.text), deadline_s=20.0)
        )
        return native.load(config, version)
    return None


def _version(text: str) -> str:
    match = re.search(r"\d+\.\d+(\.\d+)?", text)
    if match is None:
        raise SiteClosed(f"the controller does not tell its version: {text[:100]!r}")
    return match[0]
