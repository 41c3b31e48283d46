"""sbatch of the emulated Slurm: options, script, and what the controller refuses, word for word as recorded."""

from __future__ import annotations

import os
import re
import shlex
import sys
from pathlib import Path
from typing import Any

from core import HELD, NO_TASK, QUEUED, Answer, Job, Refusal, me
from slurm_cluster import QOS, SlurmCluster, minutes, moment

_SHORT = {"J": "job-name", "o": "output", "e": "error", "i": "input", "p": "partition", "A": "account", "q": "qos",
          "t": "time", "N": "nodes", "n": "ntasks", "c": "cpus-per-task", "D": "chdir", "H": "hold", "a": "array",
          "C": "constraint", "w": "nodelist", "x": "exclude", "d": "dependency", "L": "licenses",
          "M": "clusters"}  # fmt: skip
_FLAGS = {"parsable", "ignore-pbs", "hold", "requeue", "no-requeue", "exclusive", "contiguous", "use-min-nodes"}
_VALUES = {
    *_SHORT.values(), "export", "comment", "open-mode", "ntasks-per-node", "mem", "gpus-per-task", "reservation",
    "priority", "nice", "gres", "mem-per-cpu", "mem-per-gpu", "tmp", "hint", "distribution", "switches",
    "cpus-per-gpu", "gpus", "gpus-per-node", "threads-per-core", "sockets-per-node", "cores-per-socket", "wckey",
    "signal", "network", "mincpus", "begin", "deadline", "wrap", "uid", "kill-on-invalid-dep",
}  # fmt: skip
_SCRIPT_MAX = 4 * 1024 * 1024
_ARRAY_MAX = 1001


def sbatch(c: SlurmCluster, words: list[str], data: str | None = None) -> Answer:
    options, rest = _options(words)
    script, name = _script(options, rest, data)
    asked = {**_options(_directives(script))[0], **options}
    job = _job(c, asked, script, name)
    job.more["submit_line"] = " ".join(["sbatch", *words])
    if len(script) > _SCRIPT_MAX:
        raise _refused("Pathname of a file, directory or other parameter too long")
    with c.locked():
        _check(c, job, asked)
        job.seq = c.next_seq()
        folder = c.root / "scripts"
        folder.mkdir(exist_ok=True)
        file = folder / str(job.seq)
        file.write_text(script, "utf-8", errors="surrogateescape")
        file.chmod(0o755)
        job.argv = [str(file)]
        tasks = _tasks(asked.get("array", ""))
        fields = job.fields()
        c.save(*([Job(**{**fields, "task": t}) for t in tasks] or [job]))
        c.schedule()
    where = f";{c.name}" if "clusters" in asked else ""
    return Answer(f"{job.seq}{where}\n" if "parsable" in asked else f"Submitted batch job {job.seq}\n")


def _options(words: list[str]) -> tuple[dict[str, str], list[str]]:
    found: dict[str, str] = {}
    position = 0
    while position < len(words):
        word = words[position]
        if not word.startswith("-") or word == "-":
            return found, words[position:]
        position += 1
        long = word.startswith("--")
        name, equals, value = word[2:].partition("=") if long else (_SHORT.get(word[1:2], ""), word[2:], word[2:])
        if name in _FLAGS or name == "hold":
            found[name] = value
            continue
        if name not in _VALUES:
            text = f"sbatch: unrecognized option '{word}'\n" if long else f"sbatch: invalid option -- '{word[1:2]}'\n"
            raise Refusal(text + 'Try "sbatch --help" for more information\n', 255)
        if not equals:
            value = words[position] if position < len(words) else ""
            position += 1
        found[name] = value
    return found, []


def _script(options: dict[str, str], rest: list[str], data: str | None) -> tuple[str, str]:
    if "wrap" in options:
        return f"#!/bin/sh\n# This script was created by sbatch --wrap.\n\n{options['wrap']}\n", "wrap"
    name = "sbatch"
    if rest:
        try:
            text, name = Path(rest[0]).read_text("utf-8", errors="surrogateescape"), Path(rest[0]).name
        except OSError:
            raise Refusal(f"sbatch: error: Unable to open file {rest[0]}\n", 1) from None
    else:
        text = data if data is not None else sys.stdin.buffer.read().decode("utf-8", "surrogateescape")
    if not text:
        raise Refusal("sbatch: error: Batch script is empty!\n", 1)
    if not text.startswith("#!"):
        raise Refusal("sbatch: error: This does not look like a batch script.  The first\n"
                      "sbatch: error: line must start with #! followed by the path to an interpreter.\n"
                      "sbatch: error: For instance: #!/bin/sh\n", 1)  # fmt: skip
    if "\r\n" in text:
        raise Refusal("sbatch: error: Batch script contains DOS line breaks (\\r\\n)\n"
                      "sbatch: error: instead of expected UNIX line breaks (\\n).\n", 1)  # fmt: skip
    return text, name


def _directives(script: str) -> list[str]:
    words: list[str] = []
    for line in script.splitlines():
        if line.startswith("#SBATCH"):
            words += shlex.split(line.removeprefix("#SBATCH"), comments=True)
        elif line.strip() and not line.startswith("#"):
            break  # what comes after the first command is ignored without a word
    return words


def _refused(text: str, code: int = 1, *before: str) -> Refusal:
    said = [*before, f"Batch job submission failed: {text}"]
    return Refusal("".join(f"sbatch: error: {line}\n" for line in said), code)


def _number(asked: dict[str, str], name: str, default: int) -> int:
    text = asked.get(name, str(default))
    if not re.fullmatch(r"\d+", text) or int(text) == 0:
        raise Refusal(f'sbatch: error: Invalid numeric value "{text}" for --{name}.\n', 1)
    return int(text)


def _job(c: SlurmCluster, asked: dict[str, str], script: str, name: str) -> Job:
    limit = minutes(asked["time"]) if "time" in asked else None
    if "time" in asked and limit is None:
        raise Refusal("sbatch: error: Invalid --time specification\n", 255)
    if not re.fullmatch(r"\d+(-\d+)?", asked.get("nodes", "1")):
        raise Refusal(f'sbatch: error: "{asked["nodes"]}" is not a valid node count\n', 255)
    if not re.fullmatch(r"\d+[KMGT]?", asked.get("mem", "0")):
        raise Refusal("sbatch: error: Invalid --mem specification\n", 255)
    if "uid" in asked and os.geteuid() != 0:
        raise Refusal("sbatch: error: --uid only permitted by root user\n", 255)
    per_node, each = c.get("cores_per_node", 4), _number(asked, "cpus-per-task", 1)
    named = int(asked["nodes"].partition("-")[0]) if "nodes" in asked else 0
    on_node = _number(asked, "ntasks-per-node", 1) if "ntasks-per-node" in asked else 0
    ntasks = _number(asked, "ntasks", max(1, named) * max(1, on_node))
    nodes = named or (-(-ntasks // on_node) if on_node else max(1, -(-ntasks * each // per_node)))
    partition = asked.get("partition") or next((n for n, p in c.partitions().items() if p.get("default")), "")
    rules = c.partitions().get(partition, {})
    if limit is None:
        limit = rules.get("default_time") or rules.get("max")
    association = c.association(me())
    percent = asked.get("array", "").partition("%")[2]
    cwd = asked.get("chdir", str(Path.cwd()))
    output = asked.get("output", "slurm-%A_%a.out" if "array" in asked else "slurm-%j.out")
    more: dict[str, Any] = {
        "ntasks": ntasks, "each": each, "named_nodes": named, "limit": limit, "submit_dir": str(Path.cwd()),
        "account": asked.get("account", association["accounts"][0] if association["accounts"] else ""),
        "qos": asked.get("qos", association["qos"][0] if association["qos"] else ""),
        "comment": asked.get("comment", ""),
        "output": output, "error": asked.get("error", output), "append": asked.get("open-mode") == "append",
        "rerunnable": "no-requeue" not in asked, "gres": _gres(c, asked.get("gres", "")),
        "reservation": asked.get("reservation", ""), "priority": int(asked.get("priority", 1)),
    }  # fmt: skip
    more |= {"begin": moment(asked["begin"], c.now())} if "begin" in asked else {}
    more |= {"max_parallel": int(percent)} if percent.isdigit() else {}
    more |= {"held": "user"} if "hold" in asked else {}
    return Job(
        seq=0, task=NO_TASK, name=asked.get("job-name", name), user=me(), queue=partition, argv=[], cwd=cwd,
        environment=_environment(asked.get("export", "ALL")), stdout="", stderr="", cores=ntasks * each, nodes=nodes,
        exclusive="exclusive" in asked, walltime_s=limit * 60 if limit and limit > 0 else None,
        state=HELD if "hold" in asked else QUEUED, submitted=c.now(), changed=c.now(), more=more,
    )  # fmt: skip


def _environment(export: str) -> dict[str, str]:
    """The caller's whole environment travels, unless told otherwise; then srun inside inherits that word."""
    if export == "ALL":
        return dict(os.environ)
    named = dict(part.partition("=")[::2] for part in export.split(",") if "=" in part)
    return ({"SLURM_EXPORT_ENV": export} if export != "NIL" else {}) | named


def _gres(c: SlurmCluster, text: str) -> dict[str, int]:
    found: dict[str, int] = {}
    for part in filter(None, text.split(",")):
        kind, *_, count = [*part.split(":"), "1"] if ":" not in part else part.split(":")
        if kind not in c.get("gres", {}) or not count.isdigit():
            raise Refusal("sbatch: error: Invalid generic resource (gres) specification\n", 1)
        found[kind] = int(count)
    return found


def _tasks(text: str) -> list[int]:
    tasks: list[int] = []
    for part in filter(None, text.partition("%")[0].split(",")):
        match = re.fullmatch(r"(\d+)(?:-(\d+))?(?::(\d+))?", part)
        if match is None:
            raise _refused("Invalid job array specification")
        tasks += range(int(match[1]), int(match[2] or match[1]) + 1, int(match[3] or 1))
    if any(task >= _ARRAY_MAX for task in tasks):
        raise _refused("Invalid job array specification")
    return sorted(set(tasks))


def _check(c: SlurmCluster, job: Job, asked: dict[str, str]) -> None:
    """What the controller refuses, whatever the limits."""
    if asked.get("clusters", c.name) != c.name:
        where = asked["clusters"]
        raise Refusal(f"sbatch: error: No cluster '{where}' known by database.\n"
                      f"sbatch: error: '{where}' can't be reached now, or it is an invalid entry for --cluster.  "
                      "Use 'sacctmgr list clusters' to see available clusters.\n", 1)  # fmt: skip
    rules = c.partitions().get(job.queue)
    if rules is None:
        raise _refused("Invalid partition name specified", 1, f"invalid partition specified: {job.queue}")
    if job.more["account"] not in c.association(me())["accounts"]:
        raise _refused("Invalid account or account/partition combination specified")
    if job.more["qos"] not in c.association(me())["qos"]:
        raise _refused("Invalid qos specification")
    if rules.get("state", "UP") not in ("UP", "DOWN"):
        raise _refused("Required partition not available (inactive or drain)")
    if asked.get("constraint", "") not in ("", *c.get("features", [])):
        raise _refused("Invalid feature specification")
    if "nodelist" in asked and not set(asked["nodelist"].split(",")) <= {c.node(n) for n in range(c.get("nodes", 1))}:
        raise _refused("Invalid node name specified")
    if job.more["reservation"] not in ("", *(r["name"] for r in c.get("reservations", []))):
        raise _refused("Requested reservation is invalid")
    if "licenses" in asked:
        raise _refused("Invalid license specification")
    if _mib(asked.get("mem", "0")) > c.get("memory_mib", 32000):
        raise _refused("Requested node configuration is not available", 1, "Memory specification can not be satisfied")
    if any(count > c.get("gres", {})[kind] for kind, count in job.more["gres"].items()):
        raise _refused("Requested node configuration is not available")
    _tasks(asked.get("array", ""))
    _submit_limit(c, job)
    _part_limits(c, job, rules)


def _mib(text: str) -> int:
    unit = {"K": 1 / 1024, "M": 1, "G": 1024, "T": 1024**2}.get(text[-1:], 1)
    return int(int(text.rstrip("KMGT") or 0) * unit)


def _submit_limit(c: SlurmCluster, job: Job) -> None:
    most = c.get("qos", QOS).get(job.more["qos"], {}).get("submit_max")
    mine = [j for j in c.jobs("user = ? AND state != 'ended'", job.user) if j.more["qos"] == job.more["qos"]]
    if most is not None and len(mine) >= most:
        text = "Job violates accounting/QOS policy (job submit limit, user's size and/or time limits)"
        raise _refused(text, 1, "QOSMaxSubmitJobPerUserLimit")


def _part_limits(c: SlurmCluster, job: Job, rules: dict[str, Any]) -> None:
    """What can never run: refused with EnforcePartLimits=ALL; accepted, and waiting for ever, without."""
    nodes, per_node = c.get("nodes", 1), c.get("cores_per_node", 4)
    limit, most = job.more["limit"], rules.get("max")
    never: tuple[str, Refusal] | None = None
    if job.more["account"] not in rules.get("accounts", [job.more["account"]]):
        never = ("AccountNotAllowed", _refused("Invalid account or account/partition combination specified"))
    elif job.nodes > nodes and job.more["named_nodes"]:
        never = ("PartitionConfig", _refused("Node count specification invalid"))
    elif job.more["each"] > per_node:
        unmet = "CPU count per node can not be satisfied"
        never = ("PartitionConfig", _refused("Requested node configuration is not available", 1, unmet))
    elif job.cores > job.nodes * per_node or job.nodes > nodes:
        never = ("PartitionConfig", _refused("More processors requested than permitted"))
    elif most is not None and (limit is None or limit <= 0 or limit > most):
        text = "Requested time limit is invalid (missing or exceeds some limit)"
        never = ("PartitionTimeLimit" if limit and limit > 0 else "PartitionConfig", _refused(text))
    if never is not None and c.get("enforce_part_limits", False):
        raise never[1]
    wall = c.get("qos", QOS).get(job.more["qos"], {}).get("wall_max")
    if never is not None:
        job.more["never"] = never[0]
    elif wall is not None and limit is not None and limit > wall:
        job.more["never"] = "QOSMaxWallDurationPerJobLimit"
