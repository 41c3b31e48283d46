"""What is there, who one is, what was metered, what was printed."""

from __future__ import annotations

from contextlib import suppress
from datetime import UTC, datetime, timedelta

import pytest

from accounting.sources import read_usage
from accounting.usage import Kind, UsageRecord
from site_adapters.errors import NotFound, SiteError, Unsupported
from site_adapters.types import Array, Resources
from tests.contract.centre import Centre, Work
from tests.lab.slurm import wait_for


def test_queues_have_names_of_their_own_and_one_default(centre: Centre) -> None:
    queues = centre.adapter.resource.queues()

    assert len({queue.name for queue in queues}) == len(queues)
    if centre.queue_name is None or any(queue.default for queue in queues):
        assert [queue.open for queue in queues if queue.default] == [True]
    for queue in queues:
        assert queue.cores_total is None or queue.cores_total > 0
        assert queue.duration_max is None or queue.duration_max > 0


def test_nodes_add_up_to_the_capacity(centre: Centre) -> None:
    if centre.adapter.scheduler == "northbound":
        with pytest.raises(Unsupported):
            centre.adapter.resource.nodes()
        pytest.skip("this API shows no nodes, and says so")
    nodes, capacity = centre.adapter.resource.nodes(), centre.adapter.resource.capacity()

    assert sum(node.cores for node in nodes) == capacity.cores_total > 0
    assert 0 <= capacity.cores_busy <= capacity.cores_total
    assert 0 <= capacity.cores_down <= capacity.cores_total
    queues = {queue.name for queue in centre.adapter.resource.queues()}
    assert {name for node in nodes for name in node.queues} <= queues


def test_limits_of_our_account_are_told(centre: Centre) -> None:
    limits = centre.adapter.resource.limits(centre.account)

    assert limits.accounts is None or limits.default_account in limits.accounts


def test_reservations_are_told(centre: Centre) -> None:
    if centre.reserve is None:  # there are none, or no command tells them
        with suppress(Unsupported):
            assert centre.adapter.resource.reservations() == []
        return
    with centre.reserve() as name:
        found = {r.name: r for r in centre.adapter.resource.reservations()}
    assert found[name].maintenance
    start = found[name].start - datetime.now(UTC)
    assert timedelta(minutes=50) < start < timedelta(minutes=70)
    assert found[name].end - found[name].start == timedelta(hours=1)
    assert name not in {r.name for r in centre.adapter.resource.reservations()}


def test_software_is_a_list_or_an_ability_that_is_lacking(centre: Centre) -> None:
    if centre.can("software"):
        assert all(centre.adapter.resource.software())
    else:
        with pytest.raises(Unsupported):
            centre.adapter.resource.software()


def test_login_proves_who_one_is(centre: Centre) -> None:
    facts = centre.adapter.auth.probe(centre.account.username)

    assert (facts.username, facts.uid) == (centre.account.username, centre.account.uid)
    assert facts.home == centre.account.home
    assert facts.groups or centre.adapter.scheduler == "northbound"  # its API tells no groups


@pytest.mark.parametrize("username", ["lab_nobody_there", "", "-oProxyCommand=true", "a b", "root;id"])
def test_login_of_nobody_is_refused(centre: Centre, username: str) -> None:
    with pytest.raises(SiteError):
        centre.adapter.auth.probe(username)


def test_every_probe_of_the_site_passes_and_says_what_it_saw(centre: Centre) -> None:
    results = centre.adapter.auth.check()

    assert len(results) >= 3
    assert [result for result in results if not result.ok] == []
    assert all(result.detail for result in results)


def test_usage_of_every_run_is_read_and_is_the_same_in_every_window(centre: Centre) -> None:
    since = datetime.now(UTC) - timedelta(seconds=2)
    works = [
        centre.work(seconds=2, spec={"resources": Resources(process_count=2)}).submit(),
        centre.work(then="exit 9").submit(),
    ]
    expected: set[tuple[str, int | None]] = {(work.native_id, None) for work in works}
    if centre.can("arrays"):
        works.append(centre.work(spec={"array": Array("0-1")}).submit())
        expected |= {(works[-1].native_id, task) for task in (0, 1)}
    for work in works:
        work.end(tasks=2 if work.spec.get("array") else 1)

    def read() -> dict[tuple[str, int | None], UsageRecord]:
        return _records(centre, since, datetime.now(UTC) + timedelta(seconds=1), works)

    wait_for(lambda: read().keys() >= expected, "the centre's records", centre.until_s, every=0.5)
    first = read()
    wider = _records(centre, since - timedelta(hours=1), datetime.now(UTC) + timedelta(seconds=1), works)

    assert {key: r.content_sha256 for key, r in first.items()} == {key: r.content_sha256 for key, r in wider.items()}
    assert len({record.run_key for record in first.values()}) == len(expected)
    for key in expected:
        assert first[key].core_seconds == first[key].cores * first[key].elapsed_s
        assert first[key].username == centre.account.username
    longest = first[works[0].native_id, None]
    assert longest.kind is Kind.RUN
    assert longest.core_seconds >= 4
    assert longest.tag == works[0].submission.fence_name


def test_usage_of_a_window_without_runs_is_empty(centre: Centre) -> None:
    long_ago = datetime(2021, 1, 1, tzinfo=UTC)

    batch = centre.adapter.billing.usage(long_ago, long_ago + timedelta(hours=1), (centre.account,))

    assert batch.problems == ()
    assert [u for u in batch.usages if centre.name != "local"] == []


def test_output_is_read_by_byte_offset(centre: Centre) -> None:
    content = b"first line\n\xff\xfe not text \x00 here\n" + bytes(range(256)) * 8
    work = centre.work()
    octal = "".join(f"\\{byte:03o}" for byte in content)
    work.then = f"printf '{octal}'"
    path = centre.adapter.management.render(work.submission).stdout_path
    with pytest.raises(NotFound):
        centre.adapter.log.read(centre.account, path, offset=0, limit=10)

    work.submit().end()
    log = centre.adapter.log
    whole = log.read(centre.account, path, offset=0, limit=1 << 20)
    part = log.read(centre.account, path, offset=11, limit=5)
    past = log.read(centre.account, path, offset=10**9, limit=5)

    assert (whole.data, whole.size, whole.eof) == (content, len(content), True)
    assert (part.data, part.offset, part.eof) == (content[11:16], 11, False)
    assert (past.data, past.eof) == (b"", True)


def test_what_is_no_file_is_refused(centre: Centre) -> None:
    with pytest.raises(SiteError):
        centre.adapter.log.read(centre.account, str(centre.workplace), offset=0, limit=10)


def _records(
    centre: Centre, since: datetime, until: datetime, works: list[Work]
) -> dict[tuple[str, int | None], UsageRecord]:
    """The records of these works; every row of the window can be read."""
    batch = centre.adapter.billing.usage(since, until, (centre.account,))
    assert batch.problems == ()
    found = {}
    ids = {work.native_id for work in works}
    oldest = min(work.submitted_at for work in works) - timedelta(seconds=2)  # centres tell whole seconds
    for usage in batch.usages:
        record = read_usage(usage.format, usage.fields, site_id=centre.adapter.site_id)
        assert record is None or isinstance(record, UsageRecord), record
        if record is None or (record.submit_time is not None and record.submit_time < oldest):
            continue
        if record.native_id in ids:
            key = (record.native_id, record.task)
            assert key not in found, "a run is there twice"
            found[key] = record
    return found
