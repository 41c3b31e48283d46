"""Send a notice by e-mail, in English and Chinese, to a person who has said where to."""

from __future__ import annotations

import smtplib
import ssl
from collections.abc import Mapping
from datetime import datetime
from email.message import EmailMessage
from email.utils import format_datetime
from typing import Any

from gateway.notices.webhook import NotDelivered
from gateway.settings import Settings


def send(settings: Settings, address: str, data: Mapping[str, Any], *, now: datetime) -> None:
    """Hand it to the mail server; raises `NotDelivered` where that does not take it. TLS is verified."""
    try:
        message = letter(settings.mail_from, address, data, now=now)
        with _connection(settings) as server:
            if settings.smtp_username:
                server.login(settings.smtp_username, _password(settings))
            server.send_message(message)
    except (smtplib.SMTPException, OSError, ValueError) as exc:
        raise NotDelivered(f"{type(exc).__name__}: {exc}".replace(address, "…")) from exc


def letter(sender: str, address: str, data: Mapping[str, Any], *, now: datetime) -> EmailMessage:
    """The same notice is the same message, by its id, at each try."""
    percent, project, currency = data["threshold_percent"], data["project"], data["currency"]
    figures = f"{data['spent']} + {data['held']} / {data['amount']} {currency}"
    stops = data["stops_submissions"]
    message = EmailMessage()
    message["From"], message["To"] = sender, address
    message["Subject"] = f"{project}: {percent} % of a budget / 预算已达 {percent} %"
    message["Date"] = format_datetime(now)
    message["Message-ID"] = f"<{data['id']}@{sender.rpartition('@')[2].rstrip('>')}>"
    message["Auto-Submitted"] = "auto-generated"
    message.set_content(
        f"{percent} % of a budget of project {project} is spent or held by jobs.\n"
        f"Charged {data['spent']}, held {data['held']}, of {data['amount']} {currency} ({data['span']}).\n"
        + ("Nothing more can be submitted.\n" if stops else "")
        + f"More: penstock billing budget {project}\n\n"
        f"项目 {project} 的预算已用或占用 {percent} %：{figures}（{'本月' if data['span'] == 'month' else '累计'}）。\n"
        + ("不能再提交作业。\n" if stops else "")
    )
    return message


def _connection(settings: Settings) -> smtplib.SMTP:
    host, port, timeout_s = settings.smtp_host or "", settings.smtp_port, settings.webhook_timeout_s
    if settings.smtp_security == "tls":
        return smtplib.SMTP_SSL(host, port, timeout=timeout_s, context=ssl.create_default_context())
    server = smtplib.SMTP(host, port, timeout=timeout_s)
    if settings.smtp_security == "starttls":
        try:
            server.starttls(context=ssl.create_default_context())
        except BaseException:
            server.close()
            raise
    return server


def _password(settings: Settings) -> str:
    return settings.smtp_password_file.read_text("utf-8").strip() if settings.smtp_password_file is not None else ""
