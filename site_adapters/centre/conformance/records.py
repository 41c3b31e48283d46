"""The centre's own meter, framed and complete; and what jobs printed, by any range of bytes."""

from __future__ import annotations

import re
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta

from site_adapters.centre.conformance.kit import HELD, Check, Failed, Ran, Skipped, Target, expect
from site_adapters.errors import CredentialRefused, NotFound, SiteError, Unsupported
from site_adapters.types import Array, Resources, SiteUsage, UsageBatch

_BIG = "for i in $(seq 1 40000); do printf 'line %08d of the output\\n' $i; done\n"


def checks(target: Target) -> Iterator[Check]:
    remedy = "Usage records are the bill: every run has one, none is lost, none is read twice."
    jobs = {"job": target.spec("sleep 2\n", resources=Resources(process_count=2))}
    for name, proves, judge in (
        ("usage/there", "a run that ended has a record", _recorded),
        ("usage/once", "a run has one record", _once),
        ("usage/tag", "a record bears our tag", _tagged),
        ("usage/framed", "no row of ours is left over that cannot be framed", _framed),
        ("usage/texts", "every field of a record is a text, as the centre wrote it", _texts),
        ("usage/format", "every record names its format", _format),
        ("usage/cores", "a record says how many cores were taken", _cores),
        ("usage/again", "the same window gives the same records", _again),
        ("usage/overlap", "a larger window holds what the smaller one held", _overlap),
        ("usage/before", "a window that ended before it holds no record of it", _before),
        ("usage/of this login", "asked for one login, it tells of that one", _of_login),
    ):
        yield Check(name, proves, remedy, judge, jobs, frozenset({"accounting"}))
    yield Check("usage/array", "each task of an array has a record", remedy, _array_records,
                {"job": target.spec(array=Array("0-2"))}, frozenset({"accounting", "arrays"}))  # fmt: skip
    yield Check("usage/failed", "a run that failed has a record", remedy, _recorded,
                {"job": target.spec("exit 3\n")}, frozenset({"accounting"}))  # fmt: skip
    yield Check("usage/never ran", "a job cancelled before it ran is not billed as if it had run", remedy,
                _alone(_never_ran), needs=frozenset({"accounting", "hold"}))  # fmt: skip
    log = "Outputs are read by offset and limit; what is not there is told apart from what is empty."
    big, small = {"job": target.spec(_BIG)}, {"job": target.spec("printf 'a\\0b\\377c'\n")}
    for name, proves, read, printed in (
        ("log/from the start", "an output is read from its start", _start, big),
        ("log/from the middle", "an output is read from any byte", _middle, big),
        ("log/limit", "no more is read than was asked for", _limit, big),
        ("log/pages", "pages of any size give the whole", _pages, big),
        ("log/at the end", "behind the end there is nothing, and it is told", _at_end, big),
        ("log/far behind", "an offset far behind the end raises nothing", _far, big),
        ("log/size", "the size of the output is told", _size, big),
        ("log/bytes", "bytes that are no text come as they are", _bytes, small),
    ):
        yield Check(name, proves, log, read, printed)
    for name, proves, try_it in (
        ("log/grows", "an output is read while it grows", _grows),
        ("log/not there", "an output that is not there is not found", _not_there),
        ("log/a folder", "a folder is no output", _folder),
        ("log/others' files", "files that the login may not read are refused", _others),
        ("log/empty", "an empty output is empty, not missing", _empty),
        ("log/from home", "`~/` is the home of the login", _home),
    ):
        yield Check(name, proves, log, _alone(try_it))


def _alone(act: Callable[[Target], None]) -> Callable[[Target, Mapping[str, Ran]], None]:
    return lambda target, _jobs: act(target)


# ---------------------------------------------------------------- usage


def _usage(target: Target, *, since: timedelta = timedelta(hours=2), until: timedelta = timedelta()) -> UsageBatch:
    now = datetime.now(UTC)
    try:
        return target.adapter.billing.usage(now - since, now - until + timedelta(seconds=2), (target.account,))
    except Unsupported as exc:
        raise Skipped(str(exc)) from exc


def _of(batch: UsageBatch, job: Ran) -> list[SiteUsage]:
    """The records whose texts bear the job's tag."""
    tag = job.submission.tag
    return [u for u in batch.usages if any(tag in value for value in u.fields.values())]


def _wait_for(target: Target, job: Ran, count: int = 1, seconds: float = 40.0) -> list[SiteUsage]:
    _ = job.native_id
    end = time.monotonic() + seconds
    while True:
        found = _of(_usage(target), job)
        if len(found) >= count:
            return found
        if time.monotonic() > end:
            raise Failed(f"{len(found)} records of {count} after {seconds:g} s")
        time.sleep(1)


def _recorded(target: Target, jobs: Mapping[str, Ran]) -> None:
    _wait_for(target, jobs["job"])


def _once(target: Target, jobs: Mapping[str, Ran]) -> None:
    found = _wait_for(target, jobs["job"])
    expect(len(found) == 1, f"{len(found)} records of one run")


def _tagged(target: Target, jobs: Mapping[str, Ran]) -> None:
    job = jobs["job"]
    found = _wait_for(target, job)[0]
    expect(any(job.submission.fence_name in v or job.submission.tag in v for v in found.fields.values()), "no tag")


def _framed(target: Target, jobs: Mapping[str, Ran]) -> None:
    _wait_for(target, jobs["job"])
    problems = _usage(target).problems
    expect(not problems, f"{len(problems)} rows: {[p.why for p in problems[:3]]}")


def _texts(target: Target, jobs: Mapping[str, Ran]) -> None:
    found = _wait_for(target, jobs["job"])[0]
    expect(all(isinstance(v, str) for v in found.fields.values()) and found.fields, "a field is no text")


def _format(target: Target, jobs: Mapping[str, Ran]) -> None:
    _wait_for(target, jobs["job"])
    expect(all("/" in u.format for u in _usage(target).usages), "a record without a format")


def _cores(target: Target, jobs: Mapping[str, Ran]) -> None:
    found = _wait_for(target, jobs["job"])[0]
    told = re.compile(r"2\Z|.*\b(?:cpu|ncpus|nodes|cores|cgs)=2\b", re.DOTALL)
    expect(any(told.match(v) for v in found.fields.values()), "no field says that two cores were taken")  # fmt: skip


def _keys(usages: Sequence[SiteUsage]) -> Counter[tuple[tuple[str, str], ...]]:
    return Counter(tuple(sorted(u.fields.items())) for u in usages)


def _again(target: Target, jobs: Mapping[str, Ran]) -> None:
    _wait_for(target, jobs["job"])
    expect(_keys(_of(_usage(target), jobs["job"])) == _keys(_of(_usage(target), jobs["job"])), "they differ")


def _overlap(target: Target, jobs: Mapping[str, Ran]) -> None:
    _wait_for(target, jobs["job"])
    small, large = _of(_usage(target), jobs["job"]), _of(_usage(target, since=timedelta(hours=12)), jobs["job"])
    expect(len(large) == len(small), f"{len(large)} records in the larger window, {len(small)} in the smaller")


def _before(target: Target, jobs: Mapping[str, Ran]) -> None:
    _wait_for(target, jobs["job"])
    old = _usage(target, since=timedelta(days=3), until=timedelta(days=2))
    expect(not _of(old, jobs["job"]), "a record of today is in a window of two days ago")


def _of_login(target: Target, jobs: Mapping[str, Ran]) -> None:
    found = _wait_for(target, jobs["job"])
    login = re.compile(rf"(?<![\w.-]){re.escape(target.account.username)}(?![\w.-])")
    named = [u for u in found if any(login.search(v) for v in u.fields.values())]
    expect(named, "no field names the login")


def _array_records(target: Target, jobs: Mapping[str, Ran]) -> None:
    found = _wait_for(target, jobs["job"], 3)
    expect(len(found) == 3, f"{len(found)} records of three tasks")


def _never_ran(target: Target) -> None:
    job = target.run(target.spec(attributes=HELD))
    target.cancel(job)
    target.wait_ended([job])
    for usage in _of(_usage(target), job):
        elapsed = {usage.fields.get(k, "0") for k in ("ElapsedRaw", "elapsed")}
        expect(elapsed <= {"0", ""}, f"it is recorded with {elapsed}")


# ---------------------------------------------------------------- logs


def _whole() -> bytes:
    return b"".join(b"line %08d of the output\n" % i for i in range(1, 40001))


def _start(target: Target, jobs: Mapping[str, Ran]) -> None:
    jobs["job"].ended()
    expect(target.output(jobs["job"])[:22] == _whole()[:22], "it begins otherwise")


def _middle(target: Target, jobs: Mapping[str, Ran]) -> None:
    jobs["job"].ended()
    _whole_there(target, jobs["job"])
    chunk = target.adapter.log.read(target.account, jobs["job"].stdout, offset=100001, limit=1000)
    expect(chunk.data == _whole()[100001:101001] and chunk.offset == 100001, f"{chunk.data[:30]!r}")


def _limit(target: Target, jobs: Mapping[str, Ran]) -> None:
    jobs["job"].ended()
    for limit in (1, 17, 4096):
        chunk = target.adapter.log.read(target.account, jobs["job"].stdout, offset=0, limit=limit)
        expect(len(chunk.data) <= limit, f"{len(chunk.data)} bytes for {limit}")


def _pages(target: Target, jobs: Mapping[str, Ran]) -> None:
    jobs["job"].ended()
    _whole_there(target, jobs["job"])
    found = target.read_all(jobs["job"].stdout, 131071)
    expect(found == _whole(), f"{len(found)} bytes, not {len(_whole())}")


def _whole_there(target: Target, job: Ran) -> None:
    end = time.monotonic() + 10
    while len(target.output(job)) < len(_whole()) and time.monotonic() < end:
        time.sleep(0.5)


def _at_end(target: Target, jobs: Mapping[str, Ran]) -> None:
    size = len(target.output(jobs["job"]))
    chunk = target.adapter.log.read(target.account, jobs["job"].stdout, offset=size, limit=100)
    expect(chunk.data == b"" and chunk.eof, f"{len(chunk.data)} bytes, eof {chunk.eof}")


def _far(target: Target, jobs: Mapping[str, Ran]) -> None:
    jobs["job"].ended()
    chunk = target.adapter.log.read(target.account, jobs["job"].stdout, offset=1 << 40, limit=100)
    expect(chunk.data == b"", "bytes from nowhere")


def _size(target: Target, jobs: Mapping[str, Ran]) -> None:
    jobs["job"].ended()
    _whole_there(target, jobs["job"])
    chunk = target.adapter.log.read(target.account, jobs["job"].stdout, offset=0, limit=10)
    expect(chunk.size == len(_whole()), f"{chunk.size}, not {len(_whole())}")


def _bytes(target: Target, jobs: Mapping[str, Ran]) -> None:
    jobs["job"].ended()
    expect(target.output(jobs["job"]) == b"a\0b\xffc", f"{target.output(jobs['job'])!r}")


def _grows(target: Target) -> None:
    job = target.run(target.spec("printf one\nsleep 4\nprintf two\n"))
    end = time.monotonic() + 60
    seen = b""
    while b"one" not in seen and time.monotonic() < end:
        try:
            seen = target.read_all(job.stdout)
        except NotFound:
            time.sleep(0.2)
    early = seen
    target.wait_ended([job])
    expect(early.startswith(b"one"), "nothing was seen while it ran")
    expect(target.output(job) == b"onetwo", f"{target.output(job)!r}")


def _not_there(target: Target) -> None:
    try:
        target.adapter.log.read(target.account, f"{target.account.home}/no-such-output", offset=0, limit=10)
    except NotFound:
        return
    raise Failed("it was found")


def _folder(target: Target) -> None:
    try:
        target.adapter.log.read(target.account, target.account.home, offset=0, limit=10)
    except SiteError:
        return
    raise Failed("it was read")


def _others(target: Target) -> None:
    try:
        chunk = target.adapter.log.read(target.account, "/etc/shadow", offset=0, limit=10)
    except (SiteError, CredentialRefused):
        return
    raise Failed(f"{len(chunk.data)} bytes of /etc/shadow were read")


def _empty(target: Target) -> None:
    job = target.run(target.spec("true\n"))
    target.wait_ended([job])
    expect(target.output(job) == b"", "it is not empty")


def _home(target: Target) -> None:
    job = target.run(target.spec("printf x > ~/penstock-check.home\n"))
    target.wait_ended([job])
    job.ended()
    found = target.adapter.log.read(target.account, "~/penstock-check.home", offset=0, limit=10)
    expect(found.data == b"x", f"{found.data!r}")
