"""penstock-site's commands as its staff type them: serve and connect over TLS, orders, stop --hold."""

from __future__ import annotations

import datetime as dt
import getpass
import ipaddress
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
import uvicorn
import yaml
from click.testing import CliRunner, Result
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from gateway.app import create_app
from site_adapters.centre.cli import main
from site_adapters.errors import SiteError
from site_adapters.orders import OpeningState, Order, OrderKind
from site_adapters.states import ObservedState
from site_adapters.types import Accepted, Attributes, JobSpec, SiteAccount, Submission
from tests.builders import _QuickServer, compose_gateway, local_site
from tests.docking import Docked, dock
from tests.lab.slurm import wait_for

LOGIN = getpass.getuser()


@dataclass(frozen=True, slots=True)
class Tls:
    """A certificate for loopback, and the authority that signed it."""

    ca: Path
    certificate: Path
    key: Path


@pytest.fixture
def tls(tmp_path: Path) -> Tls:
    """As a centre without a bought certificate makes it: an authority of its own."""
    authority, own = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    made = Tls(tmp_path / "ca.pem", tmp_path / "own.pem", tmp_path / "own.key")
    issuer = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "The centre's own CA")])
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "127.0.0.1")])
    now = dt.datetime.now(dt.UTC)

    def certificate(name: x509.Name, key: ec.EllipticCurvePrivateKey, is_ca: bool) -> bytes:
        builder = (
            x509.CertificateBuilder().subject_name(name).issuer_name(issuer).public_key(key.public_key())
            .serial_number(x509.random_serial_number()).not_valid_before(now - dt.timedelta(hours=1))
            .not_valid_after(now + dt.timedelta(days=1))
            .add_extension(x509.BasicConstraints(is_ca, None), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(authority.public_key()), critical=False)
        )  # fmt: skip
        if is_ca:
            signs = x509.KeyUsage(False, False, False, False, False, True, True, False, False)
            builder = builder.add_extension(signs, critical=True)
        else:
            names = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
            builder = builder.add_extension(names, critical=False)
        return builder.sign(authority, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)

    made.ca.write_bytes(certificate(issuer, authority, True))
    made.certificate.write_bytes(certificate(subject, own, False))
    made.key.write_bytes(own.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8,
                                           serialization.NoEncryption()))  # fmt: skip
    return made


@pytest.fixture
def docked(tmp_path: Path) -> Docked:
    return dock(tmp_path, local_site(tmp_path), accounts=[LOGIN])


def settle(docked: Docked, **more: object) -> None:
    """Write into docking.yaml."""
    file = docked.home.folder / "docking.yaml"
    file.write_text(yaml.safe_dump(yaml.safe_load(file.read_text()) | more))


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port: int = one.getsockname()[1]
        return port


@contextmanager
def command(docked: Docked, *words: str) -> Iterator[Path]:
    """A command of penstock-site as a process of its own, ended by TERM, as systemd does; where its words go."""
    argv = (sys.executable, "-m", "site_adapters.centre.cli", "--home", str(docked.home.folder), *words)
    said = docked.home.folder / f"{words[0]}.log"
    with said.open("wb") as log, subprocess.Popen(argv, stderr=log) as process:
        try:
            yield said
        finally:
            process.terminate()
            process.wait(30)
    assert process.returncode in (0, -15), process.returncode


def test_serve_answers_over_https_and_only_those_who_know_its_authority(
    tmp_path: Path, docked: Docked, tls: Tls
) -> None:
    port = free_port()
    settle(docked, listen=f"127.0.0.1:{port}", tls_certificate=str(tls.certificate), tls_key=str(tls.key))
    site = docked.site_file(url=f"https://127.0.0.1:{port}")
    knows = {**site, "dock": {**site["dock"], "ca_file": str(tls.ca)}}
    with command(docked, "serve"):
        good = compose_gateway(tmp_path / "good", f"sqlite:///{tmp_path / 'good.sqlite'}", knows)
        wait_for(lambda: good.sites["local"].management.health().ok, "the service over TLS", 60)
        facts = good.sites["local"].auth.probe(LOGIN)
        bad = compose_gateway(tmp_path / "bad", f"sqlite:///{tmp_path / 'bad.sqlite'}", site)
        with pytest.raises(SiteError, match=r"(?i)certificate"):
            bad.sites["local"].auth.probe(LOGIN)
    assert facts.username == LOGIN


def test_connect_dials_out_over_tls_and_only_to_a_gateway_that_it_can_check(
    tmp_path: Path, docked: Docked, tls: Tls
) -> None:
    services = compose_gateway(tmp_path / "gw", f"sqlite:///{tmp_path / 'gw.sqlite'}", docked.site_file("agent"))
    config = uvicorn.Config(create_app(services), host="127.0.0.1", port=0, log_level="warning", access_log=False,
                            ssl_certfile=str(tls.certificate), ssl_keyfile=str(tls.key))  # fmt: skip
    server = _QuickServer(config)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    wait_for(lambda: server.started, "the gateway over TLS", every=0.01)
    port = server.servers[0].sockets[0].getsockname()[1]
    try:
        settle(docked, gateway_url=f"wss://127.0.0.1:{port}/if2/agent")
        with command(docked, "connect") as said:
            wait_for(lambda: "certificate verify failed" in said.read_text().lower(), "the agent's refusal", 60)
            assert not services.sites["local"].management.health().ok
        settle(docked, gateway_ca=str(tls.ca))
        with command(docked, "connect"):
            wait_for(lambda: services.sites["local"].management.health().ok, "the agent over TLS", 60)
            assert services.sites["local"].auth.probe(LOGIN).username == LOGIN
    finally:
        server.should_exit = True
        thread.join(20)


def typed(docked: Docked, *words: str) -> Result:
    return CliRunner().invoke(main, ["--home", str(docked.home.folder), *words])


def test_orders_are_listed_refused_closed_and_a_failed_opening_says_why(docked: Docked) -> None:
    centre = docked.compose()
    for number in (1, 2, 3):
        centre.orders.open(Order(f"o-{number}", OrderKind.CORE_HOURS, "fluids", core_seconds=3600 * number))
    centre.close()

    assert "o-2  requested core_hours  fluids: 2 core-hours waits" in typed(docked, "orders", "list").output
    assert typed(docked, "orders", "refuse", "o-1", "--reason", "no budget").output.strip() == "refused"
    assert typed(docked, "orders", "close", "o-2").output.strip() == "closed"
    approved = typed(docked, "orders", "approve", "o-3")
    assert approved.exit_code == 1 and "no provisioner" in approved.output  # this machine opens no accounts
    waiting, everything = typed(docked, "orders", "list").output, typed(docked, "orders", "list", "--all").output
    assert waiting == ""
    for words in ("o-1  refused", "o-2  closed", "o-3  failed"):
        assert words in everything
    centre = docked.compose()
    assert centre.orders.opening("o-1").state is OpeningState.REFUSED
    centre.close()


def test_stop_with_hold_keeps_what_waits_ends_what_runs_and_takes_our_keys_out(tmp_path: Path) -> None:
    home = tmp_path / "home"
    (home / ".ssh").mkdir(parents=True)
    keys_file = home / ".ssh" / "authorized_keys"
    keys_file.write_text("ssh-ed25519 AAAA me@desk\nssh-ed25519 BBBB penstock: gateway\nssh-rsa CCCC other\n")
    docked = dock(tmp_path, local_site(tmp_path, environment={"HOME": str(home)}), accounts=[LOGIN])
    centre = docked.compose()
    facts = centre.adapter.auth.probe(LOGIN)
    account = SiteAccount(facts.username, facts.home, facts.uid)

    def job(number: int, **attributes: object) -> Submission:
        tag = f"pstop{number:011d}"
        spec = JobSpec(script="#!/bin/sh\nsleep 300\n", inherit_environment=False,
                       attributes=Attributes(duration=600, **attributes))  # type: ignore[arg-type]  # fmt: skip
        return Submission(spec, account, tag, 1, f"x-{tag}.1", "", "u", "p")

    running, waiting = (centre.desk._submit((job(n, **more),), begun_before=False)[0]
                        for n, more in ((1, {}), (2, {"submit_as_hold": True})))  # fmt: skip
    assert isinstance(running, Accepted) and isinstance(waiting, Accepted)
    centre.close()

    done = typed(docked, "stop", "--hold", "--reason", "drill")

    assert done.exit_code == 0, done.output
    assert "jobs ended: 1; held: 1" in done.output
    assert keys_file.read_text() == "ssh-ed25519 AAAA me@desk\nssh-rsa CCCC other\n"
    assert os.stat(keys_file).st_mode & 0o777 == 0o600
    assert docked.home.trust.all() == ()
    centre = docked.compose()
    look = centre.adapter.management.find((), accounts=[account], since=dt.datetime.now(dt.UTC) - dt.timedelta(hours=1))
    states = {run.native_id: run.state for run in look.runs}
    assert states[running.native_id] is ObservedState.CANCELED
    assert not states[waiting.native_id].final
    centre.close()
