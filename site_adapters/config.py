"""A centre's site file: its quirks as data. Unknown words are refused; secrets are named by file, not written here."""

from __future__ import annotations

import re
import zoneinfo
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from site_adapters.states import PermissionModel
from site_adapters.types import Policy

_Name = Annotated[str, Field(pattern=r"^[a-z][a-z0-9-]{1,30}$")]
_Clock = Annotated[str, Field(pattern=r"^([01]\d|2[0-3]):[0-5]\d$")]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class SshHop(_Strict):
    """A host to pass through on the way to the login node."""

    host: str
    port: int = 22
    host_key: str = Field(description="The pinned key: `ssh-ed25519 AAAA…`")
    username: str
    key_file: Path


class TransportConfig(_Strict):
    """How commands reach the site."""

    kind: Literal["local", "ssh"]
    host: str = ""
    port: int = 22
    host_key: str = Field(default="", description="The pinned key of the login node: `ssh-ed25519 AAAA…`")
    jump: SshHop | None = None
    channels_max: int = Field(default=5, ge=1, le=10, description="sshd allows 10 sessions per connection by default")
    connect_timeout_s: float = Field(default=10.0, gt=0)
    keepalive_s: int = Field(default=15, ge=0)
    idle_close_s: float = Field(default=600.0, gt=0)
    switch_user: bool = Field(default=False, description="local only: as root, act as the person")

    @model_validator(mode="after")
    def _complete(self) -> TransportConfig:
        if self.kind == "ssh" and not (self.host and self.host_key):
            raise ValueError("an ssh transport needs `host` and `host_key`")
        return self


class CredentialConfig(_Strict):
    """A login of the gateway itself at the site, with the file that holds its private key."""

    username: str
    key_file: Path | None = None


class CredentialsConfig(_Strict):
    """Whose power is used beside the people's own: who sees the queue, who reads accounting, who opens accounts."""

    observer: CredentialConfig | None = None
    meter: CredentialConfig | None = None
    provisioner: CredentialConfig | None = None


class RestConfig(_Strict):
    """slurmrestd: its address, API version, and how to get tokens (a key to mint them, or one service token)."""

    url: str
    api: str = "v0.0.38"
    jwt_key_file: Path | None = None
    token_file: Path | None = None


class SubmitConfig(_Strict):
    """Flags of the submit command that this centre adds or does not allow."""

    extra: tuple[str, ...] = ()
    forbidden: tuple[str, ...] = ()
    required: tuple[str, ...] = Field(default=(), description="Long options that a job must carry, e.g. account")


class QueueConfig(_Strict):
    """A queue as people call it, and its native name."""

    native: str
    exclusive: bool = False


class ErrorRuleConfig(_Strict):
    """A text of this centre and what it means."""

    match: re.Pattern[str]
    means: Literal["busy", "refused", "not_found", "unreachable"]


class AccountingConfig(_Strict):
    """Whether the scheduler keeps accounting, and how cores are counted in it."""

    kept: bool = True
    cpus_per_core: int = Field(default=1, ge=1, le=8)


class PolicyConfig(_Strict):
    """The centre's own limits on what we may do there."""

    queued_jobs_max: int | None = Field(default=None, ge=1)
    queued_jobs_per_person_max: int | None = Field(default=None, ge=1)
    submits_per_minute: int | None = Field(default=None, ge=1)
    logins_per_second: float = Field(default=2.0, gt=0)
    cores_max: int | None = Field(default=None, ge=1)
    nodes_max: int | None = Field(default=None, ge=1)
    duration_max: int | None = Field(default=None, ge=1)
    array_tasks_max: int | None = Field(default=None, ge=1)
    hours: tuple[tuple[_Clock, _Clock], ...] = ()
    permission_model: PermissionModel = PermissionModel.OWN_ACCOUNT


class SiteConfig(_Strict):
    """One centre."""

    site: _Name
    title: dict[Literal["en", "zh"], str] = Field(default_factory=dict)
    scheduler: Literal["local", "slurm"]
    transport: TransportConfig
    credentials: CredentialsConfig = CredentialsConfig()
    staging_root: str = Field(default="{home}/.penstock", description="Shared storage, writable by the account")
    commands: dict[str, str] = Field(default_factory=dict, description="Renamed commands: sbatch: yhbatch")
    environment: dict[str, str] = Field(default_factory=dict)
    submit: SubmitConfig = SubmitConfig()
    backend: Literal["cli", "rest", "pyslurm"] = "cli"
    rest: RestConfig | None = None
    queues: dict[str, QueueConfig] = Field(default_factory=dict)
    errors: tuple[ErrorRuleConfig, ...] = ()
    zone: str = "UTC"
    policy: PolicyConfig = PolicyConfig()
    enforce_walltime: bool = Field(default=False, description="The gateway itself cancels what runs too long")
    accounting: AccountingConfig = AccountingConfig()

    @field_validator("zone")
    @classmethod
    def _zone_exists(cls, zone: str) -> str:
        if zone not in zoneinfo.available_timezones():
            raise ValueError(f"no time zone {zone!r}")
        return zone

    @model_validator(mode="after")
    def _consistent(self) -> SiteConfig:
        if self.backend == "rest" and self.rest is None:
            raise ValueError("backend rest needs a `rest` section")
        return self

    def binding_policy(self) -> Policy:
        """The policy as the waiting line reads it."""
        return Policy(**self.policy.model_dump(), zone=self.zone)

    def command(self, name: str) -> str:
        """The centre's name for a command."""
        return self.commands.get(name, name)


@dataclass(frozen=True, slots=True)
class BrokenSite:
    """A site file that cannot be used, with every reason."""

    site: str
    reasons: tuple[str, ...]


def load_sites(folder: Path) -> list[SiteConfig | BrokenSite]:
    """Every `*.yaml` of a folder; a broken one closes that site only."""
    return [load_site(path) for path in sorted(folder.glob("*.yaml"))]


def load_site(path: Path) -> SiteConfig | BrokenSite:
    """One site file, or all the reasons why not; file names inside are relative to its folder."""
    name = re.sub(r"[^a-z0-9-]", "-", path.stem.lower())
    try:
        content = yaml.safe_load(path.read_text("utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as exc:
        return BrokenSite(name, (f"{path.name}: {exc}",))
    if not isinstance(content, dict):
        return BrokenSite(name, (f"{path.name}: it must be a mapping that begins with `site:`",))
    try:
        return SiteConfig.model_validate(content)
    except ValidationError as exc:
        reasons = tuple(
            f"{path.name}: {'.'.join(str(part) for part in e['loc']) or 'file'}: {e['msg']}" for e in exc.errors()
        )
        return BrokenSite(str(content.get("site", name)), reasons)
