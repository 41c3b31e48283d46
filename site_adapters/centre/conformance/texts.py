"""Hostile texts: in names, environments, arguments, scripts and paths, each must arrive as it was sent."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from site_adapters.centre.conformance.kit import Check, Ran, Target, expect
from site_adapters.types import JobSpec

NAMES = {
    "pipe": "a|b|c", "blank": "a b", "quote": "it's", "double quote": 'say "x"', "dollar": "$(touch x)$HOME",
    "backtick": "`id`", "semicolon": "a;id;", "ampersand": "a&b", "percent": "%j%x%", "backslash": "a\\nb",
    "unit separator": "a\x1fb", "line break": "a\nb", "chinese": "测试", "accent": "é", "star": "*?[a]",
    "long": "x" * 150,
    "equals": "a=b,c=d", "hash": "#SBATCH", "braces": "{{ x }}", "tab": "a\tb",
}  # fmt: skip
VALUES = {
    "blank": "a b  c", "quote": "it's", "double quote": 'say "x"', "dollar": "$HOME $(id) ${X}", "backtick": "`id`",
    "comma": "a,b,c=1", "semicolon": "a;b", "line break": "a\nb\n", "tab": "a\tb", "chinese": "中文 ✓", "star": "*",
    "backslash": "a\\b\\\\n", "exclamation": "a!b", "empty": "", "long": "x" * 4096, "html": "a&b<c>",
    "percent": "%s%d%%", "dash": "--help",
}  # fmt: skip
SCRIPTS = {
    "no line break at the end": ("printf done", b"done"),
    "a here-document": ("cat <<EOF\n$((1+1)) EOF\nEOF\n", b"2 EOF\n"),
    "a marker like ours": ("cat <<'X'\nPENSTOCK-BODY\nX\n", b"PENSTOCK-BODY\n"),
    "unset variables are errors": ("set -u\nprintf ok\n", b"ok"),
    "a long line": (f"x={'y' * 60000}\nprintf %s ${{#x}}\n", b"60000"),
    "chinese": ("printf '%s' '作业'\n", "作业".encode()),
    "a directive in the middle": ("printf a\n#SBATCH --array=0-3\n#PBS -J 0-3\nprintf b\n", b"ab"),
    "functions": ("f() { printf '%s' \"$1\"; }\nf 'a b'\n", b"a b"),
    "a pipe that fails": (
        "printf a | grep -q b || printf caught\n",
        b"caught",
    ),
    "braces": ("printf '%s' '{{ x }} {% y %}'\n", b"{{ x }} {% y %}"),
    "dollars in quotes": ("printf '%s' '$HOME'\n", b"$HOME"),
    "carriage returns": ("printf a\r\nprintf b\r\n", b"ab"),
}


def checks(target: Target) -> Iterator[Check]:
    for kind, name in NAMES.items():
        yield Check(f"name/{kind}", "a job whose name holds this is run, shown and found by its tag",
                    "Names must be passed as one argument, and rows framed so that free text breaks nothing.",
                    _found_by_tag, {"job": target.spec()}, site_names={"job": name},
                    may_refuse=True)  # fmt: skip
    for kind, value in VALUES.items():
        spec = target.spec('printf %s "$V" | od -An -v -tx1 | tr -d " \\n"\n', environment={"V": value})
        yield _printed(f"environment/{kind}", "a value of the environment arrives byte by byte", spec,
                       value.encode().hex().encode())  # fmt: skip
    for kind, value in VALUES.items():
        spec = target.spec(executable="/usr/bin/printf", arguments=("[%s]", value))
        yield _printed(f"argument/{kind}", "an argument arrives byte by byte", spec, f"[{value}]".encode())
    for kind, (script, wanted) in SCRIPTS.items():
        yield _printed(f"script/{kind}", "a script runs as it was written", target.spec(script), wanted)


def _printed(name: str, proves: str, spec: JobSpec, wanted: bytes) -> Check:
    def judge(target: Target, jobs: Mapping[str, Ran]) -> None:
        jobs["job"].ended()
        seen = target.output(jobs["job"])
        expect(seen == wanted, f"it printed {seen[:80]!r}, not {wanted[:80]!r}")

    remedy = "Values must reach the job quoted, never through the scheduler's own lists."
    return Check(name, proves, remedy, judge, {"job": spec})


def _found_by_tag(target: Target, jobs: Mapping[str, Ran]) -> None:
    job = jobs["job"]
    job.ended()
    since = job.ref().submitted_at
    fence = job.submission.fence_name
    look = target.adapter.management.find([fence], accounts=[target.account], since=since)
    expect(look.good, f"the look failed: {look.error}")
    ids = {run.native_id for run in look.runs if fence in run.tags_seen}
    expect(ids == {job.native_id}, f"found {sorted(ids)} for {job.native_id}")
    expect(not look.problems, f"rows that do not parse: {[p.line[:60] for p in look.problems[:3]]}")
