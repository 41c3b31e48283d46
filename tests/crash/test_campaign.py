"""`kill -9` of the process that serves a site, again and again: nothing lost, nothing doubled, the books whole."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.builders import Gateway, local_site, make_gateway, slurm_site
from tests.crash.campaign import Campaign
from tests.crash.worker import POINTS
from tests.crash.zygote import Zygote
from tests.lab.slurm import SlurmLab

pytestmark = pytest.mark.live

# Two databases times two kinds of centre: 200 kills in `make test`, 2,000 in `make soak`.
SHARE, SOAK = 50, 500
PLACES = 8


@pytest.fixture
def zygote(tmp_path: Path) -> Iterator[Zygote]:
    made = Zygote(tmp_path / "workers.log")
    yield made
    made.close()


def campaign(gateway: Gateway, site: str, mark: Path, zygote: Zygote) -> Campaign:
    seed = int(os.environ.get("PENSTOCK_SEED", "0")) or random.SystemRandom().randrange(1, 1 << 32)
    print(f"PENSTOCK_SEED={seed}")  # shown with a failure: the same orders again, though not the same moments
    return Campaign(gateway, site, mark, zygote, random.Random(seed), PLACES)


def small_credit(folder: Path, db_url: str, site: dict[str, Any]) -> Gateway:
    """Credit for 33 jobs at a time, eight places at the site."""
    return make_gateway(folder, db_url, site, credit=2, unknown_wait_s=0.05, collect_s=1)


def run(made: Campaign, times: int) -> None:
    made.kill(times)
    made.settle()
    told = f"{times} kills in {made.alive_s:.0f} s of life, {len(made.jobs)} jobs, {made.refused} times no credit"
    print(f"{told}: {dict(made.died_at)}")
    made.check()
    reached = {point for point in made.died_at if point != "any moment"}
    assert len(reached) >= (len(POINTS) if times >= SOAK else 8), sorted(set(POINTS) - reached)


@pytest.fixture
def local(tmp_path: Path, db_url: str, zygote: Zygote) -> Campaign:
    site = local_site(tmp_path, policy={"cores_max": 8, "queued_jobs_max": PLACES})
    return campaign(small_credit(tmp_path, db_url, site), "local", tmp_path / "mark", zygote)


@pytest.fixture
def slurm(tmp_path: Path, db_url: str, slurm_alpha: SlurmLab, zygote: Zygote) -> Iterator[Campaign]:
    site = slurm_site(slurm_alpha, policy={"logins_per_second": 50, "queued_jobs_max": PLACES})
    mark = slurm_alpha.root / "home" / "lab_alice" / f"crash-{os.urandom(4).hex()}"
    yield campaign(small_credit(tmp_path, db_url, site), "alpha", mark, zygote)
    slurm_alpha.cancel_all()
    mark.unlink(missing_ok=True)


def test_kills_at_the_local_centre_lose_and_double_nothing(local: Campaign) -> None:
    run(local, SHARE)


def test_kills_at_a_real_slurm_lose_and_double_nothing(slurm: Campaign) -> None:
    run(slurm, SHARE)


@pytest.mark.soak
def test_many_kills_at_the_local_centre_lose_and_double_nothing(local: Campaign) -> None:
    run(local, SOAK)


@pytest.mark.soak
def test_many_kills_at_a_real_slurm_lose_and_double_nothing(slurm: Campaign) -> None:
    run(slurm, SOAK)
