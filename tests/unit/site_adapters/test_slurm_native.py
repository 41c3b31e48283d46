"""pyslurm as the submit backend: refused in words unless it is of the controller's release; fed with documented names.

`FakePyslurm` has the names of pyslurm 25.11 (`pyslurm.JobSubmitDescription`, `pyslurm.RPCError`), and refuses others.
"""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from site_adapters import registry
from site_adapters.config import SiteConfig, TransportConfig
from site_adapters.errors import Refused, Unsupported
from site_adapters.slurm import native
from site_adapters.slurm.options import render
from site_adapters.types import (
    Accepted,
    Array,
    Attributes,
    JobSpec,
    Rejected,
    Resources,
    SiteAccount,
    Submission,
    Unknown,
)

DOCUMENTED = frozenset({
    "name", "account", "user_id", "group_id", "priority", "site_factor", "wckey", "array", "batch_constraints",
    "begin_time", "clusters", "cluster_constraints", "comment", "admin_comment", "requires_contiguous_nodes",
    "cores_reserved_for_system", "threads_reserved_for_system", "working_directory", "cpu_frequency", "nodes",
    "deadline", "delay_boot_time", "dependencies", "excluded_nodes", "required_nodes", "constraints",
    "kill_on_node_fail", "licenses", "mail_user", "mail_types", "mcs_label", "memory_per_cpu", "memory_per_node",
    "memory_per_gpu", "network", "nice", "log_files_open_mode", "overcommit", "partitions", "profile_types",
    "accounting_gather_frequency", "qos", "reservations", "is_requeueable", "run_as", "script", "script_args",
    "environment", "resource_sharing", "distribution", "time_limit", "time_limit_min", "container", "cpus_per_task",
    "cpus_per_gpu", "sockets_per_node", "cores_per_socket", "threads_per_core", "gpus", "gpus_per_socket",
    "gpus_per_task", "gres_per_node", "gpus_per_node", "ntasks", "ntasks_per_node", "ntasks_per_socket",
    "ntasks_per_core", "ntasks_per_gpu", "switches", "signal", "standard_in", "standard_error", "standard_output",
    "kill_on_invalid_dependency", "spreads_over_nodes", "use_min_nodes", "gres_flags", "temporary_disk_per_node",
    "get_user_environment", "min_cpus", "wait_all_nodes",
})  # fmt: skip


class FakePyslurm(ModuleType):
    """The documented part that the backend uses."""

    def __init__(self, version: str, fails_with: str = "") -> None:
        super().__init__("pyslurm")
        self.__version__ = version
        self.submitted: list[dict[str, Any]] = []
        fake = self

        class RPCError(Exception):
            pass

        class JobSubmitDescription:
            def __init__(self, **wanted: Any) -> None:
                unknown = set(wanted) - DOCUMENTED
                assert not unknown, unknown
                self.wanted = wanted | {"script_text": Path(wanted["script"]).read_text()}

            def submit(self) -> int:
                if fails_with:
                    raise RPCError(fails_with)
                fake.submitted.append(self.wanted)
                return 40 + len(fake.submitted)

        self.RPCError, self.JobSubmitDescription = RPCError, JobSubmitDescription


def config(**more: Any) -> SiteConfig:
    return SiteConfig.model_validate(
        {"site": "here", "scheduler": "slurm", "backend": "pyslurm", "transport": {"kind": "local"}, **more}
    )


def submission(**spec: Any) -> Submission:
    wanted = JobSpec(**{"script": "#!/bin/sh\ntrue\n", **spec})
    return Submission(wanted, SiteAccount("me", "/home/me"), "ptest0123456789a", 1, "job-ptest0123456789a.1", "pst1:j")


def outcome(module: FakePyslurm, **spec: Any) -> Any:
    backend = native.NativeSubmit(config(), module)
    asked = submission(**spec)
    return backend.submit([(asked, render(config(), asked))])[0]


def test_without_the_extra_it_is_refused_in_words(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyslurm", None)

    with pytest.raises(Unsupported, match="not installed"):
        native.load(config(), "22.05.8")


def test_module_of_another_release_is_refused_in_words(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyslurm", FakePyslurm("25.11.0"))

    with pytest.raises(Unsupported, match=r"25\.11.*22\.05"):
        native.load(config(), "22.05.8")


def test_site_over_ssh_is_refused_in_words(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyslurm", FakePyslurm("22.5.0"))
    far = TransportConfig.model_construct(kind="ssh", host="far")

    with pytest.raises(Unsupported, match=r"must be local"):
        native.load(config().model_copy(update={"transport": far}), "22.05.8")


@pytest.mark.parametrize("version", ["22.5.0", "22.05.1"])
def test_module_of_the_controllers_release_submits(monkeypatch: pytest.MonkeyPatch, version: str) -> None:
    module = FakePyslurm(version)
    monkeypatch.setitem(sys.modules, "pyslurm", module)
    backend = native.load(config(), "22.05.8")
    asked = submission(
        resources=Resources(node_count=2, process_count=4, cpu_cores_per_process=2, memory=1 << 30),
        attributes=Attributes(duration=90, queue_name="normal", account="proj1", rerunnable=True),
        array=Array("0-3", 2),
    )

    found = backend.submit([(asked, render(config(), asked)), (asked, render(config(), asked))])

    assert found == [Accepted("41"), Accepted("42")]
    given = module.submitted[0]
    assert "ptest0123456789a.1" in given["script_text"]
    assert not Path(given["script"]).exists()
    assert {name: given[name] for name in ("nodes", "ntasks", "cpus_per_task", "time_limit", "array", "environment",
                                           "is_requeueable", "partitions", "account")} == {
        "nodes": "2", "ntasks": "4", "cpus_per_task": "2", "time_limit": "2", "array": "0-3%2", "environment": "NONE",
        "is_requeueable": True, "partitions": "normal", "account": "proj1",
    }  # fmt: skip


@pytest.mark.parametrize("text", ["Socket timed out on send/recv operation", "Zero Bytes were transmitted or received"])
def test_answer_that_was_not_seen_is_unknown(text: str) -> None:
    assert isinstance(outcome(FakePyslurm("22.5.0", fails_with=text)), Unknown)


def test_refusal_is_a_refusal() -> None:
    assert isinstance(outcome(FakePyslurm("22.5.0", fails_with="Invalid partition name specified")), Rejected)


def test_option_without_a_name_there_is_refused_in_words() -> None:
    asked = submission(attributes=Attributes(custom_attributes={"slurm.wckey": "x"}))
    backend = native.NativeSubmit(config(), FakePyslurm("22.5.0"))

    with pytest.raises(Refused, match="--wckey") as refused:
        backend.assert_takes(render(config(), asked))
    assert refused.value.field == ("attributes", "custom_attributes", "slurm.wckey")


def test_site_that_asks_for_it_without_an_observer_is_closed_with_the_reason() -> None:
    adapter = registry.build(config(), keys=lambda _username: None)

    assert adapter.closed_reason is not None
    assert "observer" in adapter.closed_reason
