"""A gateway whose clock can be turned, with two centres, three projects, prices and people: a season begins."""

from __future__ import annotations

import base64
import random
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from fractions import Fraction
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import httpx
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from gateway.identity import service, tokens
from gateway.identity.access import Person
from tests.builders import Gateway, api, compose_gateway, local_site
from tests.journey.reckoner import COIN, MICRO, Centre, Line, Project, Reckoner

DAY, HOUR = timedelta(days=1), timedelta(hours=1)
# Clocks go back, the year ends, clocks go forward, a leap day; far east and far west of Greenwich.
SEASONS = [
    ("2026-10", "Europe/Zurich"), ("2026-12", "Asia/Shanghai"), ("2027-03", "America/New_York"),
    ("2028-02", "Pacific/Auckland"), ("2028-02", "Asia/Shanghai"), ("2027-10", "Europe/Zurich"),
]  # fmt: skip
CENTRES = [
    Centre("ca", "alpha", "op", Fraction(7, 10), True), Centre("cb", "beta", "cb", Fraction(13, 20), False),
]  # fmt: skip


@dataclass
class Clock:
    now: datetime

    def __call__(self) -> datetime:
        return self.now


def month_start(at: datetime, zone: str) -> datetime:
    local = at.astimezone(ZoneInfo(zone))
    return datetime(local.year, local.month, 1, tzinfo=ZoneInfo(zone)).astimezone(UTC)


class Founding:
    """A gateway whose clock is turned from deed to deed. `trace`: what was done, for whoever looks for a difference."""

    def __init__(self, folder: Path, db_url: str, seed: int) -> None:
        self.random = random.Random(seed)
        name, self.zone = SEASONS[seed % len(SEASONS)]
        first = datetime.strptime(name, "%Y-%m").replace(tzinfo=ZoneInfo(self.zone)).astimezone(UTC)
        second = month_start(first + 40 * DAY, self.zone)
        self.first, self.second, self.third = first, second, month_start(second + 40 * DAY, self.zone)
        self.clock = Clock(self.first - 40 * DAY)
        services = compose_gateway(folder, db_url, local_site(folder, site="alpha"), local_site(folder, site="beta"))
        self.services = replace(services, clock=self.clock)
        self.reckoner = Reckoner(CENTRES, lambda at: month_start(at, self.zone))
        self.people: dict[str, tuple[str, dict[str, str]]] = {}
        self.project_ids: dict[str, str] = {}
        self.keys = {party: Ed25519PrivateKey.from_private_bytes(party.encode().ljust(32, b"."))
                     for party in ("op", "ca", "cb")}  # fmt: skip
        self.trace: list[str] = []
        self.count = 0
        self.credited: set[Line] = set()

    def served(self) -> AbstractContextManager[httpx.Client]:
        with self.services.db.write() as conn:
            for name, admin in (("op1", True), ("op2", True), ("alice", False), ("bob", False), ("eve", False)):
                self.clock.now += timedelta(seconds=1)  # so that the ids have one order
                user = service.create_user(conn, name=name, operator_admin=admin, now=self.clock.now)
                if name in ("bob", "eve"):
                    service.add_staff(conn, site_id="alpha" if name == "bob" else "beta", user_id=user,
                                      now=self.clock.now)  # fmt: skip
                made = tokens.issue(conn, user_id=user, name="t", scopes=tokens.SCOPES, lifetime=timedelta(days=300),
                                    now=self.clock.now)  # fmt: skip
                self.people[name] = (user, {"Authorization": f"Bearer {made.secret}"})
        gateway = Gateway(self.services, Person(self.people["op1"][0], "op1"), "", "nobody")
        return api(gateway)

    # ------------------------------------------------------------ speaking

    def call(self, method: str, path: str, body: Any = None, *, by: str = "op1", status: int | None = None) -> Any:
        got = self.client.request(method, path, json=body, headers=self.people[by][1])
        said = f"{self.clock.now:%m-%d %H:%M} {by} {method} {path} {body} -> {got.status_code} {got.text[:200]}"
        if method != "GET":
            self.trace.append(said)
        wanted = status or (201 if method == "POST" else 200)
        assert got.status_code in (wanted, 200), said
        return got.json()

    def posted(self, answer: dict[str, Any], path: str) -> None:
        """Of much a second person decides."""
        if answer["state"] == "waiting":
            self.call("POST", f"{path}/{answer['id']}/decide", {"approve": True}, by="op2", status=200)

    # ------------------------------------------------------------ setting up

    def set_up(self, client: httpx.Client) -> None:
        self.client = client
        r, rng = self.reckoner, self.random
        old = "2020-01-01T00:00:00Z"
        for code, ppm in (("vat", 60_000), ("mwst", 81_000)):
            self.call("POST", "billing/tax-rules", {"code": code, "rate_ppm": ppm, "valid_from": old})
        for name, prefix, code in (("op", "PS", "vat"), ("cb", "CB", "mwst"), ("uni", "", ""), ("lab", "", "")):
            self.call("POST", "billing/entities", {"id": name, "legal_name": f"{name} Ltd", "prefix": prefix,
                                                   "tax_code": code, "zone": self.zone})  # fmt: skip
        for party, sites in (("op", []), ("ca", ["alpha"]), ("cb", ["beta"])):
            public = base64.b64encode(self.keys[party].public_key().public_bytes_raw()).decode()
            role = "operator" if party == "op" else "centre"
            body = {"id": party, "role": role, "legal_name": f"{party} Ltd", "sites": sites,
                    "keys": [{"key_id": f"{party}-1", "public": public, "valid_from": old}]}  # fmt: skip
            self.call("POST", "parties", body)
        for c, currency in zip(CENTRES, ("CNY", "EUR"), strict=True):
            self._agree(c, currency)
        shared = [("uni", 60), ("lab", 40)] if rng.random() < 0.5 else None
        self._project("p1", "CNY", "alpha", shared)
        self._project("p2", "EUR", "beta", None)
        self._project("p3", "CNY", "alpha", None)
        if rng.random() < 0.7:  # another one pays from the second month on
            self.call("PUT", "billing/projects/p2/payer", {"payer": "lab", "valid_from": self.second.isoformat()})
            r.projects["p2"].payers.append((self.second, "lab"))

    def _agree(self, c: Centre, currency: str) -> None:
        mine, denominator = c.share.numerator, c.share.denominator
        document = {
            "id": f"a-{c.id}", "version": 1, "operator_id": "op", "centre_id": c.id, "site_ids": [c.site],
            "model": "agency", "seller_of_record": c.issuer, "collector": "op", "brand": "Penstock",
            "currency": currency, "valid_from": "2020-01-01T00:00:00Z", "zone": self.zone, "no_rise_after_days": 45,
            "shares": {"denominator": denominator, "remainder_to": c.id if c.rest_to_centre else "op",
                       "parts": [{"party_id": c.id, "numerator": mine},
                                 {"party_id": "op", "numerator": denominator - mine}]},
            "metering": {"version": "m1", "liability": {
                "NODE_FAIL": {"payer": 0, "centre": 1, "operator": 0},
                "PREEMPTED": {"payer": 0, "centre": 0, "operator": 1},
                "BOOT_FAIL": {"payer": 1, "centre": 1, "operator": 0}}},
        }  # fmt: skip
        made = self.call("POST", "agreements", {"document": document})
        for party in ("op", c.id):
            signature = base64.b64encode(self.keys[party].sign(base64.b64decode(made["payload"]))).decode()
            self.call("POST", f"agreements/a-{c.id}/1/signatures",
                      {"party": party, "key_id": f"{party}-1", "signature": signature}, status=200)  # fmt: skip

    def _project(self, name: str, currency: str, site: str, shared: list[tuple[str, int]] | None) -> None:
        r, rng = self.reckoner, self.random
        self.clock.now += timedelta(seconds=1)  # so that the ids have one order
        self.project_ids[name] = self.call("POST", "projects", {"name": name, "currency": currency})["id"]
        for person, role in (("alice", "owner"), ("bob", "researcher")):
            self.call("POST", f"projects/{name}/members", {"user": person, "role": role}, status=201)
        self.call("PUT", f"billing/projects/{name}/payer", {"payer": "uni"})
        self.call("POST", f"projects/{name}/credit", {"amount": "100000"})
        if shared is not None:
            payers = [{"payer": p, "weight": w} for p, w in shared]
            self.call("POST", f"projects/{name}/terms", {"payers": payers})
        always = datetime(1971, 1, 1, tzinfo=UTC)
        r.projects[name] = Project(name, currency, shared, [(always, "uni")], 100_000 * MICRO)
        if not r.prices[site, currency]:
            change = self.moment(self.first, self.third)
            old = datetime(2020, 1, 1, tzinfo=UTC)
            for since, until in ((old, change), (change, None)):
                micro = rng.randrange(10_000, 900_000)
                self.call("POST", "tariffs", {
                    "currency": currency, "price_per_core_hour": f"0.{micro:06d}", "site": site,
                    "valid_from": since.isoformat(), "valid_to": until and until.isoformat()})  # fmt: skip
                r.prices[site, currency].append((since, until, micro))
        if name != "p3":
            since, ratio = self.moment(self.first, self.second), Fraction(rng.randrange(5, 10), 11)
            body = {"project": name, "site": site, "numerator": ratio.numerator, "denominator": ratio.denominator}
            self.call("POST", "discounts", body | {"valid_from": since.isoformat()})
            r.ratios[name, site].append((since, None, ratio))

    def moment(self, a: datetime, b: datetime) -> datetime:
        return a + timedelta(seconds=self.random.randrange(int((b - a).total_seconds())))


def coins(minor: int) -> str:
    return f"{'-' if minor < 0 else ''}{abs(minor) // 100}.{abs(minor) % 100:02d}"


def minor(text: str) -> int:
    return micro(text) // COIN


def micro(text: str) -> int:
    return int(Fraction(text) * MICRO)
