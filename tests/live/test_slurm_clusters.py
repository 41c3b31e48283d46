"""One slurmdbd with two clusters: what an order changes at one is as it was at the other."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from site_adapters.config import SiteConfig
from site_adapters.slurm.accounts import SlurmProvisioner
from site_adapters.transport.pool import SiteLogins
from site_adapters.types import SiteAccount
from tests.docking import dock, slurm_at_the_centre
from tests.lab.slurm import SlurmLab

pytestmark = pytest.mark.live


def rows(lab: SlurmLab, what: str, fields: str) -> list[str]:
    shown = lab.run("sacctmgr", "-nP", "show", "assoc", *what.split(), f"cluster={lab.cluster}", f"format={fields}")
    return shown.splitlines()


@pytest.fixture
def provisioner(slurm_alpha: SlurmLab, slurm_beta: SlurmLab) -> Iterator[SlurmProvisioner]:
    config = SiteConfig.model_validate(slurm_at_the_centre(slurm_alpha))
    logins = SiteLogins(config, lambda _username: None)
    yield SlurmProvisioner(config, logins.provisioner())
    logins.close()
    for kind, name in (("user", "lab_bob account=pn_two"), ("account", "pn_two"), ("qos", "pn_o_two")):
        slurm_alpha.run("sacctmgr", "-i", "delete", kind, *name.split(), check=False)


def test_every_change_is_made_at_one_cluster_only(
    provisioner: SlurmProvisioner, slurm_alpha: SlurmLab, slurm_beta: SlurmLab
) -> None:
    before = rows(slurm_beta, "", "account,user,maxsubmitjobs,grptresmins,grpsubmit,qos")
    assert any(row.split("|")[1] == "lab_bob" for row in before)

    provisioner.open_project("two", core_seconds=3600, users=["lab_bob"])
    provisioner.open_user("two", "lab_bob")
    provisioner.open_share("two", cores=2, queue=None, order_id="o-two")
    assert rows(slurm_alpha, "account=pn_two user=", "account,grptresmins") == ["pn_two|cpu=60"]
    assert rows(slurm_alpha, "account=pn_two user=lab_bob", "account,user,qos")[0].startswith("pn_two|lab_bob|")
    provisioner.shut_login("lab_bob", shut=True)
    assert {row.split("|")[1] for row in rows(slurm_alpha, "user=lab_bob", "user,maxsubmitjobs")} == {"0"}
    provisioner.close_user("two", "lab_bob")
    provisioner.close_project("two")
    provisioner.close_share("two", "o-two")

    assert rows(slurm_beta, "", "account,user,maxsubmitjobs,grptresmins,grpsubmit,qos") == before
    provisioner.shut_login("lab_bob", shut=False)
    assert {row.split("|")[1] for row in rows(slurm_alpha, "user=lab_bob", "user,maxsubmitjobs")} == {""}


def test_a_login_is_told_the_accounts_of_its_own_cluster(
    tmp_path: Path, provisioner: SlurmProvisioner, slurm_alpha: SlurmLab, slurm_beta: SlurmLab
) -> None:
    provisioner.open_user("two", "lab_bob")

    def accounts(lab: SlurmLab) -> tuple[str, ...]:
        folder = tmp_path / lab.cluster
        folder.mkdir()
        centre = dock(folder, slurm_at_the_centre(lab)).compose()
        try:
            return centre.adapter.resource.limits(SiteAccount("lab_bob", "/")).accounts or ()
        finally:
            centre.close()

    assert "pn_two" in accounts(slurm_alpha)
    assert "pn_two" not in accounts(slurm_beta)
