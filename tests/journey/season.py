"""Two random months of business at a gateway, through its API, and beside it what they come to (reckoner.py)."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta
from fractions import Fraction
from functools import partial
from typing import Any
from zoneinfo import ZoneInfo

from accounting import store as books
from accounting.usage import Kind, Meter, UsageRecord
from gateway import leases
from gateway.billing.upkeep import upkeep
from tests.journey.founding import CENTRES, DAY, HOUR, Founding, coins, micro, minor
from tests.journey.reckoner import COIN, MICRO, Line, Paper, Run, half_up

Deed = tuple[datetime, Callable[[], None]]


class Season(Founding):
    """Deeds at random, each at its time, done here and reckoned beside."""

    # ------------------------------------------------------------ the months

    def plan(self, runs: int) -> list[Deed]:
        rng = self.random
        deeds: list[Deed] = []
        for _ in range(runs):
            deeds += self._run()
        for at in (self.second, self.third):
            for issuer in ("op", "cb"):
                deeds.append((at + 3 * DAY, partial(self.bill, issuer, at)))
            for _ in range(4):
                deeds.append((self.moment(at + 4 * DAY, at + 12 * DAY), self.payments))
                deeds.append((self.moment(at + 4 * DAY, at + 12 * DAY), self.credit))
            deeds.append((self.moment(at + 4 * DAY, at + 12 * DAY), self.dispute))
            deeds.append((self.moment(at + 5 * DAY, at + 14 * DAY), self.write_off))
            deeds.append((self.moment(at + 5 * DAY, at + 14 * DAY), self.deposit))
            deeds.append((self.moment(at + 13 * DAY, at + 16 * DAY), self.returned))
        for _ in range(max(6, runs // 5)):
            deeds.append((self.moment(self.first + 2 * DAY, self.third + 12 * DAY), self.correction))
        for _ in range(4):
            deeds.append((self.moment(self.first, self.third), self.order))
            deeds.append((self.moment(self.first, self.third), self.adjust))
        for _ in range(3):
            deeds.append((self.moment(self.first, self.third), self.top_up))
        deeds.append((self.moment(self.second, self.third), self.refund))
        for day in range(-2, 75, 3):
            deeds.append((self.first + day * DAY + HOUR, self.upkeep))
        rng.shuffle(deeds)
        return sorted(deeds, key=lambda deed: deed[0])

    def play(self, runs: int) -> None:
        for at, deed in self.plan(runs):
            self.clock.now = max(self.clock.now, at.replace(microsecond=0))
            deed()
        self.compare("at the end")
        self.settle()

    def _run(self) -> list[Deed]:
        rng = self.random
        self.count += 1
        project = rng.choice(["p1", "p2", "p3"])
        site = "beta" if project == "p2" else "alpha"
        state = rng.choices(["COMPLETED", "NODE_FAIL", "PREEMPTED", "BOOT_FAIL"], [85, 5, 5, 5])[0]
        run = Run(f"r{self.count}", project, site, self.people[rng.choice(["alice", "bob"])][0], state)
        start = self.moment(self.first - DAY, self.third)
        end = start + timedelta(seconds=rng.choice([rng.randrange(1, 600), rng.randrange(600, 250_000)]))
        cores = rng.choice([1, 3, 64, 127])
        lag = rng.choices([HOUR, 20 * HOUR, 12 * DAY, 50 * DAY], [60, 25, 12, 3])[0]
        deeds: list[Deed] = []
        if rng.random() < 0.3:
            off = end + timedelta(seconds=rng.randrange(-min(30, int((end - start).total_seconds()) - 1), 30))
            deeds.append((end + timedelta(minutes=1), partial(self.read, run, start, off, cores, by_centre=False)))
        deeds.append((end + lag, partial(self.read, run, start, end, cores, by_centre=True)))
        return deeds

    def read(self, run: Run, start: datetime, end: datetime, cores: int, *, by_centre: bool) -> None:
        if run.versions and run.live.by_centre and not by_centre:
            return
        now, elapsed = self.clock.now, int((end - start).total_seconds())
        key = f"c{run.key}" if by_centre else f"pt{run.key}.1:-1:0"
        record = UsageRecord(
            site_id=run.site, run_key=key, meter=Meter.CENTRE if by_centre else Meter.GATEWAY, kind=Kind.RUN,
            native_id=run.key, state=run.state, username="x", cores=cores, nodes=1, elapsed_s=elapsed, queue="q",
            core_seconds=cores * elapsed, node_seconds=elapsed, start_time=start, end_time=end,
            raw={"key": run.key, "elapsed": str(elapsed), "at": now.isoformat()},
        )  # fmt: skip
        p = self.reckoner.projects[run.project]
        item = books.Assigned(record, f"j{run.key}", self.project_ids[run.project], run.user, p.currency)
        with self.services.db.write() as conn:
            done = books.record_and_book(conn, [item], now=now)
        said = f"{run.key} {run.project} {run.state} {start} {end} {cores} {key}"
        self.trace.append(f"{now:%m-%d %H:%M} read {said}: {done}")
        if done.recorded:
            self.reckoner.read(run, start, end, cores, now, by_centre=by_centre)

    def correction(self) -> None:
        """The centre's record of a run is another one now; downwards where a person has given something back."""
        known = [r for r in self.reckoner.runs.values() if r.versions and r.live.by_centre]
        if not known:
            return
        run = self.random.choice(known)
        v = run.live
        elapsed = int((v.end - v.start).total_seconds())
        on_credit = any(r is run for _, _, on in self.reckoner.given.values() for r in on)
        top = elapsed if on_credit else 2 * elapsed
        end = v.start + timedelta(seconds=self.random.randrange(1, max(2, top)))
        if on_credit and end >= v.end:
            return
        self.read(run, v.start, min(end, self.clock.now), v.cores, by_centre=True)

    def order(self) -> None:
        rng, now = self.random, self.clock.now
        project = rng.choice(["p1", "p2", "p3"])
        site = "beta" if project == "p2" else "alpha"
        price = rng.choice([0, rng.randrange(1, 90_000_000)])
        kind = "block" if price else "trial"
        begins = now - rng.choice([timedelta(0), 3 * DAY])
        ends = now + rng.choice([2 * DAY, 9 * DAY]) if kind == "trial" or rng.random() < 0.8 else None
        body = {"project": project, "payer": "uni", "kind": kind, "amount": 3600 * rng.randrange(1, 5000),
                "price": f"{price // MICRO}.{price % MICRO:06d}", "starts_at": begins.isoformat(), "site": site,
                "ends_at": ends and ends.isoformat()}  # fmt: skip
        self.call("POST", "orders", body)
        self.reckoner.order(project, site, price, begins, ends, now)

    def adjust(self) -> None:
        project, amount = self.random.choice(["p1", "p2", "p3"]), self.random.randrange(-2_000_000, 3_000_000) or 1
        sign = "-" if amount < 0 else ""
        text = f"{sign}{abs(amount) // MICRO}.{abs(amount) % MICRO:06d}"
        made = self.call("POST", "billing/adjustments", {"project": project, "kind": "adjustment", "amount": text,
                                                         "reason": "a reason"})  # fmt: skip
        self.posted(made, "billing/adjustments")
        self.reckoner.adjust(project, amount, self.clock.now)

    def upkeep(self) -> None:
        lease = leases.take(self.services.db, "alpha", "test")
        upkeep(self.services, lease, self.clock.now)

    # ------------------------------------------------------------ documents and money

    def bill(self, issuer: str, until: datetime) -> None:
        name = (until - DAY).astimezone(ZoneInfo(self.zone)).strftime("%Y-%m")
        found = self.call("POST", "billing/invoices", {"month": name, "issuer": issuer}, status=200)
        assert found["refused"] == [], found
        names = {id_: name for name, id_ in self.project_ids.items()}
        r = self.reckoner
        for made in found["made"]:
            project = made["project"] if made["project"] in r.projects else names[made["project"]]
            wanted = r.bill(issuer, made["payer"], project, until)
            assert wanted is not None, f"nothing is due: {made}"
            _, net, tax = wanted
            assert (made["net"], made["tax"]) == (coins(net), coins(tax)), (made, wanted)
            due = datetime.fromisoformat(made["due_at"])
            r.set_off(r.issued(made["number"], issuer, made["payer"], project, until, due))
        for project in r.projects:
            for payer in ("uni", "lab"):
                left = r.bill(issuer, payer, project, until)
                assert left is None, (issuer, payer, project, left)
        self.compare(f"after {issuer} billed {name}")

    def invoice(self, **such: Any) -> Paper | None:
        found = [p for p in self.reckoner.papers.values() if not p.corrects and p.open > 0 and p.gross > 0
                 and all(getattr(p, k) == v for k, v in such.items())]  # fmt: skip
        return self.random.choice(found) if found else None

    def payments(self) -> None:
        """A bank's file: one names an invoice, one two of them, one nothing; whole, in part, too much."""
        rng, r, rows = self.random, self.reckoner, []
        expected: list[tuple[Paper, int]] = []
        currency = rng.choice(["CNY", "EUR"])
        for how in rng.sample(["whole", "part", "more", "nothing"], 2):
            paper = self.invoice(currency=currency)
            if paper is None or any(p is paper for p, _ in expected):
                continue
            minor = {"whole": paper.open, "part": max(1, paper.open // 3), "more": paper.open + 123}.get(
                how, 987_654_321
            )
            self.count += 1
            text = "" if how == "nothing" else f"for {paper.number}, thanks"
            rows.append(f'{self.clock.now:%Y-%m-%d},B{self.count},{coins(minor)},someone,"{text}"')
            r.bank(f"ACC-{currency}", currency, minor)
            if how != "nothing":
                expected.append((paper, min(minor, paper.open)))
        if rows:
            content = "date,reference,amount,payer,remittance\n" + "\n".join(rows) + "\n"
            profile = {"account": f"ACC-{currency}", "currency": currency}
            body = {"format": "csv", "content": content, "profile": profile}
            done = self.call("POST", "billing/payments-import", body, status=200)
            assert done["problems"] == [] and done["new"] == len(rows), done
            again = self.call("POST", "billing/payments-import", body, status=200)
            assert (again["new"], again["known"]) == (0, len(rows)), again
            for paper, minor in expected:
                r.pay(paper, minor, f"ACC-{currency}")
        self.compare("after payments")

    def returned(self) -> None:
        """A payment went back."""
        r = self.reckoner
        paid = [p for p in r.papers.values() if p.paid > 0]
        if not paid:
            return
        paper = self.random.choice(paid)
        self.count += 1
        row = f"{self.clock.now:%Y-%m-%d},B{self.count},-{coins(paper.paid)},someone,returned {paper.number}"
        body = {"format": "csv", "content": f"date,reference,amount,payer,remittance\n{row}\n",
                "profile": {"account": f"ACC-{paper.currency}", "currency": paper.currency}}  # fmt: skip
        done = self.call("POST", "billing/payments-import", body, status=200)
        assert done["new"] == 1, done
        minor = paper.paid
        r.bank(f"ACC-{paper.currency}", paper.currency, -minor)
        r.pay(paper, -minor, f"ACC-{paper.currency}")
        self.compare("after a return")

    def _line(self) -> tuple[Paper, dict[str, Any], Line] | None:
        """A line of an invoice of which nothing was given back and whose runs stand as they were billed."""
        r = self.reckoner
        for paper in self.random.sample(sorted(r.papers.values(), key=lambda p: p.number), len(r.papers)):
            if paper.corrects or paper.gross <= 0:
                continue
            lines = self.call("GET", f"billing/invoices/{paper.number}")["lines"]
            for line in sorted(lines, key=lambda x: (x["site"], x["user"], x["service_start"])):
                where = (
                    paper.number,
                    line["site"],
                    self.people.get(line["user"], (line["user"],))[0],
                    datetime.fromisoformat(line["service_start"]),
                )
                net, on = minor(line["net"]), r.lines.get(where, [])
                sound = all(part == "" and run.live.billed.get(part) == paper.number for run, part in on)
                if net > 2 and on and sound and where not in self.credited and line["kind"] != "order":
                    return paper, line, where
        return None

    def credit(self) -> None:
        found = self._line()
        if found is None:
            return
        paper, line, where = found
        net = self.random.randrange(1, minor(line["net"]) + 1)
        body = {"invoice": paper.number, "reason": "a reason", "credits": [{"line": line["line"], "net": coins(net)}]}
        made = self.call("POST", "billing/credit-notes", body)
        self._credited(paper, line, where, net, self._issued(made["id"], made.get("number")))

    def _issued(self, asked: str, number: str | None) -> str:
        """The credit note's number; of much a second operator decides."""
        if not number:
            path = f"billing/credit-notes/{asked}/decide"
            number = self.call("POST", path, {"approve": True}, by="op2", status=200)["number"]
        return str(number)

    def _credited(self, paper: Paper, line: dict[str, Any], where: Line, net: int,
                  number: str) -> None:  # fmt: skip
        tax = half_up(Fraction(minor(line["tax"]) * net, minor(line["net"])))
        note = Paper(number, paper.issuer, paper.payer, paper.project, paper.currency, self.clock.now, 0, -net, -tax,
                     corrects=paper.number)  # fmt: skip
        self.credited.add(where)
        self.reckoner.credit(note, where)
        self.compare(f"after {number}")

    def dispute(self) -> None:
        found = self._line()
        if found is None:
            return
        paper, line, where = found
        made = self.call("POST", "billing/disputes", {"invoice": paper.number, "line": line["line"], "reason": "wrong"},
                         by="alice")  # fmt: skip
        at = f"billing/disputes/{made['id']}"
        if self.random.random() < 0.5:
            self.call("POST", f"{at}/pass_on", {}, status=200)
            self.call("POST", f"{at}/centre_answer", {"text": "so it was"}, by="bob" if where[1] == "alpha" else "eve",
                      status=200)  # fmt: skip
        end = self.random.choice(["credit", "reject", "withdraw"])
        if end == "credit":
            net = self.random.randrange(1, minor(line["net"]) + 1)
            done = self.call("POST", f"{at}/credit", {"text": "you are right", "net": coins(net)}, status=200)
            asked = next(c for c in self.call("GET", "billing/credit-notes")["items"] if c["dispute"] == made["id"])
            number = self._issued(asked["id"], done["events"][-1]["credit_note"])
            self._credited(paper, line, where, net, number)
        else:
            self.call("POST", f"{at}/{end}", {"text": "no"}, by="alice" if end == "withdraw" else "op1", status=200)
            self.compare("after a dispute")

    def write_off(self) -> None:
        if (paper := self.invoice()) is None:
            return
        amount = self.random.randrange(1, paper.open + 1)
        made = self.call("POST", "billing/clearings", {"kind": "write_off", "invoice": paper.number,
                                                       "amount": coins(amount), "reason": "a reason"})  # fmt: skip
        self.posted(made, "billing/clearings")
        r = self.reckoner
        paper.written_off += amount
        r.accounts[f"payer:{paper.payer}:receivable", paper.currency] -= amount * COIN
        r.accounts["operator:bad-debt", paper.currency] += amount * COIN
        self.compare("after a write-off")

    def top_up(self) -> None:
        """Money for p3: recorded by hand, and in half of the cases brought by the bank too, before or after."""
        rng, r = self.random, self.reckoner
        amount, before = rng.randrange(100, 900_000), rng.random() < 0.5
        self.count += 1
        reference = f"TOPUP{self.count:05d}"
        row = f"{self.clock.now:%Y-%m-%d},T{self.count},{coins(amount)},uni,{reference}"
        file = {"format": "csv", "content": f"date,reference,amount,payer,remittance\n{row}\n",
                "profile": {"account": "ACC-CNY", "currency": "CNY"}}  # fmt: skip
        by_bank = rng.random() < 0.6
        if by_bank and before:
            self.call("POST", "billing/payments-import", file, status=200)
        body = {"project": "p3", "payer": "uni", "amount": coins(amount), "reference": reference}
        self.call("POST", "billing/top-ups", body | {"received_at": self.clock.now.isoformat()})
        if by_bank and not before:
            self.call("POST", "billing/payments-import", file, status=200)
        r.accounts["bank:ACC-CNY" if by_bank else "operator:cash", "CNY"] += amount * COIN
        r.projects["p3"].limit += amount * COIN
        r.projects["p3"].paid_in += amount
        self.compare("after a top-up")

    def deposit(self) -> None:
        p = self.reckoner.projects["p3"]
        paper = self.invoice(project="p3", payer="uni")
        if paper is None or not p.paid_in:
            return
        amount = self.random.randrange(1, min(paper.open, p.paid_in) + 1)
        self.call("POST", "billing/clearings", {"kind": "deposit", "invoice": paper.number, "amount": coins(amount),
                                                "reason": "a reason"})  # fmt: skip
        p.paid_in -= amount
        p.limit -= amount * COIN  # it is spent; what it settles may be spent again
        self.reckoner.clear(paper, amount)
        self.reckoner.accounts[f"payer:{paper.payer}:receivable", "CNY"] -= amount * COIN
        self.compare("after a deposit paid")

    def refund(self) -> None:
        p = self.reckoner.projects["p3"]
        if p.paid_in < 10:
            return
        amount = self.random.randrange(1, p.paid_in)
        made = self.call("POST", "billing/refunds", {"project": "p3", "amount": coins(amount), "reason": "a reason"})
        self.posted(made, "billing/refunds")
        p.paid_in -= amount
        p.limit -= amount * COIN
        self.reckoner.accounts["operator:cash", "CNY"] -= amount * COIN
        self.compare("after a refund")

    # ------------------------------------------------------------ comparing

    def compare(self, when: str) -> None:
        r = self.reckoner
        found = {
            (b["account"], b["commodity"]): int(b["amount"]) for b in self.call("GET", "billing/balances")["items"]
        }
        for (code, commodity), amount in r.accounts.items():
            head, name, *rest = code.split(":")
            account = ":".join((head, self.project_ids[name], *rest)) if head == "project" else code
            assert found.get((account, commodity), 0) == amount, (
                when,
                account,
                commodity,
                found.get((account, commodity), 0),
                amount,
            )
        for account, commodity in found:
            if account.startswith(("payer:", "bank:", "unallocated:", "tax:", "centre:")) and found[account, commodity]:
                assert (account, commodity) in r.accounts or account.startswith("payer:uni:unalloc"), (when, account)
        sums: dict[str, int] = {}
        for (_, commodity), amount in found.items():
            sums[commodity] = sums.get(commodity, 0) + amount
        assert not any(sums.values()), (when, sums)
        said = {project["name"]: project for project in self.call("GET", "projects")["items"]}
        for name, p in r.projects.items():
            [money] = [e for e in said[name]["exposure"] if e["commodity"] == p.currency]
            assert micro(money["settled"]) == p.settled, (when, name, money, p.settled)
            assert micro(money["limit"]) == p.limit, (when, name, money, p.limit)
        open_ = {d["number"]: d["open"] for d in self.call("GET", "billing/invoices?limit=500")["items"]}
        for number, paper in r.papers.items():
            if not paper.corrects:
                assert open_[number] == coins(paper.open), (when, number, open_[number], paper)

    def settle(self) -> None:
        """What each centre is to be paid, signed by both."""
        with self.services.db.read() as conn:
            assert books.check_books(conn) == []
        until = self.clock.now + DAY
        for c, currency in zip(CENTRES, ("CNY", "EUR"), strict=True):
            self.clock.now = until
            made = self.call("POST", "billing/settlements", {"centre": c.id, "since": self.first.isoformat(),
                                                             "until": until.isoformat()})  # fmt: skip
            earned = -self.reckoner.accounts[f"centre:{c.id}:payable", currency]
            assert micro(made["centre_share"]) == micro(made["net"]) == earned, (made, earned)
