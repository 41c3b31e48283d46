"""Directives of a person's script become fields of the job, and what has no field says what to write instead."""

from __future__ import annotations

from typing import Any

import pytest

from site_adapters.directives import lift
from site_adapters.pbs.options import chunk_shape
from site_adapters.types import Array, Resources

MIB, GIB = 1024**2, 1024**3


def fields(*lines: str, first: str = "#!/bin/bash") -> dict[str, Any]:
    lifted = lift("\n".join([first, *(f"#PBS {line}" for line in lines), "true", ""]))
    assert lifted.problems == (), lifted.problems
    return {name.rpartition(".")[2]: value for name, value in lifted.fields.items()}


def problem(*lines: str, first: str = "#!/bin/bash") -> str:
    (found,) = lift("\n".join([first, *(f"#PBS {line}" for line in lines), "true", ""])).problems
    return found.detail


def test_a_usual_pbs_script_is_read_whole() -> None:
    found = fields(
        "-N wind", "-q batch", "-A climate", "-l select=2:ncpus=16:mpiprocs=4:mem=32gb", "-l walltime=01:30:00",
        "-o out.txt", "-j oe", "-r n", "-V", "-m abe -M me@example.org", "-v OMP_NUM_THREADS=4,MODE=fast",
    )  # fmt: skip
    assert found == {
        "name": "wind", "queue_name": "batch", "account": "climate", "node_count": 2, "processes_per_node": 4,
        "cpu_cores_per_process": 4, "memory": 32 * GIB, "duration": 5400, "stdout_path": "out.txt",
        "stderr_path": "out.txt", "rerunnable": False, "environment": {"OMP_NUM_THREADS": "4", "MODE": "fast"},
    }  # fmt: skip


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("-l select=4", {"process_count": 4, "cpu_cores_per_process": 1}),
        ("-l select=1:ncpus=8", {"node_count": 1, "processes_per_node": 1, "cpu_cores_per_process": 8}),
        ("-l select=ncpus=8:mpiprocs=8", {"node_count": 1, "processes_per_node": 8, "cpu_cores_per_process": 1}),
        ("-l nodes=2:ppn=8,walltime=90", {"node_count": 2, "processes_per_node": 8, "duration": 90}),
        ("-l nodes=1:ppn=4:gpus=4", {"node_count": 1, "processes_per_node": 4, "gpu_cores_per_process": 1}),
        ("-l ncpus=4,mem=500mb", {"process_count": 1, "cpu_cores_per_process": 4, "memory": 500 * MIB}),
        ("-J 1-9:2", {"array": Array("1-9:2")}),
        ("-t 0-4,7%2", {"array": Array("0-4,7", 2)}),
        ("-h", {"submit_as_hold": True}),
        ("-l walltime=10:30", {"duration": 630}),
        ("-P p7", {"custom_attributes": {"pbs.project": "p7"}}),
        ("-l matlab=1", {"custom_attributes": {"pbs.resource.matlab": "1"}}),
        ("-l place=excl:group=rack", {"exclusive_node_use": True, "custom_attributes": {"pbs.place": "group=rack"}}),
        ("-l qos=high", {"qos": "high"}),
        ("-l place=pack:shared", {"custom_attributes": {"pbs.place": "pack:shared"}}),
        ("-W umask=022", {"custom_attributes": {"pbs.umask": "022"}}),
        ("-o host-less/path -e :/abs/err", {"stdout_path": "host-less/path", "stderr_path": "/abs/err"}),
    ],
)
def test_each_option_has_its_field(line: str, expected: dict[str, Any]) -> None:
    assert fields(line) == expected


def test_chunks_that_are_to_be_scattered_are_nodes() -> None:
    assert fields("-l select=4:ncpus=2", "-l place=scatter:excl") == {
        "process_count": 4, "cpu_cores_per_process": 2, "node_count": 4, "exclusive_node_use": True,
    }  # fmt: skip
    assert fields("-l place=scatter", "-l select=4:ncpus=2")["node_count"] == 4
    assert fields("-l select=2:ompthreads=3:ncpus=3:model=b")["custom_attributes"] == {"pbs.chunk": "model=b"}
    assert fields("-l select=2:ompthreads=3:ncpus=3")["environment"] == {"OMP_NUM_THREADS": "3"}


@pytest.mark.parametrize("text", ["3:ncpus=4", "2:ncpus=8:mpiprocs=4", "1:ncpus=6", "2:ncpus=8:mpiprocs=8:mem=1gb"])
def test_what_was_read_is_what_our_own_script_asks_for_again(text: str) -> None:
    found = fields(f"-l select={text}")
    found.pop("custom_attributes", None)
    r = Resources(**found)
    chunks, ranks = chunk_shape(r)
    cores = ranks * (r.cpu_cores_per_process or 1)
    asked = dict(word.split("=") for word in text.split(":")[1:])
    assert (chunks, cores, ranks) == (int(text[0]), int(asked["ncpus"]), int(asked.get("mpiprocs", 1)))


@pytest.mark.parametrize(
    ("lines", "says"),
    [
        (["-j oe"], "-o FILE"),
        (["-W depend=afterok:12"], "dependencies"),
        (["-l select=1:ncpus=2+2:ncpus=4"], "several kinds"),
        (["-l nodes=cn001:ppn=2"], "no names"),
        (["-l select=1:ncpus=3:mpiprocs=2"], "multiples of mpiprocs"),
        (["-a 202612312359"], "attributes.start_time"),
        (["-q batch@other"], "placement"),
        (["-o host:/x"], "without a host"),
        (["-v HOME"], "-v HOME=value"),
        (["-S /bin/tcsh"], "#!/bin/tcsh"),
        (["-I"], "-I has no field"),
        (["-C '#XYZ'"], "-C has no field"),
        (["-l walltime=soon"], "is no time"),
        (["-l select=2:ncpus=2:mem=lots"], "no amount of memory"),
        (["-l nodes=2:ppn=2,mem=4gb"], "what each node needs"),
        (["-l mem=4gb", "-l nodes=2:ppn=2"], "what each node needs"),
        (["-N"], "has no value"),
        (["name"], "no option of qsub"),
    ],
)
def test_what_has_no_field_says_what_to_write(lines: list[str], says: str) -> None:
    assert says in problem(*lines)


def test_the_shell_is_the_first_lines_or_becomes_it() -> None:
    assert fields("-S /bin/bash", first="#!/usr/bin/env bash") == {}
    lifted = lift("#PBS -S /bin/csh\n#PBS -N x\nsetenv A 1\n")
    assert lifted.script.startswith("#!/bin/csh\n## lifted by penstock: PBS -S /bin/csh\n")


def test_a_script_for_both_schedulers_must_ask_for_the_same() -> None:
    both = "#!/bin/sh\n#SBATCH -N 2\n#PBS -l nodes={}:ppn=1\ntrue\n"
    assert lift(both.format(2)).fields["resources.node_count"] == 2
    (told,) = lift(both.format(3)).problems
    assert "the #SBATCH lines say 2, the #PBS lines 3" in told.detail and told.line == 3


def test_no_directive_is_left_for_a_scheduler_to_read() -> None:
    script = "#!/bin/sh\n#PBS -N a\n#SBATCH -J a\ntrue\n#PBS -q late\n"
    left = [line for line in lift(script).script.splitlines() if line.startswith(("#PBS", "#SBATCH"))]
    assert left == []


@pytest.mark.parametrize("kind", ["SBATCH", "PBS"])
def test_directive_without_a_space_is_one(kind: str) -> None:
    """A real sbatch makes an array of `#SBATCH--array=0-3` (22.05): dropped, one task would run instead of four."""
    option = {"SBATCH": "--array=0-3", "PBS": "-J 0-3"}[kind]

    lifted = lift(f"#!/bin/sh\n#{kind}{option}\n#{kind}ooks are a comment\ntrue\n")

    assert lifted.fields == {"array": Array("0-3")}
    assert lifted.problems == ()
    assert f"\n#{kind}-" not in lifted.script


@pytest.mark.parametrize("moment", ["0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-14:00"])
def test_moment_beyond_all_calendars_is_a_problem_of_its_line(moment: str) -> None:
    lifted = lift(f"#!/bin/sh\n#SBATCH --begin={moment}\ntrue\n")

    assert [problem.line for problem in lifted.problems] == [2]


def test_node_shared_with_oneself_is_not_taken_for_a_whole_node() -> None:
    lifted = lift("#!/bin/sh\n#SBATCH --exclusive=user\ntrue\n")

    assert lifted.fields == {}
    assert "user" in lifted.problems[0].detail
