"""login, logout, whoami, token, account."""

from __future__ import annotations

import sys

import click

from penstock import config
from penstock.api import Client
from penstock.cli import report
from penstock.cli.shared import client, emit, json_option, table
from penstock.cli.texts import tr


@click.command()
@click.option("--token-stdin", is_flag=True, help="Read the token from standard input")
@click.argument("url")
def login(url: str, token_stdin: bool) -> int:
    """Keep the gateway at URL and a personal token."""
    token = sys.stdin.readline().strip() if token_stdin else click.prompt(tr("Token"), hide_input=True)
    with Client(url, token) as api:
        me = api.whoami()
    config.save(config.Profile(url.rstrip("/"), token))
    click.echo(tr("Logged in to {url} as {name}", url=url, name=me["name"]))
    return report.OK


@click.command()
def logout() -> int:
    """Forget the kept token."""
    config.forget()
    return report.OK


@click.command()
@json_option
def whoami(as_json: bool) -> int:
    """Who this token speaks for."""
    with client() as api:
        me = api.whoami()
    if as_json:
        emit(me)
    else:
        click.echo(f"{me['name']} ({', '.join(me['scopes'])})")
        if me["operator_admin"]:
            click.echo(tr("operator"))
        owned = sum(role == "owner" for role in me["projects"].values())
        if me["projects"]:
            click.echo(tr("projects: {count}, owner of {owned}", count=len(me["projects"]), owned=owned))
        if me["staff_of"]:
            click.echo(tr("works for {sites}", sites=", ".join(me["staff_of"])))
    return report.OK


@click.command()
@click.argument("address", required=False)
@click.option("--forget", is_flag=True, help="Tell me no more")
def mail(address: str | None, forget: bool) -> int:
    """Where I am told of my projects' budgets: show it, or set ADDRESS."""
    with client() as api:
        if forget:
            api.delete("whoami/mail")
        found = api.put("whoami/mail", {"address": address}) if address else api.get("whoami/mail")
    click.echo(found["address"] or tr("nowhere"))
    return report.OK


@click.group()
def token() -> None:
    """Issue, list and revoke tokens."""


@token.command("new")
@click.option("--name", default="")
@click.option("--scope", "scopes", multiple=True, default=("read", "submit"), show_default=True)
@click.option("--days", type=int, default=30, show_default=True)
@json_option
def token_new(name: str, scopes: tuple[str, ...], days: int, as_json: bool) -> int:
    """A new token; it is shown this once."""
    with client() as api:
        made = api.post("tokens", {"name": name, "scopes": list(scopes), "lifetime_days": days})
    if as_json:
        emit(made)
    else:
        click.echo(made["token"])
    return report.OK


@token.command("list")
@json_option
def token_list(as_json: bool) -> int:
    """My tokens."""
    with client() as api:
        found = api.get("tokens")["items"]
    if as_json:
        emit(found)
        return report.OK
    rows = [(t["id"], t["name"], " ".join(t["scopes"]), t["expires_at"], t["revoked_at"] or "–") for t in found]
    table(rows, ("ID", "NAME", "SCOPES", "EXPIRES", "REVOKED"))
    return report.OK


@token.command("revoke")
@click.argument("token_id")
def token_revoke(token_id: str) -> int:
    """End a token, everywhere within a second."""
    with client() as api:
        api.delete(f"tokens/{token_id}")
    return report.OK


@click.group()
def account() -> None:
    """Link and verify logins at sites."""


@account.command("link")
@click.option("--key-file", type=click.Path(exists=True), help="A private key of yours, without passphrase")
@click.argument("site")
@click.argument("username")
def account_link(site: str, username: str, key_file: str | None) -> int:
    """Claim your USERNAME at SITE; prints the key to install there."""
    body = {"site": site, "username": username}
    if key_file:
        from pathlib import Path

        body["private_key"] = Path(key_file).read_text("utf-8")
    with client() as api:
        made = api.post("site-accounts", body)
    click.echo(f"{made['id']}\n{made['public_key']}\n{made['next']}  penstock account verify {made['id']}")
    return report.OK


@account.command("verify")
@click.argument("account_id")
def account_verify(account_id: str) -> int:
    """Prove a claim: the gateway logs in with the key."""
    with client() as api:
        api.post(f"site-accounts/{account_id}/verify", {})
    click.echo(tr("verified"))
    return report.OK


@account.command("suspend")
@click.argument("account_id")
def account_suspend(account_id: str) -> int:
    """Let the gateway use this login no more; its key is forgotten."""
    with client() as api:
        api.delete(f"site-accounts/{account_id}")
    click.echo(tr("suspended"))
    return report.OK


@account.command("list")
@json_option
def account_list(as_json: bool) -> int:
    """My logins at the sites."""
    with client() as api:
        found = api.get("site-accounts")["items"]
    if as_json:
        emit(found)
        return report.OK
    rows = [(a["id"], a["site"], a["username"], a["status"]) for a in found]
    table(rows, ("ID", "SITE", "LOGIN", "STATUS"))
    return report.OK
