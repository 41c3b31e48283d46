"""Reservations of the emulated PBS: pbs_rsub pbs_rstat pbs_rdel.

Not recorded (no real server had one in the lab): the form of `pbs_rstat -f` is the one that public documents of centres
show, attributes at the margin, times in the caller's zone.
"""

from __future__ import annotations

import time

from core import Answer, Refusal, me
from pbs_server import PbsCluster, stamp


def pbs_rsub(c: PbsCluster, words: list[str]) -> Answer:
    """`-N name -R start -E end --hosts HOST …`: a maintenance reservation, which only an operator may make."""
    if me() not in c.get("operators", []):
        raise Refusal("pbs_rsub: Unauthorized Request \n", 159)
    said = {word: words[i + 1] for i, word in enumerate(words) if word in ("-N", "-R", "-E")}
    start, end = (int(time.mktime(time.strptime(said[option], "%Y%m%d%H%M.%S"))) for option in ("-R", "-E"))
    with c.locked():
        queue = f"M{c.next_seq()}"
        made = {"queue": queue, "name": said.get("-N", "NULL"), "owner": me(), "start": start, "end": end,
                "hosts": words[words.index("--hosts") + 1 :]}  # fmt: skip
        c.put("reservations", [*c.get("reservations", []), made])
    return Answer(f"{queue}.{c.server} CONFIRMED\n")


def pbs_rstat(c: PbsCluster, words: list[str]) -> Answer:
    found = [r for r in c.get("reservations", []) if r["end"] > c.now()]
    if "-f" not in words:
        return Answer("".join(f"{r['queue']}.{c.server}\n" for r in found))
    return Answer("".join(_full(c, r) for r in found))


def _full(c: PbsCluster, r: dict) -> str:  # type: ignore[type-arg]
    cores = c.get("cores_per_node", 4)
    shown = {
        "Reserve_Name": r["name"], "Reserve_Owner": f"{r['owner']}@{c.server}",
        "reserve_state": "RESV_RUNNING" if r["start"] <= c.now() else "RESV_CONFIRMED", "reserve_substate": 2,
        "reserve_start": stamp(r["start"]), "reserve_end": stamp(r["end"]), "reserve_duration": r["end"] - r["start"],
        "queue": r["queue"], "Resource_List.ncpus": cores * len(r["hosts"]), "Resource_List.nodect": len(r["hosts"]),
        "resv_nodes": "+".join(f"({host}:ncpus={cores})" for host in r["hosts"]),
        "Authorized_Users": f"{r['owner']}@{c.server}", "server": c.server,
    }  # fmt: skip
    return f"Resv ID: {r['queue']}.{c.server}\n" + "".join(f"{k} = {v}\n" for k, v in shown.items()) + "\n"


def pbs_rdel(c: PbsCluster, words: list[str]) -> Answer:
    name = words[0].partition(".")[0]
    kept = [r for r in c.get("reservations", []) if r["queue"] != name]
    if len(kept) == len(c.get("reservations", [])):
        raise Refusal(f"pbs_rdel: Unknown Reservation Id  {words[0]}\n", 211)
    c.put("reservations", kept)
    return Answer("")
