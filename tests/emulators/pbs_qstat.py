"""qstat, pbsnodes and qselect of the emulated PBS."""

from __future__ import annotations

import json
import re
from typing import Any

from core import NO_TASK, Answer, Job, Refusal, me
from pbs_qsub import options_of
from pbs_server import QUEUES, VERSION, PbsCluster, hms


def parse_id(c: PbsCluster, text: str, program: str) -> tuple[int, str, str]:
    """(number, task part, the id as the server writes it)."""
    match = re.fullmatch(r"(\d+)(\[[\d-]*\])?(?:\.([A-Za-z0-9.-]+))?", text)
    if match is None:
        raise Refusal(f"{program}: illegally formed job identifier: {text}\n", 1)
    return int(match[1]), match[2] or "", f"{match[1]}{match[2] or ''}.{match[3] or c.server}"


def qstat(c: PbsCluster, words: list[str]) -> Answer:
    flags = {w for w in words if w.startswith("-")}
    letters = set("".join(w[1:] for w in flags if not w.startswith("--") and w != "-F"))
    form = words[words.index("-F") + 1] if "-F" in words else "text"
    ids = [w for i, w in enumerate(words) if not w.startswith("-") and (i == 0 or words[i - 1] not in ("-F", "-u"))]
    if "--version" in flags:
        return Answer(f"pbs_version = {VERSION}\n")
    if "B" in letters:
        return _server(c, full="f" in letters)
    if "Q" in letters:
        return _queues(c, form)
    found, said, code = _selected(c, ids, history="x" in letters or c.torque, tasks="t" in letters)
    if "f" not in letters:
        return Answer(_table(c, found), said, code)
    if form == "json" and not c.torque:
        if code and len(ids) > 1:  # as recorded: beside an id that fails, only the first one is answered
            found = [j for j in found if j.seq == int(re.match(r"\d+", ids[0])[0])]  # type: ignore[index]
        jobs = {c.id_of(j): c.attributes(j) for j in found}
        return Answer(as_json(c, {"Jobs": jobs} if jobs else {}), said, code)
    return Answer("".join(_text(c, j) for j in found), said, code)


def _selected(c: PbsCluster, ids: list[str], *, history: bool, tasks: bool) -> tuple[list[Job], str, int]:
    off = history and not c.torque and not c.get("history", True)
    if not ids:
        jobs = [j for j in (c.jobs() if history else _live(c)) if not c.expired(j) and _visible(c, j)]
        said = "qstat: PBS is not configured to maintain job history \n" if off else ""
        return [j for j in jobs if tasks or j.task == NO_TASK], said, 0
    found: list[Job] = []
    said, code = "", 0
    for text in ids:
        try:
            number, part, whole = parse_id(c, text, "qstat")
        except Refusal as exc:
            return [], str(exc), exc.code
        jobs = jobs_of(c, number, part, tasks)
        if not jobs and off:
            said += f"qstat: PBS is not configured to maintain job history {whole}\n"
        elif not jobs:
            said, code = said + f"qstat: Unknown Job Id {whole}\n", 153
        elif not history and all(c.letter(j)[0] == "F" for j in jobs):
            said += f"qstat: {whole} Job has finished, use -x or -H to obtain historical job information\n"
            code = code or 35
        else:
            found += [j for j in jobs if _visible(c, j)]
    return found, said, code


def _live(c: PbsCluster) -> list[Job]:
    seqs = {j.seq for j in c.jobs("state != 'ended'")}
    return [j for seq in sorted(seqs) for j in c.jobs("seq = ?", seq)]


def jobs_of(c: PbsCluster, number: int, part: str, tasks: bool) -> list[Job]:
    jobs = [j for j in c.jobs("seq = ?", number) if not c.expired(j)]
    if part in ("", "[]"):
        return jobs if tasks else jobs[:1]
    return [j for j in jobs if f"[{j.task}]" == part]


def _visible(c: PbsCluster, job: Job) -> bool:
    return bool(job.user == me() or c.get("query_other_jobs", True) or me() in c.get("operators", []))


def as_json(c: PbsCluster, members: dict[str, Any]) -> str:
    head = {"timestamp": c.now(), "pbs_version": VERSION, "pbs_server": c.server, **members}
    return _object(head, 1) + "\n"


def _object(value: dict[str, Any], depth: int) -> str:
    tabs = "\t" * depth
    lines = [f"{tabs}{json.dumps(k)}:\t{_value(v, depth, k)}" for k, v in value.items()]
    return "{\n" + ",\n".join(lines) + "\n" + "\t" * (depth - 1) + "}"


def _value(value: Any, depth: int, name: str) -> str:
    if isinstance(value, dict):
        return _object({k: _mangled(v) if name == "Variable_List" else v for k, v in value.items()}, depth + 1)
    return json.dumps(value, ensure_ascii=False)


def _mangled(text: str) -> Any:
    """Variables are not faithful in JSON: what looks like a number is one."""
    if re.fullmatch(r"-?\d+", text):
        return int(text) if len(text) < 19 else float(text)
    if re.fullmatch(r"-?\d+(\.\d+)?([eE][+-]?\d+)?", text):
        number = float(text)
        return int(number) if number.is_integer() else number
    if text in ("true", "false", "null"):
        return {"true": True, "false": False, "null": None}[text]
    return text.replace("\\", "\\\\\\\\")


def _text(c: PbsCluster, job: Job) -> str:
    lines = [f"Job Id: {c.id_of(job)}"]
    small = {"Exit_status": "exit_status", "obittime": "comp_time", "stime": "start_time",
             "Submit_arguments": "submit_args"}  # fmt: skip
    for name, value in c.attributes(job).items():
        shown = small.get(name, name) if c.torque else name
        if name == "Variable_List":
            lines += _folded(f"    {shown} = " + ",".join(f"{k}={v}" for k, v in value.items()))
        elif isinstance(value, dict):
            lines += [f"    {shown}.{k} = {v}" for k, v in value.items()]
        else:
            lines += _folded(f"    {shown} = {value}")
    return "\n".join(lines) + "\n\n"


def _folded(line: str) -> list[str]:
    """Long lines go on behind a tab."""
    parts = [line[:78]]
    for start in range(78, len(line), 70):
        parts.append("\t" + line[start : start + 70])
    return parts


def _table(c: PbsCluster, jobs: list[Job]) -> str:
    if not jobs:
        return ""
    rows = ["Job id            Name             User              Time Use S Queue",
            "----------------  ---------------- ----------------  -------- - -----"]  # fmt: skip
    for job in jobs:
        used = c.used(job)["cput"] if job.runs else "0"
        rows.append(f"{c.id_of(job):<17} {job.name[:15]:<16} {job.user[:16]:<17} {used:>8} {c.letter(job)[0]} "
                    f"{job.queue:<16}")  # fmt: skip
    return "\n".join(rows) + "\n"


def _server(c: PbsCluster, *, full: bool) -> Answer:
    if not full:
        return Answer("Server             Max   Tot   Que   Run   Hld   Wat   Trn   Ext Status\n"
                      "---------------- ----- ----- ----- ----- ----- ----- ----- ----- -----------\n"
                      f"{c.server:<18} 0     0     0     0     0     0     0     0 Active\n")  # fmt: skip
    shown = {
        "server_state": "Active", "scheduling": c.get("scheduling", True), "default_queue": "workq",
        "query_other_jobs": c.get("query_other_jobs", True), "job_history_enable": c.get("history", True),
    }  # fmt: skip
    return Answer(f"Server: {c.server}\n" + "".join(f"    {k} = {v}\n" for k, v in shown.items()) + "\n")


def _queues(c: PbsCluster, form: str) -> Answer:
    found: dict[str, dict[str, Any]] = {}
    for name, rules in c.get("queues", QUEUES).items():
        a: dict[str, Any] = {"queue_type": "Execution"}
        a |= {"Priority": rules["priority"]} if "priority" in rules else {}
        a["total_jobs"] = sum(j.queue == name for j in c.jobs("state != 'ended'"))
        most: dict[str, Any] = {"walltime": hms(rules["walltime_max"])} if "walltime_max" in rules else {}
        most |= {"ncpus": rules["ncpus_max"]} if "ncpus_max" in rules else {}
        a |= {"resources_max": most} if most else {}
        a |= {"resources_default": {"walltime": hms(rules["walltime_default"])}} if "walltime_default" in rules else {}
        a |= {"enabled": str(rules.get("enabled", True)), "started": str(rules.get("started", True))}
        found[name] = a
    if form == "json" and not c.torque:
        return Answer(as_json(c, {"Queue": found}))
    text = ""
    for name, a in found.items():
        text += f"Queue: {name}\n"
        for key, value in a.items():
            pairs = value.items() if isinstance(value, dict) else [("", value)]
            text += "".join(f"    {key}{'.' if k else ''}{k} = {v}\n" for k, v in pairs)
        text += "\n"
    return Answer(text)


def pbsnodes(c: PbsCluster, words: list[str]) -> Answer:
    busy: dict[int, int] = {}
    exclusive: set[int] = set()
    for job in c.jobs("state = 'running'"):
        for node in job.place:
            busy[node] = busy.get(node, 0) + -(-job.cores // job.nodes)
            exclusive |= {node} if job.exclusive else set()
    nodes: dict[str, Any] = {}
    for n in range(c.get("nodes", 3)):
        cores = c.get("cores_per_node", 64)
        state = "down" if n in c.get("down_nodes", []) else "job-exclusive" if n in exclusive else "free"
        nodes[f"cn{n + 1:03}"] = {
            "Mom": f"cn{n + 1:03}", "ntype": "PBS", "state": state, "pcpus": cores,
            "resources_available": {"host": f"cn{n + 1:03}", "mem": "256gb", "ncpus": cores},
            "resources_assigned": {"ncpus": busy.get(n, 0)},
        }  # fmt: skip
    if "json" in words and not c.torque:
        return Answer(as_json(c, {"nodes": nodes}))
    text = ""
    for name, a in nodes.items():
        flat = {f"{k}.{i}": v for k, inner in a.items() if isinstance(inner, dict) for i, v in inner.items()}
        flat = {k: v for k, v in a.items() if not isinstance(v, dict)} | flat
        flat |= {"np": a["pcpus"]} if c.torque else {}
        text += f"{name}\n" + "".join(f"     {k} = {v}\n" for k, v in flat.items()) + "\n"
    return Answer(text)


def qselect(c: PbsCluster, words: list[str]) -> Answer:
    options, _ = options_of(words)
    jobs = c.jobs("task = -1") if "-x" in options else [j for j in _live(c) if j.task == NO_TASK]
    wanted = [("-N", lambda j: j.name), ("-A", lambda j: j.more["account"]), ("-P", lambda j: j.more.get("project"))]
    for option, of in wanted:
        if option in options:
            jobs = [j for j in jobs if of(j) == options[option]]
    shown = [c.id_of(j) for j in jobs if _visible(c, j) and not c.expired(j)]
    return Answer("".join(f"{s}\n" for s in shown))
