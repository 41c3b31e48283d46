"""Real schedulers, sshd and databases for the tests: started when first asked for, stopped at the end."""

from __future__ import annotations

import gc
import os
import shutil
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from gateway import db as gateway_db
from gateway.db import Database
from gateway.migrations import schema
from tests import one_dialect
from tests.lab import postgres as postgres_lab
from tests.lab import slurm as slurm_lab

# PENSTOCK_LAB=1 … 7 gives a second checkout folders and ports of its own, so that both can run tests at once; each of
# up to four pytest-xdist workers has a lab of its own. Of its 400 ports alpha has 17 … 104, beta 127 … 212, both
# together 236 and 249, PostgreSQL 260.
WORKER = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
LAB = int(os.environ.get("PENSTOCK_LAB", "0"))
LAB_ROOT = Path(f"/var/tmp/penstock-lab{LAB}-{WORKER}")
PORTS = 30000 - 400 * (4 * LAB + WORKER)
if os.environ.pop("PYTHONDONTWRITEBYTECODE", ""):  # where it is set, each program that a test starts compiles ours anew
    sys.dont_write_bytecode = False
# Shared out file by file, what takes longest begins first: none of it is alone at the end.
LONGEST = (
    "live/test_conformance", "crash/test_campaign", "contract/test_manage", "crash/test_failover",
    "contract/test_submit", "live/test_slurm_journey", "live/test_slurm_laws", "contract/test_conformance",
    "contract/test_facts", "crash/test_restore", "live/test_docking", "journey/test_demo",
    "unit/accounting/test_exactly_once",
)  # fmt: skip
# How fast this machine makes examples is no property of what they test: others compute here too.
settings.register_profile("busy", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("busy")
# No test takes the power away, and what is killed has written: waiting for the disk proves nothing here.
gateway_db._PRAGMAS = tuple(p.replace("synchronous=FULL", "synchronous=OFF") for p in gateway_db._PRAGMAS)
gateway_db.create_engine = one_dialect.of_one_dialect  # type: ignore[assignment]
os.environ["LANGUAGE"] = "C"  # the commands speak the reader's language, the tests English


def pytest_configure(config: pytest.Config) -> None:
    for name, text in {
        "live": "needs a real scheduler, sshd or browser",
        "unit": "needs no database, no scheduler, no sshd",
        "soak": "a long campaign: `make soak`",
        "real_pyslurm": "needs pyslurm of the controller's release",
    }.items():
        config.addinivalue_line("markers", f"{name}: {text}")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Long campaigns run only when asked for by `-m soak`. What needs no database, no server and no shell is `unit`."""
    for item in items:
        needs = {"db_url", "postgres", "slurm_alpha", "slurm_beta"} & set(getattr(item, "fixturenames", ()))
        needs |= {mark.name for mark in item.iter_markers("live")}
        if "unit" in item.path.relative_to(config.rootpath).parts and not needs:
            item.add_marker("unit")
    if "soak" not in (config.getoption("-m") or ""):
        items[:] = [item for item in items if "soak" not in item.keywords]
    if "PYTEST_XDIST_WORKER" in os.environ:
        items.sort(key=_turn)


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Iterator[None]:
    """What is loaded stays: looking for garbage in it, again and again, took a tenth of a test's time."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.enable()
        gc.collect()
        gc.freeze()


def _turn(item: pytest.Item) -> int:
    name = item.nodeid.partition(".py::")[0].removeprefix("tests/")
    return LONGEST.index(name) if name in LONGEST else len(LONGEST)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    reasons = Counter(str(r.longrepr[2]) for r in terminalreporter.stats.get("skipped", []))
    for reason, count in reasons.most_common():
        terminalreporter.write_line(f"skipped {count}: {reason.removeprefix('Skipped: ')}")


@pytest.fixture(autouse=True)
def _close_gateways() -> Iterator[None]:
    """Connections that a test opened, to databases and sites, are closed with it."""
    yield
    builders = sys.modules.get("tests.builders")  # whoever needed none does not load the whole gateway now
    while builders is not None and builders.OPENED:
        builders.OPENED.pop().close()


@pytest.fixture(scope="session")
def _slurm_root() -> Iterator[Path]:
    reason = slurm_lab.missing_reason()
    if reason is not None:
        pytest.skip(reason)
    if os.environ.get("PENSTOCK_LAB_KEEP"):  # for whoever runs one test again and again: the lab stays up
        yield LAB_ROOT
        return
    slurm_lab.SlurmLab.stop_all(LAB_ROOT)  # whatever an interrupted run left
    yield LAB_ROOT
    slurm_lab.SlurmLab.stop_all(LAB_ROOT)


@pytest.fixture(scope="session")
def slurm_alpha(_slurm_root: Path) -> slurm_lab.SlurmLab:
    """A centre of 4 nodes x 16 cpus; Slurm's own defaults for limits."""
    lab = slurm_lab.SlurmLab(_slurm_root, "alpha", PORTS, PORTS + 230)
    lab.start()
    return lab


@pytest.fixture(scope="session")
def slurm_beta(_slurm_root: Path) -> slurm_lab.SlurmLab:
    """A second centre: 2 nodes x 64 cpus, a munge key of its own, limits enforced at submit, licences for shots."""
    shots = "Licenses=shots:1000000\nAccountingStorageTRES=license/shots"
    extra = ("--own-munge", "--extra-conf", f"EnforcePartLimits=ALL\n{shots}")
    lab = slurm_lab.SlurmLab(_slurm_root, "beta", PORTS + 110, PORTS + 230, nodes=2, cpus=64, extra=extra)
    lab.start()
    return lab


@pytest.fixture(scope="session")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[postgres_lab.PostgresLab]:
    reason = postgres_lab.missing_reason()
    if reason is not None:
        pytest.skip(reason)
    port = PORTS + 260
    lab = postgres_lab.PostgresLab(Path(f"/var/tmp/penstock-pg-{port}"), port=port)
    lab.start()
    yield lab
    lab.stop()


def _at_newest_schema(url: str) -> str:
    """Migrating takes most of a short test's time: it is done once, and the result is copied."""
    db = Database(url)
    schema.upgrade(db)
    db.dispose()
    return url


@pytest.fixture(scope="session")
def _sqlite_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("template") / "penstock.sqlite"
    _at_newest_schema(f"sqlite:///{file}")
    return file


@pytest.fixture(scope="session")
def _postgres_template(postgres: postgres_lab.PostgresLab) -> str:
    return _at_newest_schema(postgres.fresh()).rpartition("/")[2]


@pytest.fixture(params=["sqlite", "postgresql"])
def db_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """A database of each kind at the newest schema, without rows."""
    if request.param == "sqlite":
        file = tmp_path / "penstock.sqlite"
        shutil.copyfile(request.getfixturevalue("_sqlite_template"), file)
        yield f"sqlite:///{file}"
        return
    lab: postgres_lab.PostgresLab = request.getfixturevalue("postgres")
    template: str = request.getfixturevalue("_postgres_template")
    url = lab.lend(template)
    yield url
    lab.give_back(url, template)


@pytest.fixture
def other_url(db_url: str, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[str]:
    """An empty database of the same kind as `db_url`."""
    if db_url.startswith("sqlite"):
        yield f"sqlite:///{tmp_path / 'new' / 'penstock.sqlite'}"
        return
    lab: postgres_lab.PostgresLab = request.getfixturevalue("postgres")
    url = lab.fresh()
    yield url
    lab.drop(url)
