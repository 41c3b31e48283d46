"""What is counted and not timed (quantum shots), and storage: granted, asked for, held, metered, drawn and priced."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pytest
from pydantic import ValidationError

from accounting import store as books
from accounting.ledger import PER_GIB_MONTH
from accounting.sources import ogf_ur, sacct
from accounting.tariff import PriceRule
from accounting.usage import Unreadable, UsageRecord
from site_adapters.config import PolicyConfig, SiteConfig, TransportConfig
from site_adapters.slurm.options import render
from site_adapters.types import Attributes, JobSpec, Resources, SiteAccount, Submission
from tests.builders import MICRO, Gateway, local_site, make_gateway
from tests.unit.gateway.test_api_books import charge, ok, payer

Headers = dict[str, str]
SHOT = PriceRule(0, "CNY", MICRO, datetime(2020, 1, 1, tzinfo=UTC), resource="unit:shots", per=1000)


@pytest.fixture
def gateway(db_url: str, tmp_path: Path) -> Gateway:
    made = make_gateway(tmp_path, db_url, local_site(tmp_path, policy={"countables": ["shots"]}))
    with made.services.db.write() as conn:
        books.add_tariff(conn, SHOT, now=made.services.clock())
    return made


def asking(shots: int, **more: Any) -> dict[str, Any]:
    return {"script": "#!/bin/sh\ntrue\n", "attributes": {"duration": 3600}, "resources": {"units": {"shots": shots}},
            **more}  # fmt: skip


def standing(client: httpx.Client, commodity: str) -> dict[str, str]:
    (found,) = [e for e in ok(client.get("projects/demo"))["exposure"] if e["commodity"] == commodity]
    return {name: found[name] for name in ("settled", "committed", "limit", "available")}


def test_shots_are_granted_held_metered_and_drawn(gateway: Gateway, client: httpx.Client, operator: Headers) -> None:
    ok(
        client.post("allocations", json={"project": "demo", "commodity": "shots", "amount": 5000}, headers=operator),
        201,
    )
    made = ok(client.post("jobs", json=asking(1500, array={"indices": "0-1"})), 202)
    assert made["estimate"]["amount"] == "3.72"  # 2 × (0.36 + 1.50)
    assert standing(client, "shots") == {"settled": "0", "committed": "3000", "limit": "5000", "available": "2000"}
    refused = client.post("jobs", json=asking(2001))
    assert refused.status_code == 402 and "It may use 2001 shots, and 2000 are left." in refused.text

    gateway.until(made["id"], "completed")
    gateway.charged(made["id"])
    assert standing(client, "shots") == {"settled": "3000", "committed": "0", "limit": "5000", "available": "2000"}
    charges = ok(client.get("billing/charges", params={"project": "demo"}))["items"]
    why = [ok(client.get(f"billing/charges/{c['id']}")) for c in charges if not c["replaced"]]
    assert {c["meter"] for c in why} == {"centre"} and len(why) == 2
    counted = [s for c in why for s in c["segments"] if s["resource"] == "unit:shots"]
    assert [(s["quantity"], s["amount_micro"]) for s in counted] == [(1500, 1_500_000)] * 2
    gateway.check_books()


def test_a_centre_that_does_not_count_is_asked_for_nothing_to_count(gateway: Gateway, client: httpx.Client) -> None:
    wanted = asking(1) | {"resources": {"units": {"shots": 1, "anneals": 2}}}
    refused = client.post("jobs", json=wanted | {"placement": {"resource_ids": ["local"]}})
    assert refused.status_code == 422, refused.text
    assert [(e["pointer"], e["detail"], e["remedy"]) for e in refused.json()["errors"]] == [
        ("/resources/units/anneals", "local does not count anneals.", "It counts: shots.")
    ]
    for name, count in (("SHOTS", 1), ("shots", 0), ("shots", "5")):
        assert client.post("jobs", json=asking(1) | {"resources": {"units": {name: count}}}).status_code == 422


def test_shots_are_asked_for_by_typing(
    gateway: Gateway, client: httpx.Client, type_: Callable[..., str], tmp_path: Path
) -> None:
    alice = {"Authorization": str(client.headers["authorization"])}
    script = tmp_path / "job.sh"
    script.write_text("#!/bin/sh\ntrue\n")
    told = type_("submit", "--units", "shots=1000", "-t", "1h", "--dry-run", str(script), as_=alice)
    assert "1.36" in told  # 0.36 and 1.00
    assert "write it as NAME=NUMBER" in type_("submit", "--units", "shots", str(script), as_=alice, fails=True)


def test_storage_is_ordered_and_shown_in_gib_months(
    gateway: Gateway, client: httpx.Client, operator: Headers, type_: Callable[..., str]
) -> None:
    payer(client, operator)
    words = ("demo", "block", "20", "--of", "gib-months", "--price", "6", "--payer", "inst")
    number = type_("orders", "place", *words).strip()
    (given,) = ok(client.get("projects/demo/allocations"))["items"]
    assert (given["commodity"], given["amount"]) == ("storage-mib-hours", 20 * PER_GIB_MONTH)
    stored = {"units": {"storage-mib-hours": 5 * PER_GIB_MONTH}, "cores": 0, "elapsed": 1,
              "start": gateway.services.clock()}  # fmt: skip
    with gateway.services.db.write() as conn:
        rule = PriceRule(0, "CNY", MICRO, datetime(2020, 1, 1, tzinfo=UTC), resource="unit:storage-mib-hours",
                         per=PER_GIB_MONTH)  # fmt: skip
        books.add_tariff(conn, rule, now=gateway.services.clock())
    charge(gateway, **stored)
    found = standing(client, "GiB-months")
    assert (found["settled"], found["limit"], found["available"]) == ("5.00", "20.00", "15.00")
    shown = [line.split() for line in type_("billing", "allocations", "demo").splitlines()]
    assert shown[1][1:4] == ["20.000", "15.000", "GiB-months"]
    assert [line.split()[2:4] for line in type_("orders", "placed", "demo").splitlines() if number in line] == [
        ["20.000", "GiB-months"]
    ]
    other = {"project": "demo", "commodity": "anneals", "amount": 7}
    ok(client.post("allocations", json=other, headers=operator), 201)
    assert "anneals" in type_("billing", "allocations", "demo")
    gateway.check_books()


# ---------------------------------------------------------------- what centres say


def row(tres: str) -> UsageRecord:
    found = sacct.read(
        {"JobID": "7", "State": "COMPLETED", "Submit": "2026-11-01T00:00:00", "Start": "2026-11-01T00:00:00",
         "End": "2026-11-01T00:01:00", "ElapsedRaw": "60", "AllocCPUS": "2", "AllocNodes": "1", "User": "u",
         "NodeList": "n1", "DBIndex": "7", "Cluster": "a", "AllocTRES": tres}, site_id="a",
    )  # fmt: skip
    assert isinstance(found, UsageRecord)
    return found


def test_slurms_licences_are_units() -> None:
    assert row("cpu=2,license/shots=1000,license/MATLAB=3,node=1").resources == {
        "core_seconds": 120, "node_seconds": 60, "unit:shots": 1000,
    }  # fmt: skip
    assert row("cpu=2,node=1").units == {}


def test_a_usage_record_of_ogf_tells_consumable_resources() -> None:
    def read(*resources: str) -> Any:
        return ogf_ur.read_document(f"""<urf:JobUsageRecord xmlns:urf="http://schema.ogf.org/urf/2003/09/urf">
<urf:RecordIdentity urf:recordId="q:1"/><urf:Status>completed</urf:Status>
<urf:WallDuration>PT5S</urf:WallDuration><urf:EndTime>2026-11-10T12:00:00Z</urf:EndTime>
{''.join(resources)}</urf:JobUsageRecord>""", site_id="q")  # fmt: skip

    def of(name: str, count: str) -> str:
        return f'<urf:ConsumableResource urf:description="{name}" units="1">{count}</urf:ConsumableResource>'

    assert read(of("shots", "1000.0"), of("shots", "24")).records[0].units == {"shots": 1024}
    assert read(of("Number of CNY", "5")).records[0].units == {}
    for bad in (of("shots", "0.5"), of("shots", "many"), of("core-seconds", "5")):
        (problem,) = read(bad).problems
        assert isinstance(problem, Unreadable)


@pytest.mark.parametrize("name", ["CNY", "core-seconds", "gpu-seconds", "a b", ""])
def test_a_unit_is_never_taken_for_money_or_time(name: str) -> None:
    values = row("cpu=2")
    with pytest.raises(ValueError, match="no name of a unit"):
        type(values)(**{f: getattr(values, f) for f in values.__struct_fields__} | {"units": {name: 1}})


def test_sbatch_is_asked_for_licences() -> None:
    config = SiteConfig(site="quant", scheduler="slurm", transport=TransportConfig(kind="local"))

    def argv(**more: str) -> list[str]:
        spec = JobSpec(script="#!/bin/sh\ntrue\n", resources=Resources(units={"shots": 1000, "anneals": 2}),
                       attributes=Attributes(custom_attributes=more))  # fmt: skip
        asked = Submission(spec, SiteAccount("me", "/home/me"), "ptest0123456789a", 1, "j-ptest0123456789a.1")
        rendered = render(config, asked)
        return [w for w in (*rendered.argv, *rendered.script.split()) if "licenses" in w]

    assert argv() == ["--licenses=anneals:2,shots:1000"]
    assert argv(**{"slurm.licenses": "matlab:1"}) == ["--licenses=matlab:1,anneals:2,shots:1000"]


def test_countables_are_named_where_a_meter_tells_them() -> None:
    def site(scheduler: str, *names: str) -> SiteConfig:
        return SiteConfig.model_validate({"site": "quant", "scheduler": scheduler, "transport": {"kind": "local"},
                                          "policy": PolicyConfig(countables=names).model_dump()})  # fmt: skip

    assert site("slurm", "shots").binding_policy().countables == ("shots",)
    with pytest.raises(ValidationError, match="no meter of scheduler pbs tells them"):
        site("pbs", "shots")
    with pytest.raises(ValidationError, match="is timed, not counted"):
        site("slurm", "core-seconds")
