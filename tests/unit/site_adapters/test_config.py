"""A site file says everything that differs between centres, and a wrong one says what is wrong and where."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from site_adapters.config import BrokenSite, SiteConfig, load_site, load_sites, main, schema_text

REPO = Path(__file__).parents[3]
KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIPSBCfU+FQW+FLJQhDQuazKmtigehI5okhTX1S4Ei0Hp"
LOCAL = "site: here\nscheduler: local\ntransport: {kind: local}\n"
SSH = f'site: far\nscheduler: slurm\ntransport: {{kind: ssh, host: h.example, host_key: "{KEY}"}}\n'


def written(folder: Path, text: str, name: str = "x.yaml") -> Path:
    path = folder / name
    path.write_text(text, "utf-8")
    return path


def good(folder: Path, text: str) -> SiteConfig:
    site = load_site(written(folder, text))
    assert isinstance(site, SiteConfig), site
    return site


def reasons(folder: Path, text: str) -> str:
    site = load_site(written(folder, text))
    assert isinstance(site, BrokenSite)
    return "\n".join(site.reasons)


def test_the_site_files_of_the_repository_are_good() -> None:
    paths = [REPO / "site_configs" / "local.yaml", *(REPO / "site_configs").glob("*/*.yaml")]
    assert len(paths) >= 10
    assert len(paths) >= 2
    for path in paths:
        assert isinstance(load_site(path), SiteConfig), load_site(path)


def test_the_schema_in_the_repository_is_current() -> None:
    assert (REPO / "site_configs" / "schema.json").read_text("utf-8") == schema_text()


def test_a_minimal_file_has_safe_defaults(tmp_path: Path) -> None:
    site = good(tmp_path, LOCAL)
    assert (site.staging_root, site.backend, site.zone) == ("{home}/.penstock", "cli", "UTC")
    assert site.binding_policy().logins_per_second == 2.0
    assert site.binding_policy().queued_jobs_max is None
    assert not site.transport.switch_user


def test_renamed_commands_keep_the_others(tmp_path: Path) -> None:
    site = good(tmp_path, SSH + "commands: {sbatch: yhbatch}\n")
    assert (site.command("sbatch"), site.command("squeue")) == ("yhbatch", "squeue")


def test_key_files_are_relative_to_the_site_file(tmp_path: Path) -> None:
    text = "credentials: {observer: {username: gw, key_file: keys/gw}, meter: {username: gw, key_file: /etc/gw}}\n"
    credentials = good(tmp_path, SSH + text).credentials
    assert credentials.observer is not None and credentials.observer.key_file == tmp_path / "keys" / "gw"
    assert credentials.meter is not None and credentials.meter.key_file == Path("/etc/gw")


def test_error_texts_of_a_centre_are_compiled_when_the_file_is_read(tmp_path: Path) -> None:
    rule = good(tmp_path, SSH + "errors: [{match: 'daily .*limit', class: busy}]\n").errors[0]
    assert rule.match.search("over the daily job limit") and rule.means == "busy"
    assert "errors.0.match" in reasons(tmp_path, SSH + "errors: [{match: '(', class: busy}]\n")


def test_the_hours_of_a_centre_are_kept_with_its_zone(tmp_path: Path) -> None:
    site = good(tmp_path, LOCAL + 'zone: Asia/Shanghai\npolicy: {hours: [["18:00", "08:00"]]}\n')
    policy = site.binding_policy()
    assert (policy.hours, policy.zone) == ((("18:00", "08:00"),), "Asia/Shanghai")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("wat: 1\n", "line 4: wat: there is no such word"),
        ("policy: {cores_max: -1}\n", "line 4: policy.cores_max: Input should be greater than or equal to 1"),
        ("policy:\n  nodes_max: 1\n  hours: [[18:00, 08:00]]\n", "line 6: policy.hours.0.0: Input should be"),
        ("policy: {hours: [[18:00, '08:00']]}\n", "put it in quotes"),
        ("environment: {A: 1}\n", "put it in quotes"),
        ("environment: {'A B': x}\n", "environment.A B"),
        ("zone: Mars/Olympus\n", "no time zone 'Mars/Olympus'"),
        ("backend: rest\n", "backend rest needs a `rest` section"),
        ("backend: pyslurm\n", "scheduler local runs on this machine only"),
        ("rest: {url: 'ftp://x'}\n", "rest.url"),
        ("staging_root: relative\n", "staging_root"),
        ("zone: UTC\nzone: UTC\n", "line 5: `zone` is there twice"),
        ("scheduler: pbs\n", "twice"),
        ("queues: {cpu: {native: ''}}\n", "line 4: queues.cpu.native"),
        ("- x\n", "x.yaml: "),
    ],
)
def test_a_wrong_line_is_named_with_its_number(tmp_path: Path, text: str, expected: str) -> None:
    assert expected in reasons(tmp_path, LOCAL + text)


@pytest.mark.parametrize(
    ("transport", "expected"),
    [
        ("{kind: ssh}", "needs `host` and `host_key`"),
        (f'{{kind: ssh, host: h, host_key: "{KEY}", port: 0}}', "transport.port"),
        ('{kind: ssh, host: h, host_key: "ssh-dss AAAA"}', "it must begin with one of ssh-ed25519"),
        ('{kind: ssh, host: h, host_key: "ssh-ed25519 !!"}', "no base64"),
        (f'{{kind: ssh, host: h, host_key: "{KEY.replace("ssh-ed25519", "ssh-rsa")}"}}', "not of the type"),
        ("{kind: local, host: h}", "should `kind` be ssh?"),
        (f'{{kind: ssh, host: h, host_key: "{KEY}", switch_user: true}}', "for the local transport"),
        (f'{{kind: ssh, host: h, host_key: "{KEY}", jump: {{host: g}}}}', "transport.jump.host_key: Field required"),
    ],
)
def test_a_transport_that_could_not_be_trusted_is_refused(tmp_path: Path, transport: str, expected: str) -> None:
    assert expected in reasons(tmp_path, f"site: far\nscheduler: slurm\ntransport: {transport}\n")


def test_all_problems_of_a_file_are_told_at_once(tmp_path: Path) -> None:
    text = reasons(tmp_path, LOCAL + "zone: nowhere\nwat: 1\npolicy: {cores_max: x}\n")
    assert len(text.splitlines()) == 3


@pytest.mark.parametrize(
    "text", ["", "[]", "site: [", "site: &a {x: *a}\n", "? [a]\n: b\n", "site: \x07\n", "- " * 5000]
)
def test_what_is_no_site_file_is_a_broken_site_named_after_the_file(tmp_path: Path, text: str) -> None:
    site = load_site(written(tmp_path, text, "Some File.yaml"))
    assert isinstance(site, BrokenSite)
    assert site.site == "some-file" and site.reasons


def test_bytes_that_are_no_text_and_files_that_cannot_be_read_are_broken_sites(tmp_path: Path) -> None:
    (tmp_path / "b.yaml").write_bytes(b"\xff\xfe\xff")
    (tmp_path / "c.yaml").mkdir()
    assert all(isinstance(site, BrokenSite) for site in load_sites(tmp_path))


def test_one_broken_file_closes_only_its_site(tmp_path: Path) -> None:
    written(tmp_path, LOCAL, "a.yaml")
    written(tmp_path, "site: ill\n", "b.yaml")
    written(tmp_path, SSH, "c.yaml")
    written(tmp_path, "not read", "d.yaml.bak")
    assert [(s.site, isinstance(s, BrokenSite)) for s in load_sites(tmp_path)] == [
        ("here", False),
        ("ill", True),
        ("far", False),
    ]


def test_a_second_file_for_the_same_site_is_broken(tmp_path: Path) -> None:
    written(tmp_path, LOCAL, "a.yaml")
    written(tmp_path, LOCAL, "b.yaml")
    first, second = load_sites(tmp_path)
    assert isinstance(first, SiteConfig) and isinstance(second, BrokenSite)
    assert second.site == "b" and "a.yaml describes site here already" in second.reasons[0]


@given(st.text(max_size=200))
def test_no_text_makes_the_reader_raise(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    path = tmp_path_factory.getbasetemp() / "any.yaml"
    path.write_bytes(text.encode("utf-8", "surrogatepass"))
    assert isinstance(load_site(path), BrokenSite)


def test_the_check_command_names_every_reason(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(written(tmp_path, LOCAL, "a.yaml"))]) == 0
    assert main([str(written(tmp_path, LOCAL + "wat: 1\n", "b.yaml"))]) == 1
    assert "b.yaml line 4: wat" in capsys.readouterr().out
