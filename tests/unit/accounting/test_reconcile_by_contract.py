"""A comparison goes by the agreement that both sides signed: whom money is owed, what stands, what is billed."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from accounting.breaks import Act, Refused
from accounting.ledger import payable
from accounting.store import settlements
from tests import builders
from tests.builders import Gateway, local_site, make_gateway
from tests.unit.accounting.makers import LONG_AGO, agree, agreement, standing
from tests.unit.accounting.test_reconcile import act, compare, have, line, receive, row


@pytest.fixture
def gateway(db_url: str, tmp_path: Path) -> Iterator[Gateway]:
    made = make_gateway(tmp_path, db_url, local_site(tmp_path))
    yield made
    builders.OPENED.clear()
    made.services.close()


def signed(gateway: Gateway, **more: Any) -> None:
    agree(gateway.services.db, agreement(site_ids=("local",), **more))


def posted(gateway: Gateway, break_id: int) -> None:
    act(gateway, break_id, Act.PROPOSE, "admin", note="as billed", resolution="post")
    act(gateway, break_id, Act.COUNTERSIGN, "second")


def test_money_is_owed_to_the_centre_of_the_agreement_and_comes_into_its_settlement(gateway: Gateway) -> None:
    signed(gateway)
    have(gateway, row(1))
    share = -standing(gateway.services.db, payable("centre"))
    _, (item,) = compare(gateway, receive(gateway, line(1, amount="2.8936")))
    posted(gateway, item.row.id)
    assert standing(gateway.services.db, payable("local")) == 0
    assert -standing(gateway.services.db, payable("centre")) == share + 1_446_800
    end = gateway.services.clock() + timedelta(days=1)
    with gateway.services.db.write() as conn:
        drawn = settlements.draw(conn, settlement_id="s1", agreement=agreement(site_ids=("local",)), start=LONG_AGO,
                                 end=end, disputed={}, now=end)  # fmt: skip
    assert [payable("centre"), "CNY", str(share + 1_446_800)] in drawn.said["movements"]
    gateway.check_books()


def test_without_a_signed_agreement_no_money_is_booked_to_anybody(gateway: Gateway) -> None:
    have(gateway, row(1))
    _, (item,) = compare(gateway, receive(gateway, line(1, amount="2.8936")))
    with pytest.raises(Refused, match="no signed agreement"):
        posted(gateway, item.row.id)
