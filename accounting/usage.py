"""A usage record: what one run took, in integer resource-seconds, with the raw record it was read from."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from datetime import datetime
from enum import StrEnum
from typing import Any

from msgspec import Struct
from msgspec.structs import replace

from accounting.json_text import sorted_json

CORE_SECONDS, GPU_SECONDS, NODE_SECONDS, MEMORY = "core_seconds", "gpu_seconds", "node_seconds", "memory_mib_seconds"
SECONDS = (CORE_SECONDS, GPU_SECONDS, NODE_SECONDS, MEMORY)
# Ends the key of what a run took before its size changed: no run of its own (`sacct`).
RESIZING = ":resizing"
# What is counted and not timed; in small letters, so that none is taken for a currency.
UNIT = re.compile(r"[a-z][a-z0-9_.-]{0,31}\Z")
_COUNTED = (*SECONDS, "cores", "nodes", "elapsed_s", "suspended_s")


class Meter(StrEnum):
    """Whose reading it is: the gateway's is provisional, the centre's governs."""

    GATEWAY = "gateway"
    CENTRE = "centre"


class Kind(StrEnum):
    """What kind of run it was."""

    RUN = "run"  # had resources
    NEVER_RAN = "never_ran"  # canceled or refused before it had any
    FENCED_COPY = "fenced_copy"  # a late copy that the fence turned away; never charged
    TOLD_AGAIN = "told_again"  # both sides have settled that it is another run, told under another key


class UsageRecord(Struct, frozen=True, gc=False):
    """One run at one site. Times are aware UTC, quantities integers; `core_seconds` = allocated cores × elapsed.

    `run_key` is unique at the site for ever (a scheduler's job id is not: ids are used again). `task` is the array
    index, None where the job is no array. What a policy may choose between is kept side by side: `cores` allocated and
    `requested_cores` asked for, `elapsed_s` without and `wall_s` with suspension, `cpus` as the scheduler counts them
    (threads, where `threads_per_core` > 1), whole nodes where `exclusive`. None: the source does not say.
    `units` are countables of other kinds, such as quantum shots; as a resource each is `unit:<name>`.
    """

    site_id: str
    run_key: str
    meter: Meter
    kind: Kind
    native_id: str
    state: str
    username: str
    cores: int
    nodes: int
    elapsed_s: int
    core_seconds: int
    node_seconds: int
    gpu_seconds: int = 0
    memory_mib_seconds: int = 0
    suspended_s: int = 0
    task: int | None = None
    job_name: str = ""
    account: str = ""
    queue: str = ""
    qos: str = ""
    submit_time: datetime | None = None
    start_time: datetime | None = None
    end_time: datetime | None = None
    tag: str = ""
    estimated: bool = False
    units: Mapping[str, int] = {}
    exclusive: bool = False
    requested_cores: int | None = None
    cpus: int | None = None
    threads_per_core: int = 1
    raw: Mapping[str, Any] = {}

    def __post_init__(self) -> None:
        counted = (self.core_seconds, self.gpu_seconds, self.node_seconds, self.memory_mib_seconds, self.cores,
                   self.nodes, self.elapsed_s, self.suspended_s)  # fmt: skip
        if set(map(type, counted)) != {int} or min(counted) < 0:
            for name in _COUNTED:
                _whole(name, getattr(self, name))
        if self.threads_per_core < 1:
            raise ValueError("a core has at least one thread")
        for name, value in self.units.items():
            _whole(name, value)
            if not UNIT.match(name) or name.endswith("-seconds"):
                raise ValueError(f"{name!r} is no name of a unit: small letters, digits, and not `…-seconds`")

    def sealed(self, raw: Mapping[str, Any], *, username: str) -> UsageRecord:
        """The same reading as it is kept: with another raw record and login, and without the job's name."""
        return replace(self, raw=raw, username=username, job_name="")

    @property
    def wall_s(self) -> int:
        """Elapsed time with the time it was suspended."""
        return self.elapsed_s + self.suspended_s

    @property
    def resources(self) -> dict[str, int]:
        """What the source metered, by the name of the resource; what was not used is left out."""
        found = {CORE_SECONDS: self.core_seconds, GPU_SECONDS: self.gpu_seconds, NODE_SECONDS: self.node_seconds,
                 MEMORY: self.memory_mib_seconds}  # fmt: skip
        if self.units:
            found |= {f"unit:{name}": count for name, count in self.units.items()}
        return {name: quantity for name, quantity in found.items() if quantity}

    @property
    def content_sha256(self) -> str:
        """A fingerprint of what the source said: the same record read twice has the same."""
        return self.fingerprint(sorted_json(self.raw))

    def fingerprint(self, said: bytes) -> str:
        """The same, where the raw record was written already (`sorted_json`)."""
        figures = f"\n{self.core_seconds}/{self.elapsed_s}/{self.gpu_seconds}/{self.memory_mib_seconds}/{self.kind}"
        said += figures.encode()
        if self.units:
            said += sorted_json(self.units)
        return hashlib.sha256(said).hexdigest()


def whole_job(native_id: str) -> str:
    """The number under which a job was submitted: `123` of the component `123+1` of a heterogeneous job (Slurm)."""
    leader, plus, component = native_id.partition("+")
    return leader if plus and leader.isdecimal() and component.isdecimal() else native_id


def _whole(name: str, value: object) -> None:
    if not isinstance(value, int) or value < 0:
        raise ValueError(f"{name}={value!r}: usage is counted in whole, non-negative units")


class Unreadable(Struct, frozen=True, gc=False):
    """A raw record that cannot be read, kept for a person: dropped work would be unpaid work."""

    site_id: str
    format: str
    raw: str
    why: str

    @property
    def content_sha256(self) -> str:
        return hashlib.sha256(f"{self.format}\n{self.raw}".encode("utf-8", "surrogatepass")).hexdigest()
