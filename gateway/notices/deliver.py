"""Tick: carry out what the outbox of notices holds. No transaction is open while somebody is spoken to."""

from __future__ import annotations

import json
from datetime import datetime

import structlog
from sqlalchemy import Connection

from gateway.errors import Refused
from gateway.jobs import repository
from gateway.notices import addresses, mail, outbox, webhook
from gateway.notices.outbox import Delivery
from gateway.services import Lease, Services

log = structlog.get_logger()

_AT_ONCE = 20


def ways(services: Services, conn: Connection, project_id: str) -> list[tuple[str, str]]:
    """(channel, recipient) of what is put now about a project."""
    found = [(outbox.WEBHOOK, "")] if services.settings.webhook_url is not None else []
    if services.settings.smtp_host is not None:
        found += [(outbox.MAIL, user_id) for user_id in addresses.owners_with_address(conn, project_id)]
    return found


def deliver(services: Services, lease: Lease, now: datetime) -> int:
    """How many were taken. Every site's worker may run it: each delivery is claimed by one of them."""
    with services.db.read() as conn:
        if not outbox.is_any_due(conn, now=now):
            return 0
    count = 0
    for _ in range(_AT_ONCE):
        with services.db.write() as conn:
            repository.assert_served_by(conn, lease)
            found = outbox.claim(conn, now=services.clock())
        if found is None:
            break
        count += _carry(services, lease, found)
    return count


def _carry(services: Services, lease: Lease, what: Delivery) -> bool:
    error = ""
    try:
        _send(services, what)
    except (webhook.NotDelivered, Refused) as exc:  # Refused: a file of the secret that holds none
        error = str(exc)
    with services.db.write() as conn:
        repository.assert_served_by(conn, lease)
        if not error:
            outbox.delivered(conn, what, now=services.clock())
            return True
        over = outbox.failed(conn, what, error, now=services.clock())
    log.warning("notice_given_up" if over else "notice_not_delivered", notice=what.notice_id, channel=what.channel,
                tries=what.tries, why=error)  # fmt: skip
    return False


def _send(services: Services, what: Delivery) -> None:
    settings = services.settings
    if what.channel == outbox.MAIL:
        with services.db.read() as conn:
            address = addresses.address_of(conn, what.recipient)
        if address is None or settings.smtp_host is None:
            raise webhook.NotDelivered("there is no address, or no mail server, any more")
        mail.send(settings, address, json.loads(what.body)["data"], now=services.clock())
        return
    if settings.webhook_url is None:
        raise webhook.NotDelivered("no webhook is configured any more")
    secret = webhook.load_or_create_secret(settings.effective_webhook_secret_file)
    webhook.post(str(settings.webhook_url), secret, what.notice_id, what.body.encode(), now=services.clock(),
                 timeout_s=settings.webhook_timeout_s)  # fmt: skip
