"""A centre's site file: its quirks as data. Unknown words are refused; secrets are named by file, not written here.

`python -m site_adapters.config FILE…` says what is wrong with site files; without a file it prints their JSON schema.
"""

from __future__ import annotations

import base64
import json
import re
import sys
import zoneinfo
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import (
    AfterValidator,
    AwareDatetime,
    Field,
    ValidationError,
    field_validator,
    model_validator,
)

from site_adapters.dialect_config import File, Login, NorthboundConfig, PbsConfig, Strict, SunwayConfig
from site_adapters.states import PermissionModel
from site_adapters.types import Policy

_HOST_KEYS = ("ssh-ed25519", "ecdsa-sha2-nistp256", "ecdsa-sha2-nistp384", "ecdsa-sha2-nistp521", "ssh-rsa")


def _host_key(line: str) -> str:
    """The line that `ssh-keyscan` prints, without the host's name."""
    kind, _, rest = line.strip().partition(" ")
    if kind not in _HOST_KEYS:
        raise ValueError(f"it must begin with one of {', '.join(_HOST_KEYS)}")
    try:
        blob = base64.b64decode((rest.split() or [""])[0], validate=True)
    except ValueError:
        raise ValueError("the part after the type is no base64") from None
    if blob[4 : 4 + len(kind)] != kind.encode() or int.from_bytes(blob[:4], "big") != len(kind):
        raise ValueError("the key is not of the type that is written before it, or it was cut")
    return line.strip()


SITE_NAME = r"^[a-z][a-z0-9-]{1,30}$"
_Name = Annotated[str, Field(pattern=SITE_NAME)]
_Clock = Annotated[str, Field(pattern=r"^([01]\d|2[0-3]):[0-5]\d$")]
_Word = Annotated[str, Field(min_length=1, pattern=r"^[^\x00\n]+$")]
_Countable = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_.-]{0,31}$")]
_VariableName = Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")]
_Value = Annotated[str, Field(pattern=r"^[^\x00]*$")]
_Port = Annotated[int, Field(ge=1, le=65535)]
_HostKey = Annotated[str, AfterValidator(_host_key)]


class SshHop(Strict):
    """A host to pass through on the way to the login node."""

    host: _Word
    port: _Port = 22
    host_key: _HostKey = Field(description="The pinned key: `ssh-ed25519 AAAA…`")
    username: Login
    key_file: File


class TransportConfig(Strict):
    """How commands reach the site."""

    kind: Literal["local", "ssh", "http"]
    host: str = ""
    port: _Port = 22
    host_key: _HostKey = Field(default="", description="The pinned key of the login node: `ssh-ed25519 AAAA…`")
    jump: SshHop | None = None
    channels_max: int = Field(default=5, ge=1, le=10, description="sshd allows 10 sessions per connection by default")
    connect_timeout_s: float = Field(default=10.0, gt=0)
    keepalive_s: int = Field(default=15, ge=0)
    idle_close_s: float = Field(default=600.0, gt=0, description="A login that was not used for so long is closed")
    switch_user: bool = Field(default=False, description="local only: as root, act as the person")

    @model_validator(mode="after")
    def _complete(self) -> TransportConfig:
        if self.kind == "ssh" and not (self.host and self.host_key):
            raise ValueError("an ssh transport needs `host` and `host_key`")
        if self.kind != "ssh" and (self.host or self.host_key or self.jump):
            raise ValueError("only an ssh transport has `host`, `host_key` and `jump`: should `kind` be ssh?")
        if self.kind == "ssh" and self.switch_user:
            raise ValueError("`switch_user` is for the local transport")
        return self


class CredentialConfig(Strict):
    """A login of the gateway itself at the site, with the file that holds its private key."""

    username: Login
    key_file: File | None = None


class CredentialsConfig(Strict):
    """Whose power is used beside the people's own: who sees the queue, who reads accounting, who opens accounts."""

    observer: CredentialConfig | None = None
    meter: CredentialConfig | None = None
    provisioner: CredentialConfig | None = None


class RestConfig(Strict):
    """slurmrestd: its address, API version, and how to get tokens (a key to mint them, or one service token)."""

    url: str = Field(pattern=r"^https?://")
    api: str = Field(default="v0.0.38", pattern=r"^v\d+\.\d+\.\d+$")
    jwt_key_file: File | None = None
    token_file: File | None = None


class SubmitConfig(Strict):
    """Flags of the submit command that this centre adds or does not allow."""

    extra: tuple[str, ...] = ()
    forbidden: tuple[str, ...] = ()
    required: tuple[str, ...] = Field(default=(), description="Long options that a job must carry, e.g. account")


class QueueConfig(Strict):
    """A queue as people call it, and its native name."""

    native: _Word
    exclusive: bool = False


class ErrorRuleConfig(Strict):
    """A text of this centre (a regular expression) and the class of error that it is."""

    match: re.Pattern[str]
    means: Literal["busy", "refused", "not_found", "unreachable"] = Field(alias="class")


class AccountingConfig(Strict):
    """Whether the scheduler keeps accounting. How cores are counted in it is in the agreement, signed by both sides."""

    kept: bool = True


class DockConfig(Strict):
    """A centre that runs `penstock-site`: it is called over HTTP (service), or it dials in (agent)."""

    kind: Literal["service", "agent"]
    url: str = Field(default="", pattern=r"^(https?://.+)?$", description="Of the centre's service")
    ca_file: File | None = Field(default=None, description="CA of its certificate, where it is no public one")
    gateway: str = Field(default="penstock", pattern=r"^[A-Za-z0-9._-]{1,64}$", description="Our name in tokens")
    key_file: File = Field(description="Our private key towards this centre, made by `gateway admin dock`")
    centre_keys: tuple[str, ...] = Field(min_length=1, description="`ed25519:…`, as `penstock-site key` prints it")
    connect_timeout_s: float = Field(default=5.0, gt=0)

    @model_validator(mode="after")
    def _complete(self) -> DockConfig:
        if (self.kind == "service") != bool(self.url):
            raise ValueError("a service has a `url`, an agent has none")
        return self


class PolicyConfig(Strict):
    """The centre's own limits on what we may do there."""

    queued_jobs_max: int | None = Field(default=None, ge=1)
    queued_jobs_per_person_max: int | None = Field(default=None, ge=1)
    submits_per_minute: int | None = Field(default=None, ge=1)
    logins_per_second: float = Field(default=2.0, gt=0)
    cores_max: int | None = Field(default=None, ge=1)
    nodes_max: int | None = Field(default=None, ge=1)
    duration_max: int | None = Field(default=None, ge=1)
    array_tasks_max: int | None = Field(default=None, ge=1)
    hours: tuple[tuple[_Clock, _Clock], ...] = Field(default=(), description="When we may submit, by the site's clock")
    permission_model: PermissionModel = PermissionModel.OWN_ACCOUNT
    calls_per_minute: int | None = Field(default=None, ge=6, description="Calls that ask the scheduler, all together")
    cores_in_use_max: int | None = Field(default=None, ge=1, description="Of all our jobs there, waiting ones included")
    nodes_in_use_max: int | None = Field(default=None, ge=1)
    people_admitted: tuple[_Word, ...] = Field(default=(), description="Ids of people, or patterns; none: everybody")
    projects_admitted: tuple[_Word, ...] = Field(default=(), description="Ids of projects, or patterns")
    qos_allowed: tuple[_Word, ...] = Field(default=(), description="The first one is given to jobs that name none")
    share_core_seconds: int | None = Field(default=None, ge=1, description="The contracted share, in core-seconds")
    share_until: AwareDatetime | None = None
    log_interval_s: float = Field(default=0.0, ge=0, le=60, description="Between two looks at one output")
    log_bytes_max: int | None = Field(default=None, ge=1024, description="Of one look at an output")
    verbs_refused: tuple[_Word, ...] = Field(default=(), description="Verbs of IF2, as `management.modify`, `orders.*`")
    countables: tuple[_Countable, ...] = Field(
        default=(),
        description="What jobs ask for by number and the meter tells (shots): Slurm's licences of that name",
    )
    referral_url: str = ""


class SiteConfig(Strict):
    """One centre."""

    site: _Name
    title: dict[Literal["en", "zh"], str] = Field(default_factory=dict)
    scheduler: Literal["local", "slurm", "pbs", "sunway", "northbound", "if2"]
    transport: TransportConfig = Field(
        default=TransportConfig(kind="local"), description="Needed unless `dock` is there"
    )
    dock: DockConfig | None = None
    credentials: CredentialsConfig = CredentialsConfig()
    staging_root: str = Field(
        default="{home}/.penstock",
        pattern=r"^(\{home\}|/)[^\x00\n]*$",
        description="Folder on shared storage, writable by each account; {home}: its home, {user}: the last part of it",
    )
    commands: dict[str, _Word] = Field(default_factory=dict, description="Renamed commands: sbatch: yhbatch")
    environment: dict[_VariableName, _Value] = Field(default_factory=dict, description="Set for every command there")
    submit: SubmitConfig = SubmitConfig()
    backend: Literal["cli", "rest", "pyslurm"] = "cli"
    rest: RestConfig | None = None
    pbs: PbsConfig = PbsConfig()
    sunway: SunwayConfig = SunwayConfig()
    northbound: NorthboundConfig | None = None
    queues: dict[str, QueueConfig] = Field(default_factory=dict)
    errors: tuple[ErrorRuleConfig, ...] = ()
    zone: str = "UTC"
    policy: PolicyConfig = PolicyConfig()
    enforce_walltime: bool = Field(default=False, description="The gateway itself cancels what runs too long")
    accounting: AccountingConfig = AccountingConfig()
    lost_after_s: float = Field(
        default=300.0, ge=0, le=604_800, description="A job is lost when good looks have missed it for at least so long"
    )

    @field_validator("zone")
    @classmethod
    def _zone_exists(cls, zone: str) -> str:
        if zone not in zoneinfo.available_timezones():
            raise ValueError(f"no time zone {zone!r}")
        return zone

    @model_validator(mode="after")
    def _consistent(self) -> SiteConfig:
        if (self.scheduler == "if2") != (self.dock is not None):
            raise ValueError("scheduler if2 needs a `dock` section, and no other scheduler has one")
        if self.dock is None and "transport" not in self.model_fields_set:
            raise ValueError("a `transport` section is needed")
        if self.backend == "rest" and self.rest is None:
            raise ValueError("backend rest needs a `rest` section")
        if self.scheduler == "local" and (self.transport.kind != "local" or self.backend != "cli"):
            raise ValueError("scheduler local runs on this machine only: transport kind local, backend cli")
        if (self.transport.kind == "http") != (self.scheduler == "northbound"):
            raise ValueError("transport kind http and scheduler northbound belong together")
        if self.scheduler == "northbound" and self.northbound is None:
            raise ValueError("scheduler northbound needs a `northbound` section")
        if self.policy.countables and self.scheduler not in ("local", "slurm", "if2"):
            raise ValueError(f"countables: no meter of scheduler {self.scheduler} tells them")
        if timed := [name for name in self.policy.countables if name.endswith("-seconds")]:
            raise ValueError(f"countables: {timed[0]} is timed, not counted")
        if self.backend != "cli" and self.scheduler != "slurm":
            raise ValueError(f"backend {self.backend} is for Slurm")
        for name in ("pbs", "sunway", "northbound"):
            if name in self.model_fields_set and self.scheduler != name:
                raise ValueError(f"a `{name}` section is for scheduler {name}")
        return self

    def binding_policy(self) -> Policy:
        """The policy as the waiting line reads it."""
        return Policy(**self.policy.model_dump(), zone=self.zone)

    def native_queue(self, name: str) -> str:
        """The scheduler's name of a queue."""
        queue = self.queues.get(name)
        return queue.native if queue is not None else name

    def command(self, name: str) -> str:
        """The centre's name for a command."""
        return self.commands.get(name, name)


@dataclass(frozen=True, slots=True)
class BrokenSite:
    """A site file that cannot be used, with every reason."""

    site: str
    reasons: tuple[str, ...]


def load_sites(folder: Path) -> list[SiteConfig | BrokenSite]:
    """Every `*.yaml` of a folder; a broken one closes that site only, and of two files for one site the second."""
    loaded: list[SiteConfig | BrokenSite] = []
    seen: dict[str, str] = {}
    for path in sorted(folder.glob("*.yaml")):
        site = load_site(path)
        first = seen.setdefault(site.site, path.name)
        if first != path.name:
            reason = f"{path.name}: {first} describes site {site.site} already"
            before = site.reasons if isinstance(site, BrokenSite) else ()
            site = BrokenSite(_name_of(path), (reason, *before))
        loaded.append(site)
    return loaded


def load_site(path: Path) -> SiteConfig | BrokenSite:
    """One site file, or all the reasons why not, each with its line; file names inside are relative to its folder."""
    try:
        text = path.read_text("utf-8")
        tree = yaml.compose(text, Loader=yaml.SafeLoader)
        content = yaml.safe_load(text)
        reasons = [f"{path.name} {reason}" for reason in _twice(tree)]
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as exc:
        return BrokenSite(_name_of(path), (f"{path.name}: {' '.join(str(exc).split())}",))
    if not isinstance(content, dict):
        return BrokenSite(_name_of(path), (f"{path.name}: it must be a mapping that begins with `site:`",))
    name = content.get("site")
    broken = BrokenSite(name if isinstance(name, str) and re.fullmatch(_NAME, name) else _name_of(path), ())
    try:
        config = SiteConfig.model_validate(content, context={"folder": path.parent})
    except ValidationError as exc:
        reasons += [f"{path.name} {_in_words(error, tree)}" for error in exc.errors()]
        return replace(broken, reasons=tuple(reasons))
    return replace(broken, reasons=tuple(reasons)) if reasons else config


_NAME = r"[a-z][a-z0-9-]{1,30}"


def _name_of(path: Path) -> str:
    return re.sub(r"[^a-z0-9-]", "-", path.stem.lower())


def _twice(node: yaml.Node | None) -> list[str]:
    """YAML takes the last of two equal keys without a word."""
    if not isinstance(node, yaml.MappingNode):
        return []
    found, seen = [], set()
    for key, value in node.value:
        if key.value in seen:
            found.append(f"line {key.start_mark.line + 1}: `{key.value}` is there twice")
        if isinstance(key, yaml.ScalarNode):
            seen.add(key.value)
        found += _twice(value)
    return found


def _in_words(error: Any, tree: yaml.Node | None) -> str:
    place = ".".join(str(part) for part in error["loc"]) or "the file"
    remedy = ""
    if error["type"] == "string_type" and isinstance(error["input"], int | float | bool):
        remedy = " (put it in quotes: YAML reads it as a number, a time or yes/no)"
    if error["type"] == "extra_forbidden":
        return f"line {_line(tree, error['loc'])}: {place}: there is no such word in a site file"
    return f"line {_line(tree, error['loc'])}: {place}: {error['msg'].removeprefix('Value error, ')}{remedy}"


def _line(node: yaml.Node | None, location: tuple[int | str, ...]) -> int:
    """Where in the file the innermost part is that the location names."""
    line = 1 if node is None else node.start_mark.line + 1
    for part in location:
        if isinstance(node, yaml.MappingNode):
            pair = next(((k, v) for k, v in node.value if k.value == str(part)), None)
        elif isinstance(node, yaml.SequenceNode) and isinstance(part, int) and part < len(node.value):
            pair = (node.value[part], node.value[part])
        else:
            pair = None
        if pair is None:
            return line
        line, node = pair[0].start_mark.line + 1, pair[1]
    return line


def schema_text() -> str:
    """The JSON schema of site files, as it stands in `site_configs/schema.json`."""
    schema = {"$schema": "https://json-schema.org/draft/2020-12/schema", **SiteConfig.model_json_schema()}
    return json.dumps(schema, indent=1, ensure_ascii=False) + "\n"


def main(names: list[str]) -> int:
    """Check site files, or print the schema; the exit code says whether all were good."""
    if not names:
        print(schema_text(), end="")
    results = {name: load_site(Path(name)) for name in names}
    for name, site in results.items():
        reasons = site.reasons if isinstance(site, BrokenSite) else (f"{name}: good",)
        print("\n".join(reasons))
    return int(any(isinstance(site, BrokenSite) for site in results.values()))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
