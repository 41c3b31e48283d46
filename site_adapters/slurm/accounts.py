"""Accounts, associations, QOS and limits by sacctmgr, with the provisioner's login; each call may be repeated."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field

from site_adapters.command import Command, Output
from site_adapters.config import SiteConfig
from site_adapters.errors import CommandFailed, CredentialRefused, Refused
from site_adapters.slurm.commands import classify
from site_adapters.slurm.resource import cluster_name
from site_adapters.transport import Connection

_LOGIN = re.compile(r"[A-Za-z_][A-Za-z0-9._-]{0,31}\Z")
_SLUG = re.compile(r"[^a-z0-9_]+")


def sacctmgr(program: str, *words: str) -> Command[Output]:
    """A change, at once (`-i`). Exit 1 with "nothing new" or "nothing modified" is a change that was made before."""
    return Command((program, "-i", *words), _changed, write=True, deadline_s=60.0)


def _changed(output: Output) -> Output:
    text = output.error_text.lower()
    if output.exit_code == 0 or "nothing new added" in text or "nothing modified" in text:
        return output
    raise classify(output)


@dataclass(frozen=True, slots=True)
class SlurmProvisioner:
    """One cluster's accounts: each change names the cluster, for slurmdbd would make it in all of them.

    QOS alone belong to no cluster. `parent` is the account below which ours are made; `hook` makes a login.
    """

    config: SiteConfig
    connection: Connection | None
    parent: str = "root"
    hook: tuple[str, ...] = ()
    _cluster: list[str] = field(default_factory=list)  # its name, once asked for

    def account_name(self, project: str) -> str:
        slug = _SLUG.sub("_", project.lower()).strip("_")[:30]
        if not slug:
            raise Refused(f"{project!r} gives no account name", code="order_content")
        return f"pn_{slug}"

    def open_project(self, project: str, *, core_seconds: int | None, users: Sequence[str]) -> str:
        account = self.account_name(project)
        self._change("add", "account", account, self._here(), f"parent={self.parent}", "description=penstock",
                     "organization=penstock")  # fmt: skip
        # Slurm counts in minutes; rounded down, so that the cap is never above what was sold.
        cap = -1 if core_seconds is None else core_seconds // 60
        self._change("modify", "account", "where", f"name={account}", self._here(), "set", f"GrpTRESMins=cpu={cap}",
                     "MaxSubmitJobs=-1", "GrpSubmitJobs=-1")  # fmt: skip
        for username in users:
            self._change("add", "user", _login(username), self._here(), f"account={account}")
        return account

    def open_user(self, project: str, username: str) -> str:
        account = self.account_name(project)
        self._change("add", "account", account, self._here(), f"parent={self.parent}", "description=penstock",
                     "organization=penstock")  # fmt: skip
        self._change("add", "user", _login(username), self._here(), f"account={account}")
        self._change(
            "modify", "user", "where", f"name={username}", f"account={account}", self._here(), "set", "MaxSubmitJobs=-1"
        )
        return account

    def open_share(self, project: str, *, cores: int, queue: str | None, order_id: str) -> str:
        account, qos = self.account_name(project), self._qos(order_id)
        self._change("add", "account", account, self._here(), f"parent={self.parent}", "description=penstock",
                     "organization=penstock")  # fmt: skip
        self._change("add", "qos", qos)
        self._change("modify", "qos", "where", f"name={qos}", "set", f"GrpTRES=cpu={cores}",
                     "Flags=DenyOnLimit", "MaxSubmitJobsPerUser=-1")  # fmt: skip
        self._change("modify", "account", "where", f"name={account}", self._here(), "set", f"qos+={qos}")
        return qos

    def close_project(self, project: str) -> None:
        account = self.account_name(project)
        self._change("modify", "account", "where", f"name={account}", self._here(), "set", "GrpSubmitJobs=0")

    def close_user(self, project: str, username: str) -> None:
        account = self.account_name(project)
        self._change("modify", "user", "where", f"name={_login(username)}", f"account={account}", self._here(), "set",
                     "MaxSubmitJobs=0")  # fmt: skip

    def close_share(self, project: str, order_id: str) -> None:
        self._change("modify", "qos", "where", f"name={self._qos(order_id)}", "set", "MaxSubmitJobsPerUser=0")

    def shut_login(self, username: str, *, shut: bool) -> None:
        self._change(
            "modify",
            "user",
            "where",
            f"name={_login(username)}",
            self._here(),
            "set",
            f"MaxSubmitJobs={0 if shut else -1}",
        )

    def login_of(self, username: str, project: str) -> str:
        """The login, made by the centre's own hook where the operating system does not know it."""
        _login(username)
        known = Command(("id", "-u", username), lambda out: out.exit_code == 0, deadline_s=20.0)
        if self._provisioner().run(known):
            return username
        if not self.hook:
            raise Refused(f"there is no login {username} here, and the centre makes none for us", code="no_login")
        words = tuple(word.replace("{username}", username).replace("{project}", project) for word in self.hook)
        made = self._provisioner().run(Command(words, lambda out: out, write=True, deadline_s=120.0))
        if made.exit_code != 0 or not self._provisioner().run(known):
            raise CommandFailed(f"the centre's command made no login {username}", native_text=made.error_text)
        return username

    def _qos(self, order_id: str) -> str:
        return f"pn_{_SLUG.sub('_', order_id.lower()).strip('_')[:40]}"

    def _here(self) -> str:
        if not self._cluster:
            self._cluster.append(self._provisioner().run(cluster_name(self.config.command("scontrol"))))
        return f"cluster={self._cluster[0]}"

    def _change(self, *words: str) -> None:
        self._provisioner().run(sacctmgr(self.config.command("sacctmgr"), *words))

    def _provisioner(self) -> Connection:
        if self.connection is None:
            raise CredentialRefused("no provisioner is configured: only the centre opens accounts")
        return self.connection


def _login(username: str) -> str:
    if not _LOGIN.match(username):
        raise Refused(f"{username!r} is no login name", code="order_content")
    return username
