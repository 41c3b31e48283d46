#!/usr/bin/env python3
"""Check a bill of Penstock without trusting Penstock: one file, Python's standard library only, nothing of the server.

    penstock_verify.py BUNDLE --log-key VKEY [--witness VKEY …] [--seen NOTE] [--signer operator=KEY …]

The bundle is lines of JSON (plain or .gz). What is checked, from the raw record upwards:
  raw record -> usage    the scheduler's own fields are read again, cores x seconds are computed again
  usage -> charge        the agreed policy meters again, the prices that held then split and price the run again, by
                         the hour and by volume too, in integers
  terms                  agreements and tariffs bear both sides' signatures, and are leaves of the log like all else
  charge -> entry        the postings of its entry balance, and are what the charge (less what it replaces) says
  record -> centre       what the centre signed of it: a run is evidence of one side or of both
  question -> answer     the operator signed what was asked (project, site, time) with the leaves that answer it
  entry -> log           the entry is a leaf of the log (RFC 6962): the root is computed from the leaves
  log -> signatures      the operator signed that root, witnesses cosigned it (C2SP), older trees are its beginning
  charges -> bill        the lines and totals of the bill are the sums of the charges, no run twice, none left out;
                         an invoice's lines, its tax and its one rounding are computed again, credit notes with it
  order -> bill          the price of what was ordered is divided again as its agreement says; no raw record is under it
  bill -> settlement     shares, fees, tax and exchange are computed again, both sides' signatures are checked

Exit code 0: everything fits. 1: something does not; each finding is one line. 2: the bundle cannot be read.
3: all that could be checked fits, and some charges were not metered again from a raw record: the summary says which.
Keys are yours to know: take them from a contract or a person, not from the bundle.
"""

import argparse
import base64
import gc
import gzip
import hashlib
import hmac
import json
import multiprocessing
import os
import re
import sys
import threading
from datetime import datetime, timedelta, timezone
from functools import lru_cache
from itertools import islice

CHUNK = 1500
SHOWN = 20

# ---------------------------------------------------------------- bytes


_encode = json.JSONEncoder(sort_keys=True, ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode
if json.encoder.c_make_encoder:  # what `encode` makes anew for each value
    _parts = json.encoder.c_make_encoder(None, None, json.encoder.encode_basestring, None, ":", ",", True, False, False)

    def _encode(value):
        return "".join(_parts(value, 0))


def jcs(value):
    """RFC 8785 for objects of text, booleans, nulls and small integers (bundles hold nothing else)."""
    return _encode(value).encode("utf-8")


def hashed(value):
    return hashlib.sha256(jcs(value)).hexdigest()


def b64(text):
    """Bytes that are written in one way only: spare bits at the end are none."""
    data = base64.b64decode(text, validate=True)
    if base64.b64encode(data).decode() != text:
        raise ValueError(f"{text!r} is no canonical base64")
    return data


# ---------------------------------------------------------------- Ed25519 (RFC 8032, section 5.1; verification only)

P = 2**255 - 19
L = 2**252 + 27742317777372353535851937790883648493
D = -121665 * pow(121666, P - 2, P) % P
SQRT_M1 = pow(2, (P - 1) // 4, P)


def _x_of(y, sign):
    if y >= P:
        return None
    x2 = (y * y - 1) * pow(D * y * y + 1, P - 2, P) % P
    if x2 == 0:
        return None if sign else 0
    x = pow(x2, (P + 3) // 8, P)
    if (x * x - x2) % P:
        x = x * SQRT_M1 % P
    if (x * x - x2) % P:
        return None
    return P - x if x & 1 != sign else x


def _point(data):
    y = int.from_bytes(data, "little")
    sign, y = y >> 255, y & (1 << 255) - 1
    x = _x_of(y, sign)
    return None if x is None else (x, y, 1, x * y % P)


def _add(p, q):
    a, b = (p[1] - p[0]) * (q[1] - q[0]) % P, (p[1] + p[0]) * (q[1] + q[0]) % P
    c, d = 2 * p[3] * q[3] * D % P, 2 * p[2] * q[2] % P
    e, f, g, h = b - a, d - c, d + c, b + a
    return e * f % P, g * h % P, f * g % P, e * h % P


def _times(s, p):
    q = (0, 1, 1, 0)
    while s:
        if s & 1:
            q = _add(q, p)
        p = _add(p, p)
        s >>= 1
    return q


_BASE_Y = 4 * pow(5, P - 2, P) % P
_BASE = (_x_of(_BASE_Y, 0), _BASE_Y, 1, _x_of(_BASE_Y, 0) * _BASE_Y % P)


def ed25519(public, message, signature):
    """Whether `signature` over `message` is of the owner of `public`."""
    if len(public) != 32 or len(signature) != 64:
        return False
    a, r = _point(public), _point(signature[:32])
    s = int.from_bytes(signature[32:], "little")
    if a is None or r is None or s >= L:
        return False
    k = int.from_bytes(hashlib.sha512(signature[:32] + public + message).digest(), "little") % L
    left, right = _times(s, _BASE), _add(r, _times(k, a))
    return not ((left[0] * right[2] - right[0] * left[2]) % P or (left[1] * right[2] - right[1] * left[2]) % P)


# ---------------------------------------------------------------- notes (c2sp.org/signed-note, tlog-cosignature)


def vkey(text):
    """(name, type, public key, key id) of `name+id+key`."""
    name, key_id, body = [*text.split("+", 2), "", ""][:3]
    try:
        raw = b64(body)
    except ValueError:
        raw = b""
    if len(raw) != 33 or raw[0] not in (1, 4):
        raise ValueError(
            f"{text!r} is no key of a log or a witness: it is written name+id+key (`evidence status` shows it)"
        )
    found = hashlib.sha256(name.encode() + b"\n" + raw).digest()[:4]
    if found.hex() != key_id:
        raise ValueError(f"{text!r}: its id is not that of the key")
    return name, raw[0], raw[1:], found


def read_note(text):
    """(origin, size, root, body, [(name, id, signature)])"""
    body, blank, rest = text.rpartition("\n\n")
    head = body.split("\n")
    if not blank or len(head) < 3 or not rest.endswith("\n") or not re.fullmatch("0|[1-9][0-9]*", head[1]):
        raise ValueError("a checkpoint that is no signed note")
    root = b64(head[2])
    signatures = []
    for line in rest[:-1].split("\n"):
        dash, name, value = line.split(" ")
        if dash != "—":
            raise ValueError("a checkpoint with a line that is no signature")
        raw = b64(value)
        signatures.append((name, raw[:4], raw[4:]))
    return head[0], int(head[1]), root, (body + "\n").encode(), signatures


def note_signed(note, key):
    """True: signed; False: this key did not sign; ValueError: a signature under its name is false."""
    name, kind, public, key_id = key
    signed = False
    for by, by_id, signature in note[4]:
        if (by, by_id) != (name, key_id):
            continue
        message = note[3]
        if kind == 4:
            message = b"cosignature/v1\ntime %d\n" % int.from_bytes(signature[:8], "big") + message
            signature = signature[8:]
        if not ed25519(public, message, signature):
            raise ValueError(f"the signature of {name} is false")
        signed = True
    return signed


# ---------------------------------------------------------------- the tree (RFC 6962, section 2.1; RFC 9162, 2.1.4.2)


def leaf_hash(leaf):
    return hashlib.sha256(b"\x00" + jcs(leaf)).digest()


def root_of(size, leaves, gaps):
    """The root of `size` leaves, of which some are known, from those (by index, ascending) and the hashes between."""
    sha256, indices, given = hashlib.sha256, [i for i, _ in leaves], iter(gaps)
    hashes = [h for _, h in leaves]

    def over(low, high, first, last):
        if first == last:
            return next(given)
        if high - low == 1:
            return hashes[first]
        middle = low + (1 << (high - low - 1).bit_length() - 1)
        a, b = first, last
        while a < b:
            c = (a + b) // 2
            a, b = (c + 1, b) if indices[c] < middle else (a, c)
        return sha256(b"\x01" + over(low, middle, first, a) + over(middle, high, a, last)).digest()

    try:
        found = over(0, size, 0, len(indices))
    except StopIteration:
        raise ValueError("hashes between the leaves are missing") from None
    if next(given, None) is not None:
        raise ValueError("there are more hashes between the leaves than there are gaps")
    return found


def consistent(old, new, old_root, new_root, proof):
    if old == new:
        return old_root == new_root and not proof
    if not 0 < old < new:
        return False
    steps = [old_root, *proof] if old & (old - 1) == 0 else list(proof)
    fn, sn = old - 1, new - 1
    while fn & 1:
        fn, sn = fn >> 1, sn >> 1
    if not steps:
        return False
    a = b = steps[0]
    for step in steps[1:]:
        if sn == 0:
            return False
        if fn & 1 or fn == sn:
            a, b = (hashlib.sha256(b"\x01" + step + x).digest() for x in (a, b))
            while fn and not fn & 1:
                fn, sn = fn >> 1, sn >> 1
        else:
            b = hashlib.sha256(b"\x01" + b + step).digest()
        fn, sn = fn >> 1, sn >> 1
    return sn == 0 and (a, b) == (old_root, new_root)


# ---------------------------------------------------------------- raw records -> usage

_NONE = ("", "None", "Unknown", "N/A")


@lru_cache(maxsize=4096)  # each time is read several times for one run
def clock(text):
    """Seconds since 1970 of a scheduler's time: epoch, or ISO in UTC."""
    if text in _NONE:
        return None
    if text.isdigit():
        return int(text)
    at = datetime.fromisoformat(text)
    return int((at if at.tzinfo else at.replace(tzinfo=timezone.utc)).timestamp())  # noqa: UP017 - Python 3.8 has no UTC


def span(text):
    """Seconds of [D-]HH:MM:SS."""
    if text in _NONE:
        return 0
    days, _, rest = text.rpartition("-")
    seconds = 0
    for part in rest.split(".")[0].split(":"):
        seconds = seconds * 60 + int(part)
    return int(days or 0) * 86400 + seconds


def tres(text, name):
    for item in text.split(","):
        key, _, value = item.partition("=")
        if key == name:
            return value
    return ""


def accelerators(text):
    """Of each kind the figure of its own name, else the sum of its models (gres/gpu:a100=2)."""
    found = {}
    for item in text.split(","):
        kind, _, model = item.partition("=")[0].partition(":")
        if kind in ("gres/gpu", "gres/dcu", "gres/npu", "gres/mlu", "gres/gcu"):
            found.setdefault(kind, {})[model] = int(item.partition("=")[2] or 0)
    return sum(models.get("", sum(models.values())) for models in found.values())


def mebibytes(text):
    if not text:
        return 0
    match = re.fullmatch(r"(\d+)(?:\.(\d+))?([KMGT]?)[nc]?", text)
    if match is None:
        raise ValueError(f"{text!r} is no amount of memory")
    scale = {"K": 1, "M": 1024, "": 1024, "G": 1024**2, "T": 1024**3}[match[3]]
    return int(match[1] + (match[2] or "")) * scale // (1024 * 10 ** len(match[2] or ""))


SLURM_AGAIN = ("EXPEDITING", "REQUEUED", "REQUEUE_FED", "REQUEUE_HOLD", "SPECIAL_EXIT")


def from_sacct(f):
    """What Slurm's own row says was used: allocated CPUs x elapsed seconds; memory and GPUs also while suspended."""
    submit, start, end = clock(f["Submit"]), clock(f["Start"]), clock(f["End"])
    elapsed, cpus, nodes = (
        int(f["ElapsedRaw"] or 0) if "ElapsedRaw" in f else span(f["Elapsed"]),
        int(f["AllocCPUS"] or 0),
        int(f.get("AllocNodes") or 0),
    )
    if None not in (submit, start, end) and submit > start:  # the second row of a resized job
        elapsed, start = min(elapsed, max(0, end - submit)), submit
    ran = start is not None and cpus > 0 and f.get("NodeList") != "None assigned"
    held = elapsed + span(f.get("Suspended", ""))
    state = f["State"].split()[0]
    alloc, asked = f.get("AllocTRES", ""), f.get("ReqCPUS") or tres(f.get("ReqTRES", ""), "cpu")
    return {
        "ran": ran, "cpus": cpus, "nodes": nodes, "elapsed_s": elapsed if ran else 0,
        "core_seconds": cpus * elapsed if ran else 0, "node_seconds": nodes * elapsed if ran else 0,
        "gpu_seconds": accelerators(alloc) * held if ran else 0,
        "memory_mib_seconds": mebibytes(tres(alloc, "mem")) * held if ran else 0,
        "suspended_s": span(f.get("Suspended", "")), "start": start if ran else None, "end": end,
        "state": "REQUEUED" if state in SLURM_AGAIN else state, "queue": f.get("Partition", ""),
        "maybe_fenced": f.get("ExitCode") == "75:0", "requested": int(asked) if asked else None,
    }  # fmt: skip


def from_local(f):
    """The record of Penstock's own local shim: nanoseconds, rounded up to whole seconds as schedulers do."""
    start, end = int(f["start"] or 0), int(f["end"])
    ran = start > 0
    elapsed, cpus = (-(-(end - start) // 10**9) if ran else 0), int(f["cores"])
    return {
        "ran": ran, "cpus": cpus, "nodes": 1 if ran else 0, "elapsed_s": elapsed, "core_seconds": cpus * elapsed,
        "node_seconds": elapsed, "gpu_seconds": 0, "memory_mib_seconds": 0, "suspended_s": 0,
        "start": start // 10**9 if ran else None, "end": end // 10**9, "state": f.get("state", ""),
        "queue": "default", "maybe_fenced": f.get("state") == "fenced",
    }  # fmt: skip


MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
_C_TIME = re.compile(r"(?:[A-Z][a-z]{2} +)?([A-Z][a-z]{2}) +(\d{1,2}) (\d\d):(\d\d):(\d\d)(?: (\d{4}))?")


def c_time(text, year=None):
    """A wall clock's time like `Mon Nov 23 06:34:36 2026`, without its zone."""
    match = _C_TIME.fullmatch(text.strip())
    if match is None or match[1] not in MONTHS:
        raise ValueError(f"{text!r} is no time")
    month, day, hour, minute, second = (MONTHS.index(match[1]) + 1, *map(int, match.groups()[1:5]))
    return datetime(int(match[6] or year), month, day, hour, minute, second)  # noqa: DTZ001 - its zone comes beside it


def in_zone(naive, name="UTC"):
    """Seconds since 1970 of a zone's wall clock."""
    return int(naive.replace(tzinfo=zone(name)).timestamp())


@lru_cache(maxsize=64)
def zone(name):
    if name == "UTC":
        return timezone.utc  # noqa: UP017 - Python 3.8 has no UTC
    try:
        from zoneinfo import ZoneInfo  # Python 3.9; only wanted where a centre or a price keeps another zone than UTC
    except ImportError as exc:
        raise ValueError(f"the zone {name} needs Python 3.9 or later") from exc
    return ZoneInfo(name)


def usage(cores, nodes, elapsed, start, end, state, queue, *, suspended=0, gpus=0, memory=0, ran=None, fenced=False,
          exclusive=False, requested=None):  # fmt: skip
    """What is compared, of a scheduler that counts cores: cores x seconds."""
    held = elapsed + suspended
    return {
        "ran": elapsed > 0 if ran is None else ran, "cpus": cores, "nodes": nodes, "elapsed_s": elapsed,
        "core_seconds": cores * elapsed, "node_seconds": nodes * elapsed, "gpu_seconds": gpus * held,
        "memory_mib_seconds": memory * held, "suspended_s": suspended, "start": start, "end": end, "state": state,
        "queue": queue, "maybe_fenced": fenced, "exclusive": exclusive, "requested": requested,
    }  # fmt: skip


# Ends that the PBS server writes itself (openpbs src/include/job.h).
PBS_ENDS = {-n: "FAILED" for n in (1, 2, 7, 8, 9, 10, 13, 16, 17, 19, 21, 22, 23, 30)}
PBS_ENDS.update({-n: "NODE_FAIL" for n in (3, 4, 5, 6, 14, 15, 20)})
PBS_ENDS.update({-11: "REQUEUED", -12: "REQUEUED", -18: "REQUEUED", -24: "OUT_OF_CPU", -25: "OUT_OF_CPU"})
PBS_ENDS.update({-26: "OUT_OF_MEMORY", -27: "OUT_OF_MEMORY", -28: "TIMEOUT", -29: "TIMEOUT"})
_PBS_LINE = re.compile(r"\d\d/\d\d/\d{4} \d\d:\d\d:\d\d;([A-Za-z]);([^;]*);(.*)", re.DOTALL)
_PBS_WORD = re.compile(r'\s*([A-Za-z_][A-Za-z0-9_.]*)=("(?:[^"\\]|\\.)*"|\S*)')
SKEW_S = 2


def pbs_words(line):
    """(record type, job, its words) of a line of the server's log."""
    match = _PBS_LINE.fullmatch(line)
    if match is None:
        return "", "", {}
    found, text, at = {}, match[3], 0
    while True:
        word = _PBS_WORD.match(text, at)
        if word is None:
            break
        value = word[2]
        if len(value) > 1 and value[0] == value[-1] == '"':
            value = re.sub(r"\\(.)", r"\1", value[1:-1])
        found[word[1]], at = value, word.end()
    return match[1], match[2], found


def pbs_state(status, requeued):
    if status < 0:
        return PBS_ENDS[status]
    if requeued:
        return "REQUEUED"
    return "COMPLETED" if status == 0 else "CANCELLED" if status == 271 else "FAILED"


def kib(text):
    """Memory of PBS in KiB: a bare number is KiB, `b` bytes."""
    match = re.fullmatch(r"(\d+)([kmgtp]?)(b?)", text.lower())
    if match is None:
        raise ValueError(f"{text!r} is no amount of memory")
    if match[3] and not match[2]:
        return int(match[1]) // 1024
    return int(match[1]) * 1024 ** "kmgtp".index(match[2] or "k")


def torque_slots(text):
    """Indices of each host: `n1/0+n1/1` and `n1/0-7,9`; none for PBS's own `n1/0*4`, nor where it has vnodes."""
    found = {}
    for word in text.split("+") if text else ():
        host, _, indices = word.partition("/")
        if not re.fullmatch(r"[0-9]+(-[0-9]+)?(,[0-9]+(-[0-9]+)?)*", indices):
            return {}
        for part in indices.split(","):
            ends = [int(end) for end in part.split("-")]
            found[host] = found.get(host, 0) + ends[-1] - ends[0] + 1
    return found


def pbs_took(said, assigned):
    """(cores, nodes, GPUs, MiB) of a run: what its S line says was assigned, else its vnodes, else the slots of Torque,
    else what was asked."""
    parts = [part for chunk in re.findall(r"\(([^()]*)\)", said.get("exec_vnode", "")) for part in chunk.split("+")]
    hosts = {re.split(r"[:\[]", part)[0] for part in parts}
    sums = {"ncpus": 0, "ngpus": 0, "mem": 0}
    for part in parts:
        for item in part.split(":")[1:]:
            name, _, value = item.partition("=")
            if name in sums:
                sums[name] += kib(value) // 1024 if name == "mem" else int(value or 0)
    if not parts and torque_slots(said.get("exec_host", "")):
        slots = torque_slots(said["exec_host"])
        hosts, sums["ncpus"] = set(slots), sum(slots.values())
        sums["ngpus"] = sum(torque_slots(said.get("exec_gpus", "")).values())
    cores = int(assigned.get("resource_assigned.ncpus") or 0) if "resource_assigned.ncpus" in assigned else (
        sums["ncpus"] or int(said.get("Resource_List.ncpus") or 0))  # fmt: skip
    memory = assigned.get("resource_assigned.mem", said.get("Resource_List.mem", ""))
    gpus = assigned.get("resource_assigned.ngpus", said.get("Resource_List.ngpus", ""))
    nodes = len(hosts) or int(said.get("Resource_List.nodect") or 0)
    return cores, nodes, int(gpus) if gpus else sums["ngpus"], kib(memory) // 1024 if memory else sums["mem"]


def pbs_asked(said):
    alone = bool(re.search(r"\bexcl(host)?\b", said.get("Resource_List.place", "")))
    asked = said.get("Resource_List.ncpus", "")
    torque = not re.search(r"\([^()]*\)", said.get("exec_vnode", "")) and torque_slots(said.get("exec_host", ""))
    return {"exclusive": alone, "requested": None if torque or not asked else int(asked)}


def from_pbs_log(f):
    """A line of the PBS server's accounting log that ends a run (E, R) or a phase of it (u: nodes were given back),
    with the line that says what it had. Torque's R says nothing: its S line says what ran, the stamp how long."""
    kind, _, said = pbs_words(f["line"])
    had, phases = pbs_words(f.get("S", ""))[2], [line for line in f.get("phases", "").split("\n") if line]
    silent = kind == "R" and not said
    said = had if silent else said
    start, suspended = int(f.get("from") or said["start"]), int(f.get("suspended_s") or 0)
    end = int(f["until"] if silent or kind == "u" else said["end"])
    ran = max(0, end - start - suspended)
    walltime = span(said.get("resources_used.walltime", ""))
    before = sum(span(pbs_words(line)[2].get("resources_used.walltime", "")) for line in phases)
    if before and kind != "u":  # the end counts the phases before
        walltime = min(max(0, walltime - before), ran + SKEW_S)
    if "resources_used.walltime" not in said or (walltime == 0 and ran > SKEW_S):
        walltime = ran
    now = had if phases and kind != "u" else said  # E names the nodes of the start
    cores, nodes, gpus, memory = pbs_took(now, had)
    status = 0 if silent or kind == "u" else int(said["Exit_status"])
    state = "RESIZING" if kind == "u" else pbs_state(status, kind == "R")
    return usage(cores, nodes, walltime, start, end, state, said.get("queue", ""), suspended=suspended, gpus=gpus,
                 memory=memory, fenced=status == 75, **pbs_asked(now))  # fmt: skip


def from_pbs_qstat(f):
    """A finished job of `qstat -x -f`, asked with TZ=UTC."""
    start, end = in_zone(c_time(f["stime"])), in_zone(c_time(f.get("obittime") or f["mtime"]))
    walltime = span(f.get("resources_used.walltime", ""))
    elapsed = walltime if walltime or end - start <= SKEW_S else end - start
    cores, nodes, gpus, memory = pbs_took(f, {})
    status = int(f["Exit_status"])
    return usage(cores, nodes, elapsed, start, end, pbs_state(status, False), f.get("queue", ""), gpus=gpus,
                 memory=memory, fenced=status == 75, **pbs_asked(f))  # fmt: skip


SUNWAY_ENDS = {"DONE": "COMPLETED", "EXIT": "FAILED", "CANCELED": "CANCELLED", "TERM": "CANCELLED"}


def sunway_cores(f, nodes):
    """Core groups x cores of one; whole nodes where nodes are exclusive."""
    groups = int(f.get("cgs") or 0)
    if f.get("cgs_per_node") and nodes:
        groups = max(groups, nodes * int(f["cgs_per_node"]))
    if not groups:
        raise ValueError("it names no core groups")
    return groups * int(f.get("cores_per_cg") or 65)


def from_sunway_block(f):
    """A block of `bjobs -l`: its event lines, in order, by the centre's wall clock."""
    head, *lines = f["block"].strip().split("\n")
    said, year, at = dict(re.findall(r"(\w+)<([^<>]*)>", head)), int(f["year"]), {}
    before = None
    for line in lines:
        match = re.match(r"([A-Z][a-z]{2} +\d{1,2} \d\d:\d\d:\d\d): (.*)", line.strip())
        if match is None:
            continue
        moment = in_zone(c_time(match[1], year), f.get("zone", "UTC"))
        if before is not None and moment < before - 180 * 86400:  # New Year
            year += 1
            moment = in_zone(c_time(match[1], year), f.get("zone", "UTC"))
        if before is not None and moment < before:  # the hour that a night has twice: its second time
            second = in_zone(c_time(match[1], year).replace(fold=1), f.get("zone", "UTC"))
            moment = second if second >= before else moment
        before = moment
        for name, pattern in (("start", "Started"), ("end", "(?i)(End|Exit|Done|Cancel|Term)")):
            if re.match(pattern, match[2]):
                at[name] = moment
    start, end = at.get("start"), at["end"]
    using = re.search(r"using <(\d+)> nodes", " ".join(lines))
    nodes = int(f["nodes"]) if f.get("nodes") else int(using[1]) if using else 0
    cores = sunway_cores(f, nodes)
    if start is None:
        return usage(0, nodes, 0, None, end, SUNWAY_ENDS[said["Status"]], said.get("Queue", ""))
    return usage(cores, nodes, end - start, start, end, SUNWAY_ENDS[said["Status"]], said.get("Queue", ""))


def from_sunway_report(f):
    """A row of a centre's report: WallTime(sec) is numProc x elapsed, ExitCode a wait status; times in UTC."""
    words = f["line"].split()
    cores, nodes, total, status = int(words[2]), int(words[3]), int(words[4]), int(words[6])
    start, end = (clock(" ".join(words[i : i + 2]).replace("/", "-")) for i in (8, 10))
    code = status >> 8 if status >= 256 else 128 + status if status else 0
    return usage(cores, nodes, total // cores, start, end, "FAILED" if code else "COMPLETED", words[7])


def from_sunway_wrapper(f):
    """What the wrapper around a Sunway job wrote, where its block tells no end any more."""
    start, end, nodes = int(f["start"]), int(f["end"]), int(f.get("nodes") or 0)
    state = "FAILED" if int(f["exit_code"] or 0) else "COMPLETED"
    return usage(sunway_cores(f, nodes), nodes, end - start, start, end, state, "", fenced=f["exit_code"] == "75")


def from_northbound(f):
    """A row of a northbound centre's history."""
    at = {}
    for name in ("jobStartTime", "jobEndTime"):
        text = f.get(name, "")
        at[name] = in_zone(datetime.fromisoformat(text), f.get("zone", "UTC")) if text else None
    start, end = at["jobStartTime"], at["jobEndTime"]
    elapsed, cores = (0 if start is None else end - start), int(f.get("procNumUsed") or 0)
    state = "COMPLETED" if f["jobStatus"] == "statC" else "CANCELLED"
    if f["jobStatus"] == "statC" and f.get("exitCode", "0") not in ("0", ""):
        state = "FAILED"
    return usage(cores, int(f.get("nodeNumUsed") or 0), elapsed, start, end, state, f.get("queue", ""),
                 gpus=int(f.get("gpuNumUsed") or 0), ran=elapsed > 0 and cores > 0)  # fmt: skip


def from_line(f):
    """A record that is one line: of LSF's lsb.acct, or of a Sunway report."""
    return (from_lsf if f["line"].lstrip().startswith('"JOB_FINISH"') else from_sunway_report)(f)


# lsb.acct, JOB_FINISH: the words up to the hosts, and from them to the index (IBM Spectrum LSF reference, "lsb.acct").
LSF_BEFORE = """
event version eventTime jobId userId options numProcessors submitTime beginTime termTime startTime userName queue resReq
dependCond preExecCmd fromHost cwd inFile outFile errFile jobFile"""
LSF_AFTER = f"""
jStatus hostFactor jobName command {19 * "rusage "} mailUser projectName exitStatus maxNumProcessors loginShell
timeEvent idx"""
# Behind it, in LSF 10.1: 23 words, a list of pairs, one of fives, then these.
LSF_MORE = """
options3 runLimit avgMem effectiveResReq srcCluster srcJobId dstCluster dstJobId forwardTime flowId acJobWaitTime
totalProvisionTime outdir runTime"""
LSF_ENDS = {"64": "DONE", "32": "EXIT"}
_LSF_WORD = re.compile(r'\s*(?:"((?:[^"]|"")*)"|([^\s"]+))(?=\s|$)')


def lsf_words(line):
    """(the named words of a JOB_FINISH line, the hosts that it ran on)"""
    words, at = [], 0
    while line[at:].strip():
        match = _LSF_WORD.match(line, at)
        if match is None:
            raise ValueError(f"no line of lsb.acct from {line[at : at + 30]!r} on")
        words.append(match[2] if match[1] is None else match[1].replace('""', '"'))
        at = match.end()
    before, after = LSF_BEFORE.split(), LSF_AFTER.split()
    said, rest = dict(zip(before, words)), words[len(before) :]  # noqa: B905 - Python 3.8
    asked = int(rest[0])
    rest = rest[1 + asked :]
    ran_on, rest = rest[1 : 1 + int(rest[0])], rest[1 + int(rest[0]) :]
    if len(rest) < len(after):
        raise ValueError("a line of lsb.acct that is cut")
    said.update(zip(after, rest))  # noqa: B905
    at, more = len(after) + 23, LSF_MORE.split()
    for group in (2, 5):
        at += 1 + group * int(rest[at] if at < len(rest) else 0)
    if len(rest) >= at + len(more):
        said.update(zip(more, rest[at:]))  # noqa: B905
    return said, ran_on


def from_lsf(f):
    """A JOB_FINISH line: a slot for each time that a host is named (`4*host` names it four times)."""
    said, names = lsf_words(f["line"])
    slots = [(int(count or 1), host) for count, host in (re.fullmatch(r"(?:(\d+)\*)?(.+)", n).groups() for n in names)]
    cores, nodes = sum(count for count, _ in slots), len({host for _, host in slots})
    start, end = int(said["startTime"]), int(said["eventTime"])
    placed, asked = start > 0 and cores > 0, int(said["numProcessors"] or 0)
    span_s = elapsed = end - start if placed else 0
    told = int(said.get("runTime", 0))
    if 0 < told < span_s - SKEW_S:  # what is left was suspended
        elapsed = told
    physical = re.search(r"rusage\[[^\]]*?\bngpus_physical=(\d+)(?:\.\d+)?(/task)?", said.get("effectiveResReq", ""))
    gpus = int(physical[1]) * (asked if physical[2] else nodes) if physical else 0
    return usage(cores, nodes, elapsed, start if placed else None, end, LSF_ENDS[said["jStatus"]], said["queue"],
                 suspended=span_s - elapsed, gpus=gpus, fenced=int(said["exitStatus"]) >> 8 == 75,
                 exclusive=bool(int(said["options"]) & 0x40), requested=asked)  # fmt: skip


# HTCondor manual, "Job ClassAd Attributes", JobStatus; an ad that is no epoch's has ended by 3 or 4.
CONDOR_STATES = ("?", "IDLE", "RUNNING", "REMOVED", "COMPLETED", "HELD", "TRANSFERRING_OUTPUT", "SUSPENDED")


_AD_NUMBER = re.compile(r"(\d+)(?:\.(\d*))?(?:[eE]\+?(\d+))?")


def ad_number(f, name, default="0"):
    """Whole seconds and counts of a ClassAd, which also says `8.0` or `8.0E+00`: part of a second is cut off."""
    text = f.get(name, default)
    match = _AD_NUMBER.fullmatch(text)
    if match is None:
        raise ValueError(f"{name} is {text!r}")
    shift = int(match[3] or 0)
    return int(match[1] + (match[2] or "").ljust(shift, "0")[:shift])


def from_condor(f):
    """A job's ad (`RemoteWallClockTime` sums its runs, their suspension with them), or an epoch's: one run, by its own
    start and end."""
    one_run = "EpochWriteDate" in f or "RunInstanceID" in f
    start = ad_number(f, "JobCurrentStartDate" if one_run else "JobStartDate") or None
    end = ad_number(f, "EpochWriteDate" if one_run else "EnteredCurrentStatus")
    if one_run:
        wall, suspended = (0 if start is None else end - start), 0
    else:
        wall, suspended = ad_number(f, "RemoteWallClockTime", ""), ad_number(f, "CumulativeSuspensionTime")
    cores = ad_number(f, "CpusProvisioned") if "CpusProvisioned" in f else ad_number(f, "RequestCpus", "1")
    asked = ad_number(f, "RequestCpus") if _AD_NUMBER.fullmatch(f.get("RequestCpus", "")) else None
    found = usage(cores, 1 if wall > suspended else 0, wall - suspended, start, end,
                  CONDOR_STATES[ad_number(f, "JobStatus", "")], json.loads(f.get("AcctGroup", '""')),
                  suspended=suspended, gpus=ad_number(f, "GPUsProvisioned"), memory=ad_number(f, "MemoryProvisioned"),
                  requested=asked, fenced=f.get("ExitCode") == "75")  # fmt: skip
    if not one_run and ad_number(f, "NumShadowStarts") > 1 and "CumulativeSlotTime" in f:
        found["core_seconds"] = max(0, ad_number(f, "CumulativeSlotTime") - cores * suspended)
    return found


# GFD.98, section 7.1: the words for a job that has ended.
OGF_ENDS = {"aborted": "CANCELLED", "completed": "COMPLETED", "failed": "FAILED"}
_DURATION = re.compile(r"P(?=.)(?:(\d+)D)?(?:T(?=.)(?:(\d+)H)?(?:(\d+)M)?(?:(\d+)(?:\.\d*)?S)?)?")


def iso_micros(text):
    """Microseconds since 1970; a time without a zone is UTC, digits alone are seconds."""
    if text.isdigit():
        return int(text) * 10**6
    text = utc(text.replace("/", "-"))
    return micros(text if datetime.fromisoformat(text).tzinfo else text + "+00:00")


def from_ogf(f):
    """A job of an OGF usage record: processors x wall duration; without a duration from start to end. `Resource`s
    called as our figures are say what it has no word for."""
    start = iso_micros(f["StartTime"]) if f.get("StartTime", "") not in (*_NONE, "-", "0") else None
    end = iso_micros(f["EndTime"])
    if "WallDuration" in f:
        match = _DURATION.fullmatch(f["WallDuration"])
        if match is None:
            raise ValueError(f"{f['WallDuration']!r} is no duration")
        days, hours, minutes, seconds = (int(part or 0) for part in match.groups())
        elapsed = ((days * 24 + hours) * 60 + minutes) * 60 + seconds
    else:
        elapsed = (end - start) // 10**6
    exact = {name[len("Resource:") :]: text for name, text in f.items() if name.startswith("Resource:")}
    threads = int(exact.get("threads_per_core", 1))
    cores = int(exact.get("cores", f.get("Processors", "1") or 0))
    asked = int(exact["requested_cores"]) * threads if "requested_cores" in exact else None
    found = usage(cores if threads == 1 else int(exact.get("cpus", cores * threads)),
                  int(exact.get("nodes", f.get("NodeCount", "1") or 0)), elapsed,
                  None if start is None else start // 10**6, end // 10**6,
                  exact.get("state", OGF_ENDS[f["Status"].strip()])[:32], f.get("Queue", ""),
                  fenced=exact.get("kind") == "fenced_copy", exclusive=exact.get("exclusive", "0") != "0",
                  requested=asked, ran=exact["kind"] == "run" if exact.get("kind") else None)  # fmt: skip
    found.update({name: int(exact[name]) for name in _QUANTITIES if name in exact})
    return found


def from_apel(f):
    """A record of APEL's individual-job message; it names no state. Without `Processors` one is meant."""
    cores, nodes = (int(f.get(name) or 0) or 1 for name in ("Processors", "NodeCount"))
    elapsed = span(f["WallDuration"].strip("-"))
    return usage(cores, nodes, elapsed, int(f["StartTime"]), int(f["EndTime"]), "", f.get("Queue", ""))


# Which scheduler wrote a record, by the names of its fields.
READERS = (
    (("AllocCPUS", "State"), from_sacct), (("run_key", "exit_code"), from_local),
    (("block", "year"), from_sunway_block),
    (("Job_Id", "stime"), from_pbs_qstat), (("jobStatus", "jobEndTime"), from_northbound),
    (("native_id", "exit_code", "cgs"), from_sunway_wrapper), (("GlobalJobId", "JobStatus"), from_condor),
    (("RecordIdentity", "Status", "EndTime"), from_ogf), (("LocalJobId", "WallDuration", "StartTime"), from_apel),
    (("line", "suspended_s"), from_pbs_log), (("line",), from_line),
)  # fmt: skip


def reader_of(fields):
    for names, reader in READERS:
        if all(name in fields for name in names):
            return reader
    return None


_QUANTITIES = ("core_seconds", "node_seconds", "gpu_seconds", "memory_mib_seconds", "elapsed_s", "suspended_s")


def check_record(record, shown, tell):
    """Read the raw fields again; what Penstock says of the run must follow from them. Why it was not metered again, or
    None."""
    read, fields = record["read"], record["fields"]
    if record["meter"] != "centre":
        return "seen by the gateway's own meter alone (provisional: there is no record of the centre yet)"
    if shown:
        fields = {**fields, **shown}
    reader = reader_of(fields)
    if "break" in fields and "statement" in fields and "statement_line" in fields:
        if reader is not None:
            check_agreed(read, reader(fields), tell)
        return "agreed from a line of the centre's statement"
    if reader is None:
        return "a record in no format that this verifier can read"
    check_read(read, reader(fields), tell)
    return None


def check_agreed(read, found, tell):
    """A reading agreed from a scheduler's record in a statement: its amounts; when it ran stays as we saw it."""
    for name, value in (("core_seconds", found["core_seconds"]), ("elapsed_s", found["elapsed_s"]),
                        ("cores", found["cpus"]), ("nodes", found["nodes"])):  # fmt: skip
        if str(value) != read[name] and (value or name == "core_seconds"):
            tell(f"the statement's line gives {name} {value}, the usage says {read[name]}")


def check_read(read, found, tell):
    cores, threads = int(read["cores"]), int(read["threads_per_core"])
    requested, cpus = found.get("requested"), found["cpus"]
    if threads > 1:
        found["cpus"] = -(-cpus // threads)
        found["core_seconds"] = cores * found["elapsed_s"]
        requested = requested and -(-requested // threads)
    for name in _QUANTITIES:
        if str(found[name]) != read[name]:
            tell(f"the raw record gives {name} {found[name]}, the usage says {read[name]}")
    asked = read["requested_cores"] and int(read["requested_cores"])
    if (read["exclusive"], asked) != (found.get("exclusive", False), requested):
        tell(f"the raw record asked for {requested} cores (whole nodes: {found.get('exclusive', False)}), "
             f"the usage says {asked} ({read['exclusive']})")  # fmt: skip
    if read["cpus"] not in (None, str(cpus)):
        tell(f"the raw record has {cpus} CPUs, the usage says {read['cpus']}")
    if cores != found["cpus"]:
        tell(f"the raw record gives {found['cpus']} cores, the usage says {cores}")
    kinds = ("run",) if found["ran"] else ("never_ran",)
    if found["maybe_fenced"]:
        kinds += ("fenced_copy",)
    if read["kind"] not in kinds:
        tell(f"the raw record is a {kinds[0]}, the usage says {read['kind']}")
    for name in ("start", "end"):
        if (None if read[name] is None else clock(read[name])) != found[name]:
            tell(f"the raw record has {name} {found[name]}, the usage says {read[name]}")
    for name in ("state", "queue"):
        if read[name] != found[name]:
            tell(f"the raw record has {name} {found[name]!r}, the usage says {read[name]!r}")
    if int(read["nodes"]) != found["nodes"]:
        tell(f"the raw record has {found['nodes']} nodes, the usage says {read['nodes']}")


def whole_cores(cpus, nodes, threads):
    """Whole cores of each node for CPUs that are threads, spread evenly."""
    if nodes <= 1:
        return -(-cpus // threads)
    each, more = divmod(cpus, nodes)
    return (nodes - more) * -(-each // threads) + more * -(-(each + 1) // threads)


def check_personal(record, shown, tell):
    """Names that are shown must be those that the log committed to."""
    mac = hmac.new(bytes.fromhex(shown["salt"]), jcs(shown["fields"]), hashlib.sha256).hexdigest()
    if mac != record["personal"]:
        tell("the personal fields shown are not those that the log committed to")


# ---------------------------------------------------------------- usage -> charge


def rate(quantity, price, per):
    """Price for `per` units, half up, in whole micro-units."""
    return (2 * quantity * price + per) // (2 * per)


SUMS = ("gross", "amount", "borne", "centre", "tax")


def check_charge(charge, record, terms, project, seq, tell, note):
    """Metered by the agreed policy, priced by the rules that held, summed; its parts are what was agreed."""
    read = record["read"]
    gross, amount, bearing, centre, tax = (int(charge[name]) for name in SUMS)
    if charge["record"] != hashed(record) or charge["meter"] != record["meter"]:
        tell("the charge names another raw record")
    if read["kind"] != "run" and (int(charge["core_seconds"]) or gross):
        tell(f"a {read['kind']} is charged")
    agreed = terms["agreements"].get(charge["agreement"])
    if charge["agreement"] is not None and agreed is None:
        note("charges whose agreement is not in the bundle: the centre's share was not computed")
    policy = agreed["metering"] if agreed is not None else DEFAULT_POLICY
    total, quantities, by_resource = 0, {}, {}
    for s in charge["segments"]:
        total += int(s["amount_micro"])
        quantities[s["resource"]] = quantities.get(s["resource"], 0) + int(s["quantity"])
        by_resource.setdefault(s["resource"], []).append(s)
        check_segment(s, charge, terms, project, tell, note)
    if charge["agreement"] is None or agreed is not None:
        check_metered(charge, read, quantities, policy, tell, note)
    where = (
        charge["currency"],
        record["site"],
        read["queue"],
        read["qos"],
        charge["grade"],
        charge["user_class"],
        project,
        charge["agreement"] is not None,
    )
    for resource, segments in by_resource.items():
        if resource == "minimum":
            if any(str(s.get("numerator", 1)) == "0" for s in charge["segments"]):
                tell("a minimum is charged for a run of which a part is paid otherwise")
            check_minimum(segments, total, where, read, terms, tell)
        else:
            check_segments(resource, segments, where, read, terms, charge["agreement"] is not None, tell, note)
    before = total + given_off(charge, total, where, read, terms, agreed, tell, note)
    if before != gross:
        tell(f"the segments come to {before} before what the operator gave off, the charge says {gross}")
    check_borne(charge, total, gross, amount, bearing, centre, tax, read, policy, tell, note)
    if terms["bought"] or charge["payers"] is not None or charge["user_class"]:
        check_payers(charge, amount, bought_on(terms, project, read["end"], seq), tell)
    check_shares(charge, amount + bearing, centre, tax, agreed, tell)


def given_off(charge, total, where, read, terms, agreed, tell, note):
    """What the operator bears of what it gave off the list price: all of it, unless both signed something else."""
    if charge["agreement"] is None:
        return 0
    timed = [s for s in charge["segments"] if s["resource"] != "minimum"]
    at_list = sum(int(s.get("list", s)["amount_micro"]) for s in timed)
    paid = [s for s in timed if str(s.get("numerator", 1)) == "0" and "list" not in s]
    for s in paid:
        check_paid(s, charge, terms, tell, note)
    if read["start"] and any(s["quantity"] != "0" for s in timed) and not paid:
        if terms["incomplete"]:
            note("charges whose list price was not derived again: a tariff's signatures are not in the bundle")
        least = list_rule(applying("minimum", where, terms), micros(read["start"]))
        at_list = max(at_list, int(terms["rules"][least.ref]["price_micro"]) if least else 0)
    off = max(0, at_list - total)
    if off:
        note("charges below the list price: the centre's share is of the price before it, as far as was agreed")
    if off and agreed is not None:
        borne = agreed.get("discounts_borne", {"centre": 0, "operator": 1})
        off -= off * int(borne["centre"]) // (int(borne["centre"]) + int(borne["operator"]))
    return off


def check_paid(s, charge, terms, tell, note):
    """What costs nothing and has no list price was paid with an order, of whose price its centre has a share."""
    given = terms["discounts"].get(str(s.get("discount")))
    if given is None:
        return
    if given.get("order") is None:
        tell(f"discount {s['discount']} was paid with no order, and the centre has no share of the list price")
        return
    prices = [o for o in terms["orders"].values() if o["order_id"] == given["order"] and int(o["price_micro"]) > 0]
    centres = [terms["agreements"].get(ref, {}).get("centre_id") for ref in (charge["agreement"],
               *(o["agreement"] for o in prices))]  # fmt: skip
    if not centres[0] or centres[0] not in centres[1:]:
        tell(f"order {given['order']} paid for a run at a centre that has no share of its price")


# ---------------------------------------------------------------- what is billed of a run (docs/metering-rules.md)

DEFAULT_POLICY = {
    "basis": "allocated", "exclusive_whole_nodes": True, "cores_per_node": {}, "threads_per_core": {},
    "held_while_suspended": ["gpu_seconds", "memory_mib_seconds"], "bill_requeued": True, "liability": {},
}  # fmt: skip


def check_metered(charge, read, quantities, policy, tell, note):
    """The quantities that are priced are those of the record, by the policy of the agreement."""
    core_seconds = int(charge["core_seconds"])
    if quantities.get("core_seconds", core_seconds) != core_seconds:
        tell(f"the segments have {quantities['core_seconds']} core-seconds, the charge {core_seconds}")
    if not core_seconds and not quantities:
        return
    elapsed, suspended, held = int(read["elapsed_s"]), int(read["suspended_s"]), policy["held_while_suspended"]
    time = elapsed + suspended if "core_seconds" in held else elapsed
    cores = billed_cores(read, policy)
    expected = int(read["core_seconds"]) + cores * (time - elapsed) if cores == int(read["cores"]) else cores * time
    if core_seconds != expected or (read["state"] == "REQUEUED" and not policy["bill_requeued"]):
        tell(f"{core_seconds} core-seconds are charged, by the agreement they are {expected} ({charge['rule']})")
    if cores != int(read["cores"]):
        note("charges for other cores than the allocated ones, by the agreement")
    for resource, quantity in quantities.items():
        if resource in ("core_seconds", "minimum"):
            continue
        metered = int((read["units"] or {}).get(resource[5:], 0) if resource[:5] == "unit:" else read[resource])
        if suspended and resource == "node_seconds" and resource in held:
            metered += int(read["nodes"]) * suspended
        elif suspended and resource in ("gpu_seconds", "memory_mib_seconds") and resource not in held:
            metered = metered * elapsed // (elapsed + suspended)
        if quantity != metered:
            tell(f"{quantity} {resource} are charged, by the record they are {metered}")


def billed_cores(read, policy):
    queue = read["queue"]
    if read["exclusive"] and policy["exclusive_whole_nodes"]:
        per_node = policy["cores_per_node"].get(queue, policy["cores_per_node"].get("*"))
        if per_node is not None and int(read["nodes"]):
            return int(per_node) * int(read["nodes"])
    threads = policy["threads_per_core"].get(queue, policy["threads_per_core"].get("*"))
    by_request = policy["basis"] == "requested" or (read["exclusive"] and not policy["exclusive_whole_nodes"])
    if by_request and read["requested_cores"] is not None:
        asked = int(read["requested_cores"])
        if threads is not None and read["cpus"] is not None and int(read["threads_per_core"]) == 1:
            return whole_cores(asked, int(read["nodes"]), int(threads))
        return asked
    if threads is not None and read["cpus"] is not None:
        return whole_cores(int(read["cpus"]), int(read["nodes"]), int(threads))
    return int(read["cores"])


# ---------------------------------------------------------------- which price holds (docs/metering-rules.md)

SCOPE = ("currency", "site_id", "queue", "qos", "grade", "user_class", "project_id")
SPECIFIC = ("project_id", "site_id", "queue", "qos", "grade", "user_class", "window")


def check_segment(s, charge, terms, project, tell, note):
    """A segment's own arithmetic, and its price by the rule that it names."""
    quantity, price, per, part = (int(s[name]) for name in ("quantity", "price_micro", "per", "amount_micro"))
    up, down = int(s.get("numerator") or 1), int(s.get("denominator") or 1)
    if s["resource"] != "minimum" and not s.get("tier_key") and part != rate(quantity, price * up, per * down):
        tell(f"{quantity} at {price} for {per} are {rate(quantity, price * up, per * down)}, not {part}")
    if s.get("discount") is not None:
        given = terms["discounts"].get(str(s["discount"]))
        if given is None:
            note("segments with a contract's discount that is not in the bundle")
        elif (int(given["numerator"]), int(given["denominator"]), given["project_id"]) != (up, down, project):
            tell(f"discount {s['discount']} is {given['numerator']}/{given['denominator']}, the segment {up}/{down}")
    elif (up, down) != (1, 1):
        tell("a price is cut without a contract's discount")
    if "list" in s:
        check_listed(s["list"], quantity, s["resource"], charge["currency"], terms, tell, note)
    rule = terms["rules"].get(s["rule"])
    if rule is None:
        note("segments whose price rule is not in the bundle: the price itself was not compared")
        return
    said = (rule["price_micro"], rule["per"], rule["resource"], rule["currency"])
    if said != (s["price_micro"], s["per"], s["resource"], charge["currency"]):
        tell(f"rule {s['rule']} has {said}, the segment {price} for {per} {s['resource']}")


def check_listed(listed, quantity, resource, currency, terms, tell, note):
    """The list price of a segment that is charged otherwise, by the rule that it names."""
    price, per, amount = (int(listed[name]) for name in ("price_micro", "per", "amount_micro"))
    if not listed.get("tier_key") and amount != rate(quantity, price, per):
        tell(f"{quantity} at the list price of {price} for {per} are {rate(quantity, price, per)}, not {amount}")
    rule = terms["rules"].get(listed["rule"])
    if rule is None:
        note("segments whose price rule is not in the bundle: the price itself was not compared")
        return
    said = (rule["price_micro"], rule["per"], rule["resource"], rule["currency"])
    if said != (listed["price_micro"], listed["per"], resource, currency):
        tell(f"rule {listed['rule']} has {said}, the list price is {price} for {per} {resource}")


def check_segments(resource, segments, where, read, terms, agreed, tell, note):
    """Derive again how the run is split: which rule holds at each moment, and how much falls to each part."""
    start, end = micros(read["start"]), micros(read["end"])
    s = segments[0]
    if len(segments) == 1 and s["rule"] == plain(resource, where, start, end, terms) and not s.get("discount") and (
        (s["start"], s["end"], s.get("tier_key"), s.get("list")) == (read["start"], read["end"], None, None)
    ):  # fmt: skip
        return
    said, edges = [], []
    for s in segments:
        listed = s.get("list", {})
        if (s.get("tier_key") or listed.get("tier_key")) and s["quantity"] == "0":
            continue  # brings a month's total to its price after a correction
        begin, off = micros(s["start"]), str(s.get("discount") or "")
        at_list = (listed.get("rule", ""), listed.get("tier_key", ""))
        said.append((begin, s["rule"], off, int(s["quantity"]), s.get("tier_key", ""), *at_list))
        edges.append((begin, micros(s["end"])))
    follow = [a for a, _ in edges[1:]] == [b for _, b in edges[:-1]] and all(a < b for a, b in edges)
    if edges and not (follow and (edges[0][0], edges[-1][1]) == (start, end)):
        tell(f"the segments of {resource} do not cover the run from {read['start']} to {read['end']} without a gap")
        return
    try:
        expected = derived(resource, sum(part[3] for part in said), start, end, where, terms)
    except Unknown as exc:
        note(str(exc))
        return
    if not agreed:  # no centre has a share: nothing is beside what is charged
        expected = [(*part[:5], "", "") for part in expected]
    if said and said != expected:
        tell(f"{resource} is priced in parts {told(said)}, by the prices that held it is {told(expected)}")


def plain(resource, where, start, end, terms):
    """The rule that prices all of a run, where only one is there and nothing else has a say; else None."""
    rules = applying(resource, where, terms)
    if len(rules) != 1 or terms["incomplete"] or terms["discounts"]:
        return None
    only = rules[0]
    return None if only.window or only.tiered or not only.valid(start, end) else only.ref


def told(parts):
    return ", ".join(
        f"{q} from {at} by rule {r}" + (f" less {d}" if d else "") + (f", by the list {rule}" if rule else "")
        for at, r, d, q, _, rule, _ in parts
    )


class Unknown(Exception):
    """What was priced cannot be derived from what is in the bundle."""


def derived(resource, quantity, start, end, where, terms):
    """[(from, rule, discount, quantity, tier key, list rule, its tier key)] as the published rules split a run."""
    rules = applying(resource, where, terms)
    if terms["incomplete"]:
        raise Unknown("segments whose price was not derived again: a tariff's signatures are not in the bundle")
    cuts, timed = [start], resource[:5] != "unit:"  # what is counted, not timed, happened at the price of its start
    if timed:
        cuts = boundaries(rules, start, end)
    discounts = [d for d in terms["discounts"].items() if fits(d[1], resource, where)]
    if timed and discounts:
        dates = {micros(d[name]) for _, d in discounts for name in ("valid_from", "valid_to") if d[name]}
        cuts = sorted({*cuts, *(m for m in dates if start < m < end)})
    spans = []
    for moment in cuts:
        rule = first_of(rules, moment)
        if rule is None:
            return []
        cut_by = [(ref, d) for ref, d in discounts if in_force(d, moment)]
        off = max(cut_by, key=narrowest)[0] if cut_by else ""
        key = f"{rule.ref}:{off}:{month_start(moment, rule.zone)}" if rule.tiered else ""
        at_list = ("", "")
        listed = list_rule(rules, moment) or rule
        if (off or listed is not rule) and not (off and terms["discounts"][off].get("order")):
            at_list = (listed.ref, f"{listed.ref}:list:{month_start(moment, listed.zone)}" if listed.tiered else "")
        if not spans or spans[-1][1:] != (rule.ref, off, key, *at_list):
            spans.append((moment, rule.ref, off, key, *at_list))
    ends = [at for at, *_ in spans[1:]] + [end]
    shares = apportion(quantity, [b - a for (a, *_), b in zip(spans, ends)])  # noqa: B905 - Python 3.8
    return [(at, ref, off, q, *keys) for (at, ref, off, *keys), q in zip(spans, shares)]  # noqa: B905


def list_rule(rules, moment):
    """The list price of a moment: what both signed, else the operator's price for everybody."""
    signed = first_of([r for r in rules if r.signed], moment)
    return signed or first_of([r for r in rules if r.scope[6] is None], moment)


def first_of(rules, moment):
    """The rule that prices a moment: the most specific one, in its first tier."""
    holding = (r for r in rules if r.holds(moment))
    return max(holding, key=lambda r: (r.specific, -r.tier_from, r.number), default=None)


def narrowest(discount):
    """What an order paid goes first, then what is free (a ratio of nothing), then what names more."""
    named = [discount[1][name] is not None for name in ("project_id", "site_id", "grade", "resource")]
    return int(discount[1]["numerator"]) == 0, discount[1].get("order") is not None, named, int(discount[0])


def fits(discount, resource, where):
    return (discount["project_id"] == where[6] and discount["site_id"] in (None, where[1])
            and discount["grade"] in (None, where[4]) and discount["resource"] in (None, resource)
            and not (where[7] and place_of(discount.get("draws")).startswith("unagreed")))  # fmt: skip


def place_of(commodity):
    """Where something that was bought may be used: site:S, agreement:A, unagreed (under no agreement) or nothing."""
    return (commodity or "").partition("@")[2]


def in_force(discount, moment):
    return micros(discount["valid_from"]) <= moment and (
        discount["valid_to"] is None or moment < micros(discount["valid_to"])
    )


def applying(resource, where, terms):
    """The rules for a resource that hold there at some time; looked up once for each place."""
    cache = terms["cache"]
    if (resource, where) not in cache:
        cache[resource, where] = [
            r for r in terms["prices"] if r.resource == resource
            and all(mine is None or mine == theirs for mine, theirs in zip(r.scope, where))  # noqa: B905 - Python 3.8
        ]  # fmt: skip
    return cache[resource, where]


class Price:
    """A rule with the time in which it holds."""

    def __init__(self, ref, rule, begin, end, tiered):
        self.ref, self.number, self.resource, self.zone = ref, int(ref), rule["resource"], rule["zone"]
        self.scope, self.begin, self.end = tuple(rule[name] for name in SCOPE), begin, end
        self.specific = tuple(rule[name] is not None for name in SPECIFIC)
        self.window, self.tier_from, self.tiered = rule["window"], int(rule["tier_from"]), tiered
        self.signed = rule["tariff_sha256"] is not None

    def valid(self, start, end):
        return self.begin <= start and (self.end is None or end <= self.end)

    def holds(self, moment):
        if self.begin > moment or (self.end is not None and moment >= self.end):
            return False
        return self.window is None or self.at_this_hour(moment)

    def at_this_hour(self, moment):
        """By the wall clock; a window over midnight belongs to the weekday that it begins on."""
        at = wall(moment, self.zone)
        minute, day = at.hour * 60 + at.minute, at.weekday()
        low, high = int(self.window["from_minute"]), int(self.window["to_minute"])
        days = [int(d) for d in self.window["weekdays"]]
        if low < high:
            return day in days and low <= minute < high
        return (day in days and minute >= low) or ((day - 1) % 7 in days and minute < high)


def boundaries(rules, start, end):
    """Every moment in the run at which another rule may hold. One that changes nothing does no harm."""
    found = {start}
    for r in rules:
        found |= {m for m in (r.begin, r.end) if m is not None}
        if r.window is not None:
            found |= hours(start, end, r.zone, int(r.window["from_minute"]), int(r.window["to_minute"]))
        if r.tiered:
            found |= {m for m in hours(start, end, r.zone, 0, 0) if wall(m, r.zone).day == 1}
    return sorted(m for m in found if start <= m < end)


@lru_cache(maxsize=1024)
def hours(start, end, name, low, high):
    """Minutes of the day by the wall clock on each day that a run touches, and where the clock is changed."""
    found, day = set(), wall(start - DAY, name).date()
    while day <= wall(end + DAY, name).date():
        for minute in (low, high, 0):
            at = datetime(day.year, day.month, day.day) + timedelta(minutes=minute)  # noqa: DTZ001 - by the wall clock
            found |= {int(at.replace(tzinfo=zone(name), fold=fold).timestamp()) * 10**6 for fold in (0, 1)}
        day += timedelta(days=1)
    for quarter in range(start // QUARTER, end // QUARTER + 1):
        before, after = (wall(m, name).utcoffset() for m in (quarter * QUARTER - 1, quarter * QUARTER))
        if before != after:
            found.add(quarter * QUARTER)
    return found


DAY, QUARTER = 86400 * 10**6, 900 * 10**6


def wall(moment, name):
    return datetime.fromtimestamp(moment // 10**6, zone(name))


def month_start(moment, name):
    at = wall(moment, name)
    first = datetime(at.year, at.month, 1, tzinfo=zone(name)).astimezone(timezone.utc)  # noqa: UP017
    return first.isoformat()


@lru_cache(maxsize=4096)
def micros(text):
    """Microseconds since 1970 of a time that names its zone."""
    at = datetime.fromisoformat(text)
    whole = at - datetime(1970, 1, 1, tzinfo=timezone.utc)  # noqa: UP017
    return (whole.days * 86400 + whole.seconds) * 10**6 + whole.microseconds


def apportion(quantity, weights):
    """Whole shares that sum to the quantity: largest remainder, the earlier first."""
    total = sum(weights)
    if len(weights) == 1 or total == 0:
        return [quantity] + [0] * (len(weights) - 1)
    shares = [quantity * w // total for w in weights]
    for i in sorted(range(len(weights)), key=lambda i: (-(quantity * weights[i] % total), i))[: quantity - sum(shares)]:
        shares[i] += 1
    return shares


def check_minimum(segments, total, where, read, terms, tell):
    """The least that a run costs, where it would cost less."""
    least, start = segments[0], micros(read["start"])
    rule = first_of(applying("minimum", where, terms), start)
    if len(segments) != 1 or total != int(least["price_micro"]) or int(least["amount_micro"]) <= 0 or (
        not terms["incomplete"] and (rule is None or rule.ref != least["rule"])
    ):  # fmt: skip
        tell(f"a minimum of {least['price_micro']} by rule {least['rule']} does not bring the charge to it")


def month_price(key, quantity, terms):
    """What a month's total costs: each tier's part at its own price, rounded half up once."""
    ref, off, _ = key.split(":", 2)
    first, given = terms["rules"][ref], terms["discounts"].get(off)
    up, down = (int(given["numerator"]), int(given["denominator"])) if off not in ("", "list") else (1, 1)
    total, tiers = 0, tiers_of(first, terms["rules"])
    for tier, bound in zip(tiers, [int(t["tier_from"]) for t in tiers[1:]] + [None]):  # noqa: B905 - Python 3.8
        part = (quantity if bound is None else min(quantity, bound)) - int(tier["tier_from"])
        if part > 0:
            total += rate(part, int(tier["price_micro"]) * up, int(tier["per"]) * down)
    return total


_SAME = (*SCOPE, "resource", "window", "zone", "valid_from", "tariff_sha256")


def tiers_of(first, rules):
    more = [r for r in rules.values() if int(r["tier_from"]) and all(r[name] == first[name] for name in _SAME)]
    return [first, *sorted(more, key=lambda r: int(r["tier_from"]))]


# ---------------------------------------------------------------- who bears it, and the centre's share


def check_borne(charge, total, gross, amount, bearing, centre, tax, read, policy, tell, note):
    """What of the price is owed, and what the operator or the centre bears, by the state in which the run ended."""
    bears = policy["liability"].get(read["state"])
    if bears is None and (amount, bearing) == (total, gross - total):
        return
    bears = bears or {"payer": 1, "centre": 0, "operator": 0}
    weights = [int(bears[name]) for name in ("payer", "centre", "operator")]
    before, _, borne = apportion(gross, weights)
    owed = apportion(total, weights)[0]
    borne += before - owed  # what the operator gave off of the payer's part
    if charge["reason"] == "late_increase":
        note("charges that came too late to rise: the operator bears what they would have added")
        if amount + bearing != owed + borne or amount > owed:
            tell(f"{amount} owed and {bearing} borne are not what {owed} and {borne} come to")
    elif (amount, bearing) != (owed, borne):
        tell(
            f"of {gross} the project owes {owed} and the operator bears {borne}; the charge says {amount} and {bearing}"
        )
    elif (owed, borne) != (total, gross - total):
        note("charges of which the operator or the centre bears a part, by the agreement")


def bought_on(terms, project, end, seq):
    """The terms on which a project bought when a run ended, as far as the log knew them when it was charged."""
    dated = terms["bought"].get(project, ()) if end else ()
    known = [(begin, content) for begin, at, content in dated if at < seq and begin <= micros(end)]
    return max(known, key=lambda pair: pair[0])[1] if known else {"user_class": "", "payers": []}


def check_payers(charge, amount, bought, tell):
    """Each payer's part by its weight, cut towards zero; what is left goes to the first."""
    weights = [(payer, int(weight)) for payer, weight in bought["payers"]]
    parts, whole = None, sum(weight for _, weight in weights)
    if weights:
        parts = {payer: str(cut(amount, weight, whole)) for payer, weight in weights}
        parts[weights[0][0]] = str(amount - sum(int(parts[payer]) for payer, _ in weights[1:]))
    if charge["payers"] != parts:
        tell(f"of {amount} the payers owe {parts} by the project's terms, the charge says {charge['payers']}")
    if charge["user_class"] != bought["user_class"]:
        tell(f"the project is of class {bought['user_class']!r}, the charge says {charge['user_class']!r}")


def check_shares(charge, earned, centre, tax, agreed, tell):
    """What the centre gets of what was earned: tax first, then the agreed ratio, cut towards zero."""
    if charge["agreement"] is None and (centre or tax):
        tell("a share of a centre without an agreement")
    if agreed is None:
        return
    rule = agreed["tax"]
    expected_tax = 0
    if rule["kind"] == "inclusive":
        whole = int(rule["numerator"]) + int(rule["denominator"])
        expected_tax = sign(earned) * ((2 * abs(earned) * int(rule["numerator"]) + whole) // (2 * whole))
    parts = shares(earned - expected_tax, agreed["shares"])
    if (centre, tax) != (parts.get(agreed["centre_id"], 0), expected_tax):
        tell(f"of {earned} the centre gets {parts.get(agreed['centre_id'], 0)} and tax {expected_tax} by agreement "
             f"{charge['agreement']}; the charge says {centre} and {tax}")  # fmt: skip


def shares(micro, agreed):
    """Each party's part by its ratio, cut towards zero; what is left goes to the party that the contract names."""
    found = {}
    for part in agreed["parts"]:
        cut = sign(micro) * (abs(micro) * int(part["numerator"]) // int(agreed["denominator"]))
        found[part["party_id"]] = found.get(part["party_id"], 0) + cut
    found[agreed["remainder_to"]] += micro - sum(found.values())
    return found


def sign(value):
    return -1 if value < 0 else 1


# ---------------------------------------------------------------- charge -> entry

ACCOUNTS = {"project": "amount", "operator:borne": "borne", "centre": "centre", "operator:tax": "tax",
            "operator:revenue": "rest"}  # fmt: skip


@lru_cache(maxsize=4096)
def account_of(account):
    """(what of a charge it is posted for, the project whose account it is, the payer whose part it is)"""
    head, _, rest = account.partition(":")
    names = rest.split(":") if head == "project" else [""]
    return ACCOUNTS.get(account if head == "operator" else head), names[0], ":".join(names[2:])


def check_entry(line, terms, about, tell, note):
    """One entry with its charges. Returns what the whole is summed from."""
    leaf, charged = line["leaf"], line["charges"]
    if leaf["charges"] != [hashed(c["charge"]) for c in charged]:
        tell("the charges are not those that the leaf commits to")
    sums, posted, drawn, project = {}, {}, {}, ""
    for account, commodity, text in leaf["postings"]:
        value = int(text)
        sums[commodity] = sums.get(commodity, 0) + value
        kind, of, payer = account_of(account)
        if kind:
            counted_as = commodity.partition("@")[0]
            posted[counted_as, kind] = posted.get((counted_as, kind), 0) + value
        if kind == "amount" and "@" in commodity:
            drawn[commodity] = drawn.get(commodity, 0) + value
        if payer:
            posted[commodity, f"owed by {payer}"] = posted.get((commodity, f"owed by {payer}"), 0) + value
        if of:
            project = of
            if about.get("project") and of != about["project"]:
                tell(f"the entry is about {account}, the bill about project {about['project']}")
    if any(sums.values()):
        tell(f"the postings do not balance: {sums}")
    made, parts, expected, counted = [], [], {}, None
    for c in charged:
        charge, record = c["charge"], c["record"]
        unread = check_record(record, (c.get("shown") or {}).get("fields"), tell)
        check_charge(charge, record, terms, project, line["seq"], tell, note)
        if c.get("shown"):
            check_personal(record, c["shown"], tell)
        check_about(record, about, tell)
        values = [int(charge[name]) for name in SUMS] + [int(charge["core_seconds"])]
        delta = list(values)
        for r in charge["replaces"]:
            before = [int(r[name]) for name in SUMS] + [int(r["core_seconds"])]
            parts.append((r["entry"], before))
            delta = [a - b for a, b in zip(delta, before)]  # noqa: B905 - Python 3.8
        _, amount, bearing, centre, tax, seconds = delta
        if charge["agreement"] is None:
            centre = 0
        rest = amount + bearing - tax - centre
        said = {"amount": amount, "borne": bearing, "centre": -centre, "tax": -tax, "rest": -rest}
        currency = charge["currency"]
        for name, value in said.items():
            expected[currency, name] = expected.get((currency, name), 0) + value
        owed = None
        if charge["payers"]:
            owed = {(currency, f"owed by {payer}"): int(part) for payer, part in charge["payers"].items()}
            for name, value in owed.items():
                expected[name] = expected.get(name, 0) + value
        expected["core-seconds", "amount"] = expected.get(("core-seconds", "amount"), 0) + seconds
        if charge["replaces"]:
            drawn = None  # by how much: what was charged before is in another entry
        elif drawn is not None:
            for s in charge["segments"]:
                given = terms["discounts"].get(str(s.get("discount"))) or {}
                if given.get("draws"):
                    drawn[given["draws"]] = drawn.get(given["draws"], 0) - int(s["quantity"])
        key = (record["site"], record["read"]["queue"], charge["grade"], charge["currency"])
        more = (charge["meter"], record["read"]["end"], charge["payers"], project) if about.get("payer") else None
        stated = None if record["one_sided"] else record["fields"]
        said = None if stated is None else (stated.get("statement"), stated.get("statement_line"))
        reading = (record["run"], record["meter"], record["revision"])
        made.append((leaf["key"], values, key, reading, more, unread, said, owed))
        by_count = terms["tiered"] and [
                    (of["tier_key"], int(of["count_before"]), int(s["quantity"]), int(of["amount_micro"]))
                    for s in charge["segments"] for of in (s, s.get("list", {})) if of.get("tier_key")]  # fmt: skip
        if by_count:
            counted = (leaf["key"], project, by_count, [r["entry"] for r in charge["replaces"]])
    if charged and drawn and any(drawn.values()):
        tell(f"what was bought is drawn by other runs than it pays for: off by {drawn}")
    off = {}
    if charged or leaf["kind"] == "overage":
        for name, value in posted.items():
            expected[name] = expected.get(name, 0) - value
        off = {k: v for k, v in expected.items() if v and (k[0] == "core-seconds" or len(k[0]) == 3)}
    return made, parts, (leaf["link"] or leaf["key"], off), counted


def check_difference(leaf, terms, tell):
    """A difference that was agreed with a centre: its share of the net amount by a version of the agreement, to the two
    micro-units by which the sum of two shares may be off the share of the sum."""
    net, centres = 0, {}
    for account, _, text in leaf["postings"]:
        if account == "operator:reconciliation":
            net += int(text)
        elif account.startswith("centre:"):
            centre = account.split(":")[1]
            centres[centre] = centres.get(centre, 0) - int(text)
    for centre, got in centres.items():
        agreed = [a["shares"] for a in terms["agreements"].values() if a["centre_id"] == centre]
        due = [shares(net, one).get(centre, 0) for one in agreed]
        if not any(abs(got - share) <= 2 or (share == 0 and got == net) for share in due):
            tell(f"a difference of {net} gives {got} to {centre}, by the agreement {' or '.join(map(str, due))}")


def movement(leaf, charged, about):
    """What an entry moved, by the accounts of its postings: (key, link, late, grade, currency, sums)."""
    owed, bearing, centre, tax, seconds, currencies = 0, 0, 0, 0, 0, set()
    for account, commodity, text in leaf["postings"]:
        if len(commodity) != 3:
            if commodity.partition("@")[0] == "core-seconds" and account.startswith("project:"):
                seconds += int(text)
            continue
        currencies.add(commodity)
        if account.startswith("project:") or account == "operator:credits":
            owed += int(text)
        elif account in ("operator:borne", "operator:reconciliation"):
            bearing += int(text)
        elif account.startswith("centre:"):
            centre -= int(text)
        elif account == "operator:tax":
            tax -= int(text)
    late = clock(leaf["service_at"] or leaf["at"]) < clock(about["from"])
    grade = charged[0]["charge"]["grade"] if charged else ""
    link = leaf["link"] if leaf["kind"] == "overage" else None
    return (
        leaf["key"],
        link,
        late,
        grade,
        "+".join(sorted(currencies)),
        [1, seconds, owed + bearing, bearing, centre, tax],
    )


def bare(line, terms):
    """What an entry is called that no charge or order stands under, so that nothing here says why it was booked."""
    leaf = line["leaf"]
    if line["charges"] or leaf["kind"] == "overage" or (leaf["kind"] == "order" and leaf["key"] in terms["orders"]):
        return None
    return leaf["kind"], leaf["memo"]


@lru_cache(maxsize=8)
def period(begin, finish):
    return clock(begin), clock(finish)


def check_about(record, about, tell):
    if about.get("settlement") or about.get("payer"):
        return  # what is settled or billed in a period may have run earlier
    if about.get("site") and record["site"] != about["site"]:
        tell(f"the run was at {record['site']}, the bill is about {about['site']}")
    end = record["read"]["end"]
    begin, finish = period(about["from"], about["to"])
    if not begin <= clock(end) < finish:
        tell(f"the run ended {end}, outside the period of the bill")


# ---------------------------------------------------------------- the bundle, in parallel


def check_chunk(task):
    """Lines of entries. Returns findings, notes, leaf hashes by number, charges made and replaced, sums that differ."""
    lines, terms, about = task
    findings, notes, leaves, made, replaced, offs, moved, booked, tiers = [], {}, [], [], [], [], [], [], []

    def note(text):
        notes[text] = notes.get(text, 0) + 1

    for text in lines:
        where = "a line"
        try:
            line = json.loads(text)
            where = f"leaf {line['seq']} ({line['leaf']['key']})"
            said = []
            leaves.append((line["seq"], leaf_hash(line["leaf"])))
            more, parts, off, counted = check_entry(line, terms, about, said.append, note)
            if counted:
                tiers.append((line["seq"], *counted))
            if line["leaf"]["kind"] == "order":
                check_order(line["leaf"], terms, about, said.append, note)
            if line["leaf"]["kind"] == "reconciliation":
                check_difference(line["leaf"], terms, said.append)
            if line["leaf"]["kind"] in ("charge", "correction") and not line["charges"]:
                said.append("an entry of charges without any charge")
            if line["leaf"]["kind"] in ("invoice", "credit_note", "order", "adjustment", "write_off"):
                booked.append((line["leaf"]["key"], line["leaf"]["postings"]))
            findings += [f"{where}: {what}" for what in said]
            made += more
            replaced += [(line["leaf"]["key"], *part) for part in parts]
            if off[1]:
                offs.append(off)
            if about.get("settlement"):
                moved.append((*movement(line["leaf"], line["charges"], about), bare(line, terms)))
        except (KeyError, TypeError, ValueError, AttributeError, IndexError, OverflowError) as exc:
            findings.append(f"{where}: cannot be read ({type(exc).__name__}: {exc})")
    return findings, notes, leaves, made, replaced, offs, moved, booked, tiers


def main_of(lines, options):
    """Check a bundle that is given as an iterator of lines; (findings, notes, a summary)."""
    whole = checked(lines, options)
    return whole.findings, whole.notes, whole.summary()


def checked(lines, options):
    """Check a bundle; everything that was found."""
    head = json.loads(next(lines))
    if head.get("t") != "bundle" or head.get("v") != 1:
        raise ValueError("this is no bundle of version 1")
    state = Whole(head, options)
    entries = []

    def rest():
        for text in lines:
            if text.startswith('{"t":"entry"'):
                yield text
            elif text.strip():
                state.other(json.loads(text))

    stream = rest()
    entries = iter(lambda: list(islice(stream, CHUNK)), [])
    first = next(entries, [])
    state.prices()
    if len(first) < CHUNK or options.processes == 1:
        for chunk in (first, *entries):
            state.take(check_chunk((chunk, state.terms, state.about)))
    else:
        with multiprocessing.get_context("fork" if hasattr(os, "fork") else "spawn").Pool(options.processes) as pool:
            tasks = ((c, state.terms, state.about) for c in _chain(first, entries))
            gate = threading.Semaphore(4 * options.processes)
            for result in pool.imap(check_chunk, bounded(tasks, gate)):
                gate.release()
                state.take(result)
    state.finish()
    return state


def bounded(tasks, gate):
    """A pool reads all its tasks at once; this lets it have only some, so that memory stays small."""
    for task in tasks:
        gate.acquire()
        yield task


def _chain(first, rest):
    yield first
    yield from rest


class Whole:
    """What is known of the bundle so far."""

    def __init__(self, head, options):
        self.head, self.about, self.options = head, head["about"], options
        self.findings, self.notes, self.leaves = [], {}, []
        self.terms = {"rules": {}, "agreements": {}, "discounts": {}, "orders": {}, "bought": {}}
        self.ends, self.cut, self.tariffs, self.signed = {}, {}, {}, {}
        self.documents, self.items, self.booked, self.tiers = [], [], {}, []
        self.billed, self.credited = {}, {}
        self.gaps, self.bill, self.settlements, self.off = [], None, [], {}
        self.made, self.replaced, self.readings = {}, {}, {}
        self.unread, self.stated, self.sides, self.owed = {}, {}, {}, {}
        self.statements, self.endorsed, self.confirmed, self.seal = {}, {}, {}, None
        self.sums, self.older = {}, []
        self.settled, self.keys, self.credits, self.over, self.bare = {}, set(), 0, [], {}
        self.note = None

    def tell(self, text):
        self.findings.append(text)

    def remark(self, text):
        self.notes[text] = self.notes.get(text, 0) + 1

    def other(self, line):
        kind = line["t"]
        if kind == "checkpoint":
            self.note = read_note(line["note"])
        elif kind == "older":
            self.older.append((read_note(line["note"]), [b64(h) for h in line["consistency"]]))
        elif kind == "gaps":
            self.gaps += [b64(h) for h in line["hashes"]]
        elif kind == "bill":
            self.bill = line
        elif kind == "leaf":
            self.leaf(line)
        elif kind == "signature":
            self.signature(line)
        elif kind == "items":
            self.items.append(line)
        elif kind == "seal":
            self.seal = line["note"]
        elif kind in ("received", "signed", "confirmed"):
            self.of_statement(kind, line)
        elif kind in ("runs", "between"):
            self.confirmed[line["of"]][kind] += line["runs"] if kind == "runs" else [b64(h) for h in line["hashes"]]
        elif kind == "statement":
            self.remark("a statement that is not agreed yet: it is in no log")
            self.settlements.append((line["content"], line["signatures"]))
        else:
            self.tell(f"a line of a kind that this verifier does not know: {kind!r}")

    def leaf(self, line):
        """A document with its leaf: the leaf names the document's hash."""
        leaf, content = line["leaf"], line["content"]
        self.leaves.append((line["seq"], leaf_hash(leaf)))
        if leaf["sha256"] != hashed(content):
            self.tell(f"leaf {line['seq']}: the {leaf['t']} is not the one that the log commits to")
        if leaf["t"] == "price_rule":
            self.terms["rules"][leaf["ref"]] = content
        elif leaf["t"] == "price_end":
            self.ends[content["rule"]] = micros(content["valid_to"])
        elif leaf["t"] == "discount":
            self.terms["discounts"][leaf["ref"]] = content
        elif leaf["t"] == "discount_end":
            self.cut[content["discount"]] = content["valid_to"]
        elif leaf["t"] == "project_terms":
            begin = micros(content["valid_from"])
            self.terms["bought"].setdefault(content["project_id"], []).append((begin, line["seq"], content))
        elif leaf["t"] == "tariff":
            self.tariffs[leaf["sha256"]] = (leaf["ref"], content)
        elif leaf["t"] == "agreement":
            self.terms["agreements"][leaf["ref"]] = content
        elif leaf["t"] == "order":
            take_order(leaf, content, self)
        elif leaf["t"] in ("invoice", "credit_note"):
            self.documents.append((line["seq"], leaf, content))
        elif leaf["t"] == "settlement":
            self.settlements.append((content, line["signatures"]))
            for one in line["signatures"]:
                if leaf[one["side"] + "_jws_sha256"] != hashlib.sha256(one["jws"].encode()).hexdigest():
                    self.tell(f"the log has another signature of the {one['side']}")
            if len(line["signatures"]) != 2:
                self.tell("an agreed statement has two signatures")

    def of_statement(self, kind, line):
        """A centre's statement, a signature under it, or what was found to agree with its lines."""
        leaf = line["leaf"]
        self.leaves.append((line["seq"], leaf_hash(leaf)))
        if kind == "received":
            self.statements[leaf["ref"]] = leaf
        elif kind == "signed":
            self.endorsed[leaf["ref"].partition("/")[0].partition(":")[2]] = (leaf, line["jws"])
        else:
            if leaf["sha256"] != hashed(line["content"]):
                self.tell(f"leaf {line['seq']}: the confirmation is not the one that the log commits to")
            self.confirmed[leaf["ref"]] = {"leaf": leaf, "content": line["content"], "runs": [], "between": []}

    def signature(self, line):
        """One side's signature under an agreement or a tariff: Ed25519 over its canonical bytes."""
        leaf, signature = line["leaf"], b64(line["signature"])
        self.leaves.append((line["seq"], leaf_hash(leaf)))
        document, _, party = leaf["ref"].partition("/")
        if leaf["t"] != "signature" or leaf["sha256"] != hashlib.sha256(signature).hexdigest():
            self.tell(f"leaf {line['seq']}: the signature is not the one that the log commits to")
        content = next((c for c in self.signable() if hashed(c) == document), None)
        if content is None:
            self.tell(f"leaf {line['seq']}: a signature under nothing that is in the bundle")
        elif line["algorithm"] != "Ed25519":
            self.remark(f"signatures of a kind that this verifier cannot check: {line['algorithm']}")
        elif not ed25519(b64(line["key"]), jcs(content), signature):
            self.tell(f"the signature of {party} under {content['id']}/{content['version']} is false")
        elif b64(line["key"]) not in self.options.signers.values():
            self.remark(f"the key of {party} was taken from the bundle: compare it with the contract's, {line['key']}")
        self.signed.setdefault(document, {})[party] = leaf.get("at")

    def signable(self):
        return [*self.terms["agreements"].values(), *(content for _, content in self.tariffs.values())]

    def prices(self):
        """When each price held: an own rule by its leaves, one of a tariff while its version was signed and newest."""
        terms, holds, incomplete = self.terms, {}, False
        for ref, content in terms["agreements"].items():
            missing = {content["operator_id"], content["centre_id"]} - set(self.signed.get(hashed(content), ()))
            if missing:
                self.tell(f"agreement {ref} is not signed by {' and '.join(sorted(missing))}")
        versions = {}
        for sha256, (_, content) in self.tariffs.items():
            at = list(self.signed.get(sha256, {}).values())
            incomplete |= None in at
            if len(at) == 2 and None not in at:  # it holds from its date on, but never before the second signature
                begin = max(micros(utc(content["valid_from"])), *map(micros, at))
                versions.setdefault(content["id"], []).append((content["version"], sha256, begin))
        for listed in versions.values():
            listed.sort()
            for i, (_, sha256, begin) in enumerate(listed):
                holds[sha256] = (begin, min((b for _, _, b in listed[i + 1 :]), default=None))
        for ref, ends in self.cut.items():
            one = terms["discounts"].get(ref)
            if one is not None and (one["valid_to"] is None or micros(ends) < micros(one["valid_to"])):
                terms["discounts"][ref] = {**one, "valid_to": ends}
        prices = []
        for ref, rule in terms["rules"].items():
            begin, end = micros(rule["valid_from"]), self.ends.get(ref)
            tariff = rule["tariff_sha256"]
            if tariff is not None:
                if tariff not in self.tariffs:
                    incomplete = True
                    continue
                stated = next((r for r in self.tariffs[tariff][1]["rules"] if same_rule(r, rule)), None)
                if stated is None:
                    self.tell(f"rule {ref} is not in tariff {self.tariffs[tariff][0]}")
                if stated is None or tariff not in holds:
                    continue  # not signed by both: it prices nothing
                dates = [stated["valid_to"] and micros(utc(stated["valid_to"])), holds[tariff][1]]
                begin, end = max(begin, holds[tariff][0]), min((d for d in dates if d), default=None)
            prices.append(Price(ref, rule, begin, end, len(tiers_of(rule, terms["rules"])) > 1))
        terms.update(prices=prices, incomplete=incomplete, cache={}, tiered=any(p.tiered for p in prices) or incomplete)

    def take(self, result):
        findings, notes, leaves, made, replaced, offs, moved, booked, tiers = result
        self.booked.update(booked)
        self.tiers += tiers
        self.findings += findings
        self.leaves += leaves
        for text, count in notes.items():
            self.notes[text] = self.notes.get(text, 0) + count
        for key, values, of, (run, meter, revision), more, unread, said, owed in made:
            if owed:
                self.owed[key] = owed
            if unread is not None:
                self.unread[key] = unread
            if said is not None:
                self.stated[key] = said
            if key in self.made:
                self.tell(f"{key} is there twice")
            self.made[key] = (tuple(values), of, more)
            reading = f"{of[0]}\n{run}\n{meter}\n{revision}"
            if reading in self.readings:
                self.tell(f"{key}: this reading of run {run} at {of[0]} is charged twice")
            self.readings[reading] = key
        for key, before, values in replaced:
            if before in self.replaced:
                self.tell(f"{key}: {before} was replaced already by {self.replaced[before][0]}")
            self.replaced[before] = (key, tuple(values))
        for key, off in offs:
            at = self.off.setdefault(key, {})
            for name, value in off.items():
                at[name] = at.get(name, 0) + value

        for key, link, late, grade, currency, values, without in moved:
            self.keys.add(key)
            if without is not None:
                self.bare[key] = (*without, values[4], currency)
            self.credits += min(0, values[2])
            if link is not None:
                self.over.append((link, late, currency, values))
            else:
                self.settle(late, grade, currency, values)

    def settle(self, late, grade, currency, values):
        at = self.settled.setdefault((late, grade, currency), [0] * len(values))
        for i, value in enumerate(values):
            at[i] += value

    def finish(self):
        for link, late, currency, values in self.over:  # its grade is that of the charge that it goes with
            self.settle(late, self.made[link][1][2] if link in self.made else "", currency, values)
        self.check_replaced()
        self.check_tiers()
        self.check_log()
        check_seal(self)
        check_sides(self)
        self.check_bill()
        if self.about.get("settlement") and len(self.settlements) != 1:
            self.tell("there is no statement in the bundle, or more than one")
        for content, signatures in self.settlements:
            check_settlement(content, signatures, self, self.tell, self.remark)

    def check_tiers(self):
        """Each part at a tiered price is by how much the month's total rose when it was counted."""
        counted, kept = {}, {}
        for _, key, project, parts, replaced in sorted(self.tiers):
            gone = {}
            for before in replaced:
                for tier, quantity, micro in kept.get(before, ()):
                    at = gone.setdefault(tier, [0, 0])
                    at[0], at[1] = at[0] + quantity, at[1] + micro
                    counted[project, tier] -= quantity
            if any(before not in kept for before in replaced if before not in self.made):
                self.remark("corrections at tiered prices of charges that are not in this bundle")
                gone = None
            for tier, before, quantity, micro in parts:
                if tier.partition(":")[0] not in self.terms["rules"]:
                    self.remark("tiered prices whose rule is not in the bundle")
                    continue
                taken, given = (0, 0) if gone is None else gone.pop(tier, (0, 0))
                rise = month_price(tier, before + quantity, self.terms) - month_price(tier, before + taken, self.terms)
                if gone is not None and micro != rise + given:
                    self.tell(
                        f"{key}: from {before} to {before + quantity} the month rises by {rise + given}, not {micro}"
                    )
                if before < counted.get((project, tier), 0):
                    self.tell(f"{key}: {before} were counted before it, the charges before it have more")
                elif before > counted.get((project, tier), 0):
                    self.remark("tiered prices that count charges which are not in this bundle too")
                counted[project, tier] = counted.get((project, tier), 0) + quantity
                kept.setdefault(key, []).append((tier, quantity, micro))

    def check_replaced(self):
        for before, (key, values) in self.replaced.items():
            known = self.made.get(before)
            if known is None:
                self.remark("corrections of charges that are not in this bundle")
            elif known[0] != values:
                self.tell(f"{key} takes back {values} of {before}, which had charged {known[0]}")
            for name, part in self.owed.get(before, {}).items():  # each payer is given back their part
                at = self.off.setdefault(key, {})
                at[name] = at.get(name, 0) - part
        unknown = {key for before, (key, _) in self.replaced.items() if before not in self.made}
        for key, off in self.off.items():  # what went beyond a hold is posted by an entry of its own, linked to it
            if any(value for (_, name), value in off.items() if key not in unknown or not name.startswith("owed by")):
                self.tell(f"{key}: charged and posted differ by {off}")

    def check_log(self):
        if self.note is None:
            self.tell("there is no checkpoint")
            return
        origin, size, root = self.note[:3]
        log = self.options.log or vkey(self.head["log"])
        if not self.options.log:
            self.remark("the log's key was taken from the bundle itself: name it by --log-key")
        elif self.head["log"] != self.options.log_text:
            self.tell("the bundle names another log key than yours")
        if origin != log[0] or not note_signed(self.note, log):
            self.tell(f"{log[0]} did not sign the checkpoint")
        for witness in self.options.witnesses:
            if not note_signed(self.note, witness):
                self.tell(f"the witness {witness[0]} did not cosign the checkpoint")
        if not self.options.witnesses:
            self.remark("no witness was asked for: name one by --witness, else a log could show others another history")
        if size != self.head["size"]:
            self.tell(f"the bundle says {self.head['size']} leaves, the checkpoint {size}")
        self.leaves.sort()
        if len({seq for seq, _ in self.leaves}) != len(self.leaves):
            self.tell("a leaf number is there twice")
        elif root_of(size, self.leaves, self.gaps) != root:
            self.tell("THE ENTRIES ARE NOT THOSE OF THE LOG: they do not lead to the signed root")
        for old, proof in self.older:
            if old[0] != origin or not note_signed(old, log):
                self.tell(f"{log[0]} did not sign the older checkpoint")
            if not consistent(old[1], size, old[2], root, proof):
                self.tell(f"the log of {old[1]} leaves is not the beginning of the one of {size}: history was changed")
        if self.options.seen:
            mine = read_note(self.options.seen)
            if mine[1:3] not in [old[1:3] for old, _ in self.older] + [(size, root)]:
                self.tell("the bundle does not lead from the checkpoint that you have kept: ask for ?seen=SIZE")

    def check_bill(self):
        """Live charges (those that nothing replaced) summed by site, queue, grade and currency."""
        for key, (values, of, _) in self.made.items():
            if key not in self.replaced:
                at = self.sums.setdefault(of, [0] * (len(SUMS) + 2))
                for i, value in enumerate(values):
                    at[i] += value
                at[-1] += 1
        if self.about.get("settlement"):
            return  # the statement is the bill: it sums what entries moved, not what charges stand at
        if self.about.get("payer"):
            check_documents(self)
            return
        if self.bill is None:
            self.tell("there is no bill in the bundle")
            return
        said = {}
        for line in self.bill["lines"]:
            key = (line["site"], line["queue"], line["grade"], line["currency"])
            if key in said:
                self.tell(f"the bill has two lines for {key}")
            said[key] = [int(line[name]) for name in (*SUMS, "core_seconds", "runs")]
        for key in sorted(said.keys() | self.sums.keys()):
            if said.get(key) != self.sums.get(key):
                self.tell(f"{'/'.join(key)}: the bill says {said.get(key)}, the charges sum to {self.sums.get(key)}")
        totals = {}
        for (*_, currency), values in self.sums.items():
            totals[currency] = totals.get(currency, 0) + values[1]
        check_ordered(self, totals)
        if {c: int(a) for c, a in self.bill["totals"].items()} != totals:
            self.tell(f"the bill's totals are {self.bill['totals']}, the charges sum to {totals}")

    def summary(self):
        lines = [
            f"{len(self.leaves)} leaves of {self.note[1] if self.note else '?'}, {len(self.made)} charges re-added"
        ]
        for (site, queue, grade, currency), values in sorted(self.sums.items()):
            where = f"{site}/{queue}" + (f" ({grade})" if grade else "")
            lines.append(
                f"  {where}: {values[-1]} runs, {values[-2] / 3600:.3f} core-hours, {money(values[1])} {currency}, "
                f"the centre's share {money(values[3])}"
            )
        for key, bought in sorted(self.terms["orders"].items()):
            if key in self.booked:
                where = f"order {bought['order_id']} for {bought['site_id'] or 'no centre'}"
                lines.append(f"  {where}: {money(int(bought['price_micro']))} {bought['currency']}, divided again")
        unread = self.not_metered()
        live = len(self.made) - sum(key in self.made for key in self.replaced)
        lines.append(f"  metered again from the raw records of the centres: {live - len(unread)} of {live} charges")
        for reason in sorted(set(unread.values())):
            lines.append(f"  NOT METERED AGAIN: {list(unread.values()).count(reason)} charges, {reason}")
        for (kind, currency), (count, centre) in self.bare_kinds():
            lines.append(f"  UNDER NO CHARGE: {count} entries of kind {kind}, {money(centre)} {currency} to the centre "
                         "(--runs: each of them)")  # fmt: skip
        sides = [side[0] for key, side in self.sides.items() if key not in self.replaced]
        lines.append(
            f"  two-sided, the centre's signature checked: {sides.count(True)}; one-sided: {live - len(sides)}"
        )
        if False in sides:
            lines.append(f"  two-sided by the log alone: {sides.count(False)} (its key is not one that you named, or "
                         "signed is a statement that is not here: --signer, --statement)")  # fmt: skip
        return lines

    def bare_kinds(self):
        """By kind and currency: how many entries without a charge there are, and what they move to the centre."""
        found = {}
        for kind, _, centre, currency in self.bare.values():
            at = found.setdefault((kind, currency), [0, 0])
            at[0], at[1] = at[0] + 1, at[1] + centre
        return sorted(found.items())

    def not_metered(self):
        """The charges that stand on the bill, and were not metered again: why."""
        return {key: why for key, why in self.unread.items() if key not in self.replaced}

    def runs(self):
        """Each run on the bill with what it stands on."""
        for reading, key in self.readings.items():
            site, run, _, revision = reading.split("\n")
            if key in self.replaced:
                continue
            checked, words = self.sides.get(key, (None, "one-sided: the centre has signed nothing for it"))
            if checked is not None:
                words = f"two-sided{'' if checked else ' by the log (signature not checked)'}: {words}"
            metered = f"NOT METERED AGAIN ({self.unread[key]})" if key in self.unread else "metered again"
            yield f"{site} {run} (reading {revision}, {key}): {metered}; {words}"
        for key, (kind, memo, centre, currency) in sorted(self.bare.items()):
            yield f"{key}: {kind} under no charge, {money(centre)} {currency} to the centre: {memo}"


# ---------------------------------------------------------------- what the operator and the centres signed of it

SEAL = "penstock bundle 1"


def check_seal(whole):
    """The operator signed the question with the numbers of all leaves that answer it."""
    tell, log = whole.tell, whole.options.log or vkey(whole.head["log"])
    if whole.seal is None:
        tell("the bundle is not sealed: nobody says that this is all there is for what was asked")
        return
    body, _, rest = whole.seal.rpartition("\n\n")
    listed = "".join(f"{seq}\n" for seq, _ in whole.leaves).encode()
    hashes = [base64.b64encode(hashlib.sha256(data).digest()).decode() for data in (jcs(whole.head), listed)]
    head = [SEAL, log[0], *hashes]
    if body.split("\n") != head:
        tell("THE BUNDLE IS NOT WHAT WAS SEALED: another project, site or time, or other leaves")
    signature = next((b64(line.split(" ")[2]) for line in rest.split("\n") if line.startswith(f"— {log[0]} ")), b"")
    if signature[:4] != log[3] or not ed25519(log[2], (body + "\n").encode(), signature[4:]):
        tell(f"{log[0]} did not seal the bundle")


def check_sides(whole):
    """Which readings the centre has put its name to: by a signed statement, in a line of it."""
    signed = {}
    for ref, leaf in whole.statements.items():
        try:
            checked, party = check_endorsed(ref, leaf, whole)
            signed[ref] = checked, party, leaf
        except (KeyError, ValueError, TypeError) as exc:
            whole.tell(f"the signature under statement {ref} cannot be read ({type(exc).__name__}: {exc})")
    for ref, one in whole.confirmed.items():
        said, leaf = one["content"], one["leaf"]
        checked, party, statement = signed.get(ref.partition("/")[0], (False, None, {"sha256": None, "site": None}))
        if (said["statement"], said["signed_by"], leaf["statement"], leaf["by"], leaf["site"]) != (
            statement["sha256"], party, statement["sha256"], party, statement["site"]
        ):  # fmt: skip
            whole.tell(f"confirmation {ref} is of a statement that is not in the bundle, or that another party signed")
        leaves = [(run[0], leaf_hash(run[1:])) for run in one["runs"]]
        ascend = all(a[0] < b[0] for a, b in zip(leaves, leaves[1:]))  # noqa: B905, RUF007 - Python 3.8
        if not ascend or root_of(int(said["runs"]), leaves, one["between"]) != b64(said["root"]):
            whole.tell(f"confirmation {ref}: the runs are not those that the log commits to")
        for _, site, run, meter, revision, line in one["runs"]:
            key = whole.readings.get(f"{site}\n{run}\n{meter}\n{revision}")
            if key is None or site != leaf["site"]:
                whole.tell(f"confirmation {ref}: run {run} at {site} is not in the bundle")
            elif not whole.sides.get(key, (False,))[0]:
                whole.sides[key] = checked, f"line {line} of {party}'s statement {said['statement']}"
    for key, (ref, line) in whole.stated.items():
        checked, party, leaf = signed.get(ref, (False, None, {"site": None}))
        if leaf["site"] != whole.made[key][1][0]:
            whole.tell(f"{key}: a reading from a signed statement, and no such statement of its site is in the bundle")
        else:
            whole.sides[key] = checked, f"line {line} of {party}'s statement {leaf['sha256']}"


def check_endorsed(ref, statement, whole):
    """(whether the centre's signature under a statement was checked by a key that you named, whose it is)"""
    leaf, jws = whole.endorsed[ref]
    head, body, signature = jws.split(".")
    header, (kind, _, party) = json.loads(url64(head)), leaf["ref"].partition("/")
    if (leaf["t"], kind, leaf["sha256"]) != ("signature", f"statement:{ref}", hashlib.sha256(jws.encode()).hexdigest()):
        whole.tell(f"the signature under statement {ref} is not the one that the log commits to")
    if (header["alg"], header["kid"]) != ("Ed25519", leaf["key"]):
        whole.tell(f"the signature under statement {ref} is of another kind, or of another key")
    centres = {a["centre_id"] for a in whole.terms["agreements"].values() if statement["site"] in a["site_ids"]}
    if centres and party not in centres:
        whole.tell(f"statement {ref} of {statement['site']} is signed by {party}, the agreement is {centres}'s")
    if header["typ"] == "penstock-statement-hash+jws":
        payload = jcs({"sha256": statement["sha256"]})
        if url64(body) != payload:
            whole.tell(f"{party} signed another statement than {ref}")
    elif header["typ"] == "penstock-statement+jws" and not body:
        payload = whole.options.documents.get(statement["sha256"])
    else:
        raise ValueError("it signs no statement")
    if payload is None:
        return False, party
    key, signers = b64(leaf["public"]), whole.options.signers
    known = signers.get(party, signers.get("centre")) == key
    if not known:
        whole.remark(f"the key of {party} was taken from the log: compare it with the contract's, {leaf['public']}, "
                     f"and name it by --signer {party}=KEY")  # fmt: skip
    if party in signers and not known:
        whole.tell(f"statement {ref} is signed by another key of {party} than yours")
    body = base64.urlsafe_b64encode(payload).rstrip(b"=").decode()
    if not ed25519(key, f"{head}.{body}".encode(), url64(signature)):
        whole.tell(f"the signature of {party} under statement {ref} is false")
    return known, party


def utc(text):
    return text[:-1] + "+00:00" if text.endswith("Z") else text


def same_rule(stated, rule):
    """Whether a rule of a tariff's document is the one that was stored of it."""
    for name, value in rule.items():
        if name in ("v", "tariff_sha256"):
            continue
        other = stated[name]
        if name == "valid_from":
            if micros(utc(other)) != micros(value):
                return False
        elif json.loads(json.dumps(other), parse_int=str) != value:
            return False
    return True


def money(micro):
    sign = "-" if micro < 0 else ""
    return f"{sign}{abs(micro) // 10**6}.{abs(micro) % 10**6:06d}"


# ---------------------------------------------------------------- charges -> invoices and credit notes

# Decimals of the currencies that have not two (ISO 4217).
_DECIMALS = {"BHD IQD JOD KWD LYD OMR TND": 3, "CLF UYW": 4,
             "BIF CLP DJF GNF ISK JPY KMF KRW PYG RWF UGX UYI VND VUV XAF XOF XPF": 0}  # fmt: skip
DECIMALS = {currency: places for names, places in _DECIMALS.items() for currency in names.split()}


def check_documents(whole):
    """Every document of a payer: its lines from the charges on them, tax and rounding once, its entry in the books."""
    about, tell = whole.about, whole.tell
    whole.documents.sort(key=lambda one: one[0])
    items, issued = items_by_document(whole), {}
    for _, leaf, said in whole.documents:
        number = said["number"]
        if number in issued or (leaf["ref"], leaf["t"], leaf["project"]) != (number, said["kind"], said["project_id"]):
            tell(f"{number} is there twice, or its leaf names another document")
        issued[number] = said
        named = (about["document"], about["project"] or said["project_id"])
        if said["payer"]["id"] != about["payer"] or said["project_id"] != named[1] or (
            named[0] and named[0] not in (number, said["corrects"])
        ):  # fmt: skip
            tell(f"{number} is no document of what the bundle is about")
        mine = items.pop(number, [])
        listed = "".join("\t".join(item) + "\n" for item in mine).encode()
        if "items_sha256" not in leaf:
            whole.remark("documents whose leaf does not say which charges are on them: the sums alone were checked")
        elif leaf["items_sha256"] != hashlib.sha256(listed).hexdigest():
            tell(f"{number}: the charges on it are not those that the log commits to")
        if said["corrects"]:
            check_credit(said, mine, whole)
        else:
            check_lines(said, mine, whole)
            check_tax(said, lambda text, n=number: tell(f"{n}: {text}"))
        check_booked(said, whole)
    spans = [(said["period_start"], said["period_end"]) for said in issued.values()]
    if not spans or (min(a for a, _ in spans), max(b for _, b in spans)) != (about["from"], about["to"]):
        tell("the documents are not of the time that the bundle is about")
    if items:
        tell(f"there are charges on documents that are not in the bundle: {sorted(items)}")
    check_billed_once(whole)


def items_by_document(whole):
    found = {}
    for line in whole.items:
        found.setdefault(line["document"], []).extend(tuple(item) for item in line["items"])
    return found


def check_lines(said, items, whole):
    """Each line is the sum of the charges on it, as they were booked."""
    number, found, adjusted = said["number"], {}, set()
    for item in items:
        line, kind, entry, part, seconds, micro = item
        if (kind, entry, part) in whole.billed:
            whole.tell(f"{number}: {kind} {entry} is billed twice")
        whole.billed[kind, entry, part] = number
        if kind == "order":
            for text in wrong_order(said, line, entry, part, seconds, micro, whole):
                whole.tell(f"{number}: {entry}: {text}")
            found.setdefault(line, [0, 0, 0])[2] += int(micro)
            continue
        if kind == "adjustment":
            adjusted.add(line)
            for text in wrong_adjustment(said, line, entry, part, seconds, micro, whole):
                whole.tell(f"{number}: {entry}: {text}")
            found.setdefault(line, [0, 0, 0])[2] += int(micro)
            continue
        charge = whole.made.get(entry)
        if charge is None:
            whole.tell(f"{number}: {entry} is on it, and not in the bundle")
            continue
        for text in wrong_item(said, line, kind, part, seconds, micro, charge):
            whole.tell(f"{number}: {kind} {entry}: {text}")
        if kind == "reversal" and entry not in whole.replaced:
            whole.tell(f"{number}: {entry} is taken back, and nothing took its place")
        at = found.setdefault(line, [0, 0, 0])
        at[0], at[1], at[2] = at[0] + (kind == "charge"), at[1] + int(seconds), at[2] + int(micro)
    lines = {line["number"]: line for line in said["lines"]}
    if list(lines) != [str(n) for n in range(1, len(said["lines"]) + 1)]:
        whole.tell(f"{number}: its lines are not numbered from 1")
    for n in sorted(lines.keys() | found.keys()):
        line = lines.get(n)
        sums = None if line is None else [int(line[name]) for name in ("runs", "core_seconds", "amount_micro")]
        if sums != found.get(n):
            whole.tell(f"{number}, line {n}: it says {sums}, the charges on it come to {found.get(n)}")
        late = line is not None and micros(line["service_start"]) < micros(said["period_start"])
        expected = "order" if line is not None and "ordered" in line else "correction" if late else "usage"
        expected = "adjustment" if n in adjusted else expected
        if line is not None and line["kind"] != expected:
            whole.tell(f"{number}, line {n}: it is called {line['kind']}")


def wrong_adjustment(said, n, entry, part, seconds, micro, whole):
    """What of a decision on a line is not as it was booked: its entry lets the project owe so much more or less."""
    line = next((line for line in said["lines"] if line["number"] == n), None)
    booked = whole.booked.get(entry)
    if line is None or booked is None or entry[:11] != "adjustment:":
        return ["there is no such line, or its entry is not in the bundle"]
    owes = (f"project:{said['project_id']}:usage", said["currency"])
    owed = sum(int(value) for account, commodity, value in booked if (account, commodity) == owes)
    if part in ("", said["payer"]["id"]) and int(seconds) == 0:
        if part and 0 <= sign(owed) * int(micro) <= abs(owed):
            whole.remark("a payer's part of an adjustment: that it is no more than the whole is all that was checked")
            return []
        if int(micro) == owed:
            return []
    return [f"{micro} for {seconds} core-seconds as the part of {part!r}, {owed} is booked on {owes[0]}"]


def wrong_item(said, n, kind, part, seconds, micro, charge):
    """What of a charge on a line is not as it was booked."""
    values, (site, _, _, currency), (meter, end, payers, project) = charge
    line = next((line for line in said["lines"] if line["number"] == n), None)
    if line is None or kind not in ("charge", "reversal"):
        return [f"there is no line {n}, or no {kind}"]
    found, amount, core_seconds, way = [], values[1], values[5], 1 if kind == "charge" else -1
    if payers is not None or part:
        share = int((payers or {}).get(part, 0))
        core_seconds = cut(core_seconds, sign(amount) * (share * 10**6 // abs(amount)), 10**6) if amount else 0
        amount = share
        if part != said["payer"]["id"]:
            found.append(f"it is the part of {part!r}")
    if (int(micro), int(seconds)) != (way * amount, way * core_seconds):
        found.append(f"{micro} for {seconds} core-seconds, booked were {amount} for {core_seconds}")
    if (site, currency, project) != (line["site_id"], said["currency"], said["project_id"]):
        found.append(f"it ran at {site} for {project} in {currency}")
    if meter != "centre":
        found.append("no centre's meter has read it")
    if not micros(line["service_start"]) <= micros(end) < micros(line["service_end"]):
        found.append(f"it ended {end}, outside the line's period")
    if micros(end) >= micros(said["period_end"]):
        found.append(f"it ended {end}, after what is billed")
    return found


# ---------------------------------------------------------------- orders -> entries and invoices


def take_order(leaf, content, whole):
    """What was ordered at which price, by the key of the entry that charged it."""
    if (leaf["ref"], leaf["project"]) != (content["allocation_id"], content["project_id"]):
        whole.tell(f"the leaf of order {content['order_id']} names another one")
    if content["entry"] in whole.terms["orders"]:
        whole.tell(f"{content['entry']} has two orders")
    whole.terms["orders"][content["entry"]] = content


def check_order(leaf, terms, about, tell, note):
    """The entry of an order's price: the project owes it, agreement and payers divide it."""
    said = terms["orders"].get(leaf["key"])
    if not (about.get("settlement") or about.get("payer")):
        begin, finish = period(about["from"], about["to"])
        if not begin <= clock(leaf["at"]) < finish:
            tell(f"the order was booked {leaf['at']}, outside the period of the bill")
        if said is not None and about.get("site") and said["site_id"] != about["site"]:
            tell(f"the order is for {said['site_id']}, the bill is about {about['site']}")
    if said is None:
        note("this entry is of an order that is not in the bundle: its price was not re-added")
        return
    price, owes, currency = int(said["price_micro"]), f"project:{said['project_id']}:usage", said["currency"]
    payers = {"": price} if said["payers"] is None else {p: int(part) for p, part in said["payers"].items()}
    expected = {owes + (f":{payer}" if payer else ""): part for payer, part in payers.items()}
    tax = centre = 0
    if said["agreement"] is None:
        check_month(said, {}, tell)
        check_back(said, {}, terms, tell, note)
    else:
        agreed = terms["agreements"].get(said["agreement"])
        if agreed is None:
            tell(f"agreement {said['agreement']} of the order is not in the bundle")
            return
        if agreed["tax"]["kind"] == "inclusive":
            of = int(agreed["tax"]["numerator"]) + int(agreed["tax"]["denominator"])
            tax = sign(price) * ((2 * abs(price) * int(agreed["tax"]["numerator"]) + of) // (2 * of))
        centre = shares(price - tax, agreed["shares"]).get(agreed["centre_id"], 0)
        check_month(said, agreed, tell)
        check_back(said, agreed, terms, tell, note)
        check_floor(said, agreed, terms, tell)
        expected[f"centre:{agreed['centre_id']}:payable"] = -centre
    expected.update({"operator:tax": -tax, "operator:revenue": centre + tax - price})
    posted = {}
    for account, commodity, value in leaf["postings"]:
        posted[account] = posted.get(account, 0) + int(value)
        if commodity != currency:
            tell(f"it moves {commodity}, the order is in {currency}")
    if {k: v for k, v in posted.items() if v} != {k: v for k, v in expected.items() if v}:
        tell(f"booked is {posted}, by the order and its agreement it is {expected}")
    note("this entry is of an order: its price was divided again by its agreement, no raw records are under it")


RESOURCES = {"core-seconds": "core_seconds", "gpu-seconds": "gpu_seconds"}


def check_floor(said, agreed, terms, tell):
    """Nothing is sold below the lowest price that the centre had signed for it, unless it bears discounts."""
    price, amount = int(said["price_micro"]), int(said["quantity"])
    if price <= 0 or not int(agreed.get("discounts_borne", {"operator": 1})["operator"]):
        return
    if said.get("month"):
        price, amount = int(said["month"]["price_micro"]), int(said["month"]["quantity"])
    resource, begin = RESOURCES.get(said["commodity"], "unit:" + said["commodity"]), micros(said["service_start"])
    rules = [terms["rules"][r.ref] for r in terms["prices"] if r.signed and r.begin <= begin]
    least = [
        rate(amount, int(r["price_micro"]), int(r["per"])) for r in rules
        if (r["resource"], r["currency"]) == (resource, said["currency"])
        and r["site_id"] in (None, *agreed["site_ids"]) and r["project_id"] in (None, said["project_id"])
    ]  # fmt: skip
    if least and price < min(least):
        tell(f"order {said['order_id']} was sold for {price}, by what its centre signed it costs at least {min(least)}")


def check_month(said, agreed, tell):
    """A month of a subscription: all of it, or the part of its days, as the agreement says."""
    month = said.get("month")
    if month is None:
        return
    whole = (int(month["quantity"]), int(month["price_micro"]))
    if is_by_day(agreed):
        first = day_of(said["service_start"], month["zone"]).replace(day=1)
        days = days_of(said["service_start"], said["service_end"], month["zone"])
        of = ((first + timedelta(days=31)).replace(day=1) - first).days
        whole = (max(1, whole[0] * days // of), (2 * whole[1] * days + of) // (2 * of))
    if (int(said["quantity"]), int(said["price_micro"])) != whole:
        tell(f"{said['quantity']} for {said['price_micro']} of a month, by the agreement it is {whole}")


def is_by_day(agreed):
    """Months go by days where no agreement divides their price; one that does not say so means whole ones."""
    return not agreed or agreed.get("partial_months") == "by_day"


def days_of(begin, finish, name):
    """Calendar days from one moment to another: the day that it begins on counts, the day that it ends on does not."""
    return max(1, (day_of(finish, name) - day_of(begin, name)).days)


def day_of(text, name):
    return wall(micros(text), name).date()


def check_back(said, agreed, terms, tell, note):
    """What of a price went back when its order was canceled, where the price is in the bundle, too."""
    name = said["allocation_id"].replace("!canceled", "")
    if name == said["allocation_id"]:
        return
    first = next((o for o in terms["orders"].values() if o["allocation_id"] == name), None)
    if first is not None:
        unused, whole = -int(said["quantity"]), int(first["quantity"]) * 10**6
        price = int(first["price_micro"])
        back = price * unused * int(agreed.get("unused_back_ppm", 0)) // whole
        if first.get("month") and is_by_day(agreed):
            name, finish = first["month"]["zone"], first["service_end"]
            left = max(0, (day_of(finish, name) - day_of(said["service_start"], name)).days - 1)
            by_day = price * left // days_of(first["service_start"], finish, name)
            back = max(back, min(by_day, price * unused // int(first["quantity"])))
        stated = -int(said["price_micro"])
        if 0 < stated < back:  # by what a credit note had left of the price
            note("a canceled order gave less back than its agreement says: a credit note must have given some before")
        if stated > back or said["order_id"] != first["order_id"] or not 0 < unused <= int(first["quantity"]):
            tell(f"{said['price_micro']} went back for {unused} of {first['quantity']}, by the agreement it is {back}")


def check_ordered(whole, totals):
    """A bill that is no document lists each order's price once, as its entry booked it; adds them to the totals."""
    said = {}
    for line in whole.bill.get("orders", []):
        if line["entry"] in said:
            whole.tell(f"the bill has {line['entry']} twice")
        said[line["entry"]] = line
    owed = {}
    for key, postings in whole.booked.items():
        for account, commodity, value in postings:
            if account.startswith("project:"):
                at = owed.setdefault(key, {})
                at[commodity] = at.get(commodity, 0) + int(value)
    for key in sorted(said.keys() | owed.keys()):
        line, ordered = said.get(key), whole.terms["orders"].get(key)
        if line is None or owed.get(key) != {line["currency"]: int(line["amount"])}:
            whole.tell(f"{key}: the bill says {line}, booked is {owed.get(key)}")
            continue
        if ordered is not None and (line["order"], line["site"]) != (ordered["order_id"], ordered["site_id"]):
            whole.tell(f"{key}: the bill says it is order {line['order']} for {line['site']}")
        totals[line["currency"]] = totals.get(line["currency"], 0) + int(line["amount"])


def wrong_order(said, n, entry, part, seconds, micro, whole):
    """What of an order's price on a line is not as it was ordered and booked."""
    line = next((line for line in said["lines"] if line["number"] == n), None)
    booked, ordered = whole.booked.get(entry), whole.terms["orders"].get(entry)
    if line is None or "ordered" not in line or booked is None:
        return ["there is no such line of an order, or its entry is not in the bundle"]
    owes = f"project:{said['project_id']}:usage" + (f":{part}" if part else "")
    owed = sum(int(value) for account, commodity, value in booked if (account, commodity) == (owes, said["currency"]))
    found = []
    if (owed, 0) != (int(micro), int(seconds)) or part not in ("", said["payer"]["id"]):
        found.append(f"{micro} for {seconds} core-seconds as the part of {part!r}, {owed} is booked on {owes}")
    if ordered is None:
        whole.remark("a line of an order that is not in the bundle: it was not re-added from the order")
        return found
    names = ("order_id", "allocation_id", "kind", "commodity", "quantity")
    if line["ordered"] != {name: ordered[name] for name in names}:
        found.append(f"the line says {line['ordered']}, that is not what was ordered")
    for name in ("site_id", "service_start", "service_end"):
        if line[name] != ordered[name]:
            found.append(f"its {name} is not that of the order")
    return found


def check_tax(said, tell):
    """The sum of the lines rounded once, taxed, and shared out to the lines by largest remainder."""
    amounts = [int(line["amount_micro"]) for line in said["lines"]]
    rate_ppm, coin = int(said["tax"]["rate_ppm"]), minor(said)
    rounded = away(sum(amounts), coin)
    inside = said["tax"]["inclusive"]
    whole = 10**6 + rate_ppm if inside else 10**6
    tax = away(rounded * rate_ppm, whole)
    parts = largest(rounded, amounts, coin)
    taxes = largest(tax, [amount * rate_ppm for amount in amounts], coin * whole)
    nets = [part - share for part, share in zip(parts, taxes)] if inside else parts  # noqa: B905 - Python 3.8
    expected = {
        "net_minor": rounded - tax if inside else rounded, "tax_minor": tax,
        "gross_minor": rounded if inside else rounded + tax, "rounding_micro": rounded * coin - sum(amounts),
    }  # fmt: skip
    for name, value in expected.items():
        if int(said[name]) != value:
            tell(f"{name} is {value}, it says {said[name]}")
    stated = [(int(line["net_minor"]), int(line["tax_minor"])) for line in said["lines"]]
    if stated != list(zip(nets, taxes)):  # noqa: B905
        tell(f"net and tax of the lines are {list(zip(nets, taxes))}, it says {stated}")  # noqa: B905
    if said["tax"]["kind"] != "standard" and rate_ppm:
        tell(f"a supply that is {said['tax']['kind']} bears no tax")


def minor(said):
    """Micro-units in the smallest coin."""
    return coin_of(said["currency"])


def coin_of(currency):
    """Micro-units in the smallest coin of a currency."""
    return 10 ** (6 - DECIMALS.get(currency, 2))


def away(numerator, denominator):
    """Half away from zero."""
    return sign(numerator) * ((2 * abs(numerator) + denominator) // (2 * denominator))


def largest(total, exact, scale):
    """Whole parts that sum to the total, each next to its exact value."""
    parts = [value // scale for value in exact]
    for i in sorted(range(len(exact)), key=lambda i: (-(exact[i] % scale), i))[: max(0, total - sum(parts))]:
        parts[i] += 1
    return parts


def check_credit(said, items, whole):
    """A credit that somebody decided: never more than the line has left, its tax by the share of the line."""
    number, invoice = said["number"], next((d for _, _, d in whole.documents if d["number"] == said["corrects"]), None)
    if items or said["kind"] != "credit_note" or not said["reason"]:
        whole.tell(f"{number}: a credit gives a reason, and no charge is on it")
    if invoice is None:
        whole.tell(f"{number}: the invoice {said['corrects']} that it is about is not in the bundle")
        return
    billed = {line["number"]: line for line in invoice["lines"]}
    for line in said["lines"]:
        n, net, tax = line["number"], -int(line["net_minor"]), -int(line["tax_minor"])
        before = whole.credited.setdefault((invoice["number"], n), [0, 0])
        of, after = billed.get(n, {"net_minor": 0, "tax_minor": 0}), before[0] + net
        share = away(int(of["tax_minor"]) * after, int(of["net_minor"])) - before[1] if int(of["net_minor"]) else 0
        exact = -(net + (tax if said["tax"]["inclusive"] else 0)) * minor(said)
        if net <= 0 or after > int(of["net_minor"]) or tax != share or int(line["amount_micro"]) != exact:
            whole.tell(f"{number}, line {n}: {net} + tax {tax} of {of['net_minor']} + {of['tax_minor']}, given back "
                       f"before {before}")  # fmt: skip
        for name in ("site_id", "user_id", "user", "service_start", "service_end"):
            if line[name] != of.get(name):
                whole.tell(f"{number}, line {n}: its {name} is not that of the invoice's line")
        if (line["kind"], int(line["runs"]), int(line["core_seconds"])) != ("credit", 0, 0):
            whole.tell(f"{number}, line {n}: a credit has no runs of its own")
        before[0], before[1] = after, before[1] + tax
    sums = [sum(int(line[name]) for line in said["lines"]) for name in ("net_minor", "tax_minor")]
    if [int(said[name]) for name in ("net_minor", "tax_minor", "gross_minor", "rounding_micro")] != [
        *sums,
        sum(sums),
        0,
    ]:
        whole.tell(f"{number}: its totals are not the sums of its lines, {sums}")
    for name in ("issuer", "payer", "project_id", "currency", "tax", "period_start", "period_end"):
        if said[name] != invoice[name]:
            whole.tell(f"{number}: its {name} is not that of the invoice")


def check_booked(said, whole):
    """The document's entry in the books moves what the document says."""
    coin, net, tax, gross = minor(said), *(int(said[f"{name}_minor"]) for name in ("net", "tax", "gross"))
    owed = (f"payer:{said['payer']['id']}:receivable", gross * coin)
    taxed = f"tax:{said['issuer']['id']}:{said['tax']['code']}"
    inside, expected = said["tax"]["inclusive"], [owed]
    if said["corrects"]:
        expected += [("operator:credits", -net * coin), ("operator:tax" if inside else taxed, -tax * coin)]
    else:
        exact = sum(int(line["amount_micro"]) for line in said["lines"])
        expected += [(f"project:{said['project_id']}:invoiced", -exact), (taxed, 0 if inside else -tax * coin),
                     ("operator:rounding", -int(said["rounding_micro"]))]  # fmt: skip
    settled = (f"project:{said['project_id']}:invoiced", f"project:{said['project_id']}:paid")
    booked = whole.booked.get(f"{said['kind']}:{said['number']}")
    if booked is None:
        whole.tell(f"{said['number']}: its entry is not in the bundle")
        return
    found = {}
    for account, commodity, micro in booked:
        if not (said["corrects"] and account in settled):  # what a credit settles of the usage: even in itself
            found[account, commodity] = found.get((account, commodity), 0) + int(micro)
    wanted = {}
    for account, micro in expected:
        wanted[account, said["currency"]] = wanted.get((account, said["currency"]), 0) + micro
    if {k: v for k, v in found.items() if v} != {k: v for k, v in wanted.items() if v}:
        whole.tell(f"{said['number']}: booked is {found}, by the document it is {wanted}")


def check_billed_once(whole):
    """Of a run that was read again only the newest reading stays billed."""
    for kind, entry, part in whole.billed:
        if kind != "charge" or entry not in whole.replaced:
            continue
        again = ("charge", whole.replaced[entry][0], part) in whole.billed
        if again and ("reversal", entry, part) not in whole.billed:
            whole.tell(f"{entry} and {whole.replaced[entry][0]}, which took its place, are both billed")
    waiting = [key for key, (_, _, more) in whole.made.items() if more[0] == "centre" and key not in whole.replaced
               and not any((kind, key, part) in whole.billed for kind in ("charge",)
                           for part in ("", whole.about["payer"]))]  # fmt: skip
    if waiting:
        whole.remark(f"charges that none of these documents bills: {len(waiting)}")


# ---------------------------------------------------------------- settlement


def check_settlement(said, signatures, whole, tell, note):
    """A statement: its items are the entries, its sums theirs; shares, fees, tax and exchange; who signed it."""
    agreed = whole.terms["agreements"].get(said["agreement"])
    if agreed is None:
        tell(f"agreement {said['agreement']} is not in the bundle")
        return
    if said["agreement_sha256"] != hashed(agreed):
        tell("the statement names another text of the agreement")
    for name, value in (("centre", agreed["centre_id"]), ("operator", agreed["operator_id"]),
                        ("sites", agreed["site_ids"]), ("zone", agreed["zone"]),
                        ("currency", agreed["currency"]), ("id", whole.about["settlement"]),
                        ("from", whole.about["from"]), ("to", whole.about["to"])):  # fmt: skip
        if said[name] != value:
            tell(f"the statement says {name} {said[name]}, the agreement and the bundle {value}")
    keys = "".join(f"{key}\n" for key in sorted(whole.keys)).encode()
    if hashlib.sha256(keys).hexdigest() != said["items_sha256"]:
        tell("the entries in the bundle are not those that the statement settles")
    for held in said["disputed"]:
        if held["entry"] in whole.keys:
            tell(f"{held['entry']} is in dispute and settled")
    check_sums(said, whole, tell)
    check_legs(said, agreed, tell)
    check_opening(said, whole.options.before, tell, note)
    check_signatures(said, signatures, whole.options, tell, note)


FIELDS = ("entries", "core_seconds", "earned", "borne", "centre_share", "tax", "operator_share")


def check_sums(said, whole, tell):
    totals = [0] * len(FIELDS)
    for name, late in (("grades", False), ("corrections_of_earlier_periods", True)):
        listed = {}
        for line in said[name]:
            if line["grade"] in listed:
                tell(f"{name}: {line['grade']!r} is there twice")
            listed[line["grade"]] = [int(line[field]) for field in FIELDS]
        found = {}
        for (is_late, grade, _), sums in whole.settled.items():
            if is_late == late:
                n, seconds, earned, bearing, centre, tax = sums
                found[grade] = [n, seconds, earned, bearing, centre, tax, earned - centre - tax]
        for grade in sorted(listed.keys() | found.keys()):
            if listed.get(grade) != found.get(grade):
                tell(
                    f"{name} {grade!r}: the statement says {listed.get(grade)}, the entries come to {found.get(grade)}"
                )
        for values in found.values():
            totals = [a + b for a, b in zip(totals, values)]  # noqa: B905 - Python 3.8
    if [int(said[field]) for field in FIELDS] != totals or said["grade"] != "all":
        tell(f"the statement's sums are not those of the entries: {totals}")
    if int(said["credits"]) != whole.credits:
        tell(f"the statement says credits of {said['credits']}, the entries come to {whole.credits}")
    if {currency for _, _, currency in whole.settled} - {said["currency"]}:
        tell("there are entries in another currency than the statement's")


def cut(amount, numerator, denominator):
    return sign(amount) * (abs(amount) * numerator // denominator)


def check_legs(said, agreed, tell):
    """From what was earned to what is paid, computed again from the agreement."""
    payout, whole = agreed["payout"], int(agreed["shares"]["denominator"])
    base, centre = int(said["earned"]) - int(said["tax"]), int(said["centre_share"])
    share = centre
    if payout["tiers"]:
        share, bounds = 0, [int(t["from_micro"]) for t in payout["tiers"]] + [None]
        for tier, bound in zip(payout["tiers"], bounds[1:]):  # noqa: B905 - Python 3.8
            part = (base if bound is None else min(base, bound)) - int(tier["from_micro"])
            if part > 0 or (part < 0 and int(tier["from_micro"]) == 0):
                share += cut(part, int(tier["numerator"]), whole)
    fees = {}
    for fee in agreed["fees"]:
        fees[fee["party_id"]] = fees.get(fee["party_id"], 0) + cut(base, int(fee["numerator"]), 10**6)
    rest = share - sum(fees.values())
    withheld = cut(rest, int(payout["withheld_numerator"]), int(payout["withheld_denominator"]))
    net, adjustment = rest - withheld, share - centre
    keeps = int(said["operator_share"]) - adjustment
    currency = payout["currency"] or agreed["currency"]
    lines = [
        [f"centre:{said['centre']}:payable", said["currency"], centre],
        ["operator:revenue", said["currency"], adjustment],
    ]
    lines += [[f"party:{party}:fees", said["currency"], -amount] for party, amount in fees.items()]
    lines.append(["operator:withheld", said["currency"], -withheld])
    coin, due = coin_of(currency), net + int(said["carried_before"])
    pay = worth = sign(due) * (abs(due) // coin * coin)
    if said["rate"] is not None:
        rate_said = said["rate"]
        num, den = int(rate_said["num"]), int(rate_said["den"])
        pay = sign(due) * (abs(due) * num // (den * coin) * coin)
        worth = away(pay * den, num)
        other = (rate_said["base"], rate_said["quote"]) != (said["currency"], currency)
        if other or rate_said["day"] > last_day(said["to"], said["zone"]):
            tell("the exchange rate is of other currencies, or of a day after the period")
        lines += [["operator:fx-clearing", said["currency"], -worth], ["operator:fx-clearing", currency, pay]]
    elif currency != said["currency"]:
        tell("an exchange without a rate")
    carried = due - worth
    lines.append([f"centre:{said['centre']}:carried", said["currency"], int(said["carried_before"]) - carried])
    lines.append([f"centre:{said['centre']}:settled", currency, -pay])
    expected = {
        "tier_adjustment": adjustment, "operator_keeps": keeps, "net": net, "pay": pay,
        "pay_worth": worth, "carried": carried,
        "closing": int(said["opening"]) - int(said["paid"]) + pay,
    }  # fmt: skip
    for name, value in expected.items():
        if int(said[name]) != value:
            tell(f"{name} is {value} by the agreement, the statement says {said[name]}")
    if {fee["party"]: int(fee["amount"]) for fee in said["fees"]} != fees:
        tell(f"the fees are {fees} by the agreement")
    if (
        said["withheld"] != {"name": payout["withheld_name"], "amount": str(withheld)}
        or said["pay_currency"] != currency
    ):
        tell(f"withheld is {withheld} by the agreement, paid in {currency}")
    # Where nothing is paid the entry still has one line, of 0.
    moved = [line for line in lines if line[2]] or lines[:1]
    if sorted(map(tuple, said["movements"])) != sorted((a, c, str(v)) for a, c, v in moved):
        tell("the accounts that it moves are not those of its totals")
    if sum(fees.values()) + withheld + net + keeps + int(said["tax"]) != int(said["earned"]):
        tell("the parts do not make up what was earned")


def check_opening(said, before, tell, note):
    """What was owed before is what the statement before closed with; that is not in the bundle."""
    if before is None:
        if int(said["carried_before"]):
            note("less than a coin is taken up from the statement before: compare that with it (--before FILE)")
        if int(said["opening"]):
            owed, paid = money(int(said["opening"])), money(int(said["paid"]))
            note(
                f"{owed} {said['pay_currency']} were owed before, {paid} paid since: compare that with the statement "
                "before (--before FILE) and with your bank"
            )
        return
    for name in ("t", "centre", "operator", "currency"):
        if before[name] != said[name]:
            tell(f"the statement before is of {name} {before[name]}, this one of {said[name]}")
    if said["pay_currency"] != before["pay_currency"]:
        note(f"what is still owed in {before['pay_currency']} is not on this statement: it is paid in another currency")
    elif said["opening"] != before["closing"]:
        tell(f"it opens with {said['opening']}, the statement before closed with {before['closing']}")
    if said["carried_before"] != before["carried"]:
        tell(f"it takes up {said['carried_before']}, the statement before left {before['carried']} to it")


def last_day(end, name):
    """The day of a zone that a period which is over at `end` ends with."""
    return (datetime.fromisoformat(utc(end)) - timedelta(microseconds=1)).astimezone(zone(name)).date().isoformat()


def check_signatures(said, signatures, options, tell, note):
    sides = {}
    for one in signatures:
        head, body, signature = one["jws"].split(".")
        key = options.signers.get(one["side"]) or b64(one["key"])
        if one["side"] not in options.signers:
            note(f"the key of the {one['side']} was taken from the bundle: name it by --signer {one['side']}=KEY")
        elif b64(one["key"]) != key:
            tell(f"the bundle names another key of the {one['side']} than yours")
        header = json.loads(url64(head))
        if header["alg"] != "Ed25519" or header["typ"] != "penstock-settlement+jws":
            tell(f"the signature of the {one['side']} is of another kind")
        if url64(body) != jcs(said):
            tell(f"the {one['side']} signed another statement")
        if not ed25519(key, f"{head}.{body}".encode(), url64(signature)):
            tell(f"the signature of the {one['side']} is false")
        if one["side"] in sides or one["side"] not in ("operator", "centre"):
            tell(f"a signature of {one['side']!r} too many")
        sides[one["side"]] = key
    for side in ("operator", "centre"):
        if side not in sides:
            note(f"the {side} has not signed the statement yet")
    if len(set(sides.values())) < len(sides):
        tell("both sides signed with the same key")


def url64(text):
    return base64.b64decode(text.replace("-", "+").replace("_", "/") + "=" * (-len(text) % 4), validate=True)


# ---------------------------------------------------------------- command line


class Options:
    def __init__(self, log=None, witnesses=(), seen=None, processes=None, signers=(), documents=(), before=None):
        self.log_text, self.log = log, vkey(log) if log else None
        self.witnesses = [vkey(w) for w in witnesses]
        self.seen = seen
        self.signers = dict(map(signer, signers))
        self.documents = {hashlib.sha256(data).hexdigest(): data for data in documents}
        self.before = None if before is None else json.loads(before)
        self.processes = processes or min(8, os.cpu_count() or 1)


def signer(text):
    """(side or party, its public key) of `op=KEY`."""
    side, equals, key = text.partition("=")
    try:
        public = b64(key)
    except ValueError:
        public = b""
    if not (side and equals) or len(public) != 32:
        raise ValueError(f"--signer {text}: write NAME=KEY, KEY being 32 bytes in base64, as `keygen` prints it")
    return side, public


def opened(path):
    if path == "-":
        return sys.stdin
    with open(path, "rb") as file:
        zipped = file.read(2) == b"\x1f\x8b"
    return gzip.open(path, "rt", encoding="utf-8") if zipped else open(path, encoding="utf-8")


def main(arguments=None):
    parser = argparse.ArgumentParser(description="Check a bill of Penstock without trusting Penstock.")
    parser.add_argument("bundle", help="a file of JSON lines, plain or .gz; - reads standard input")
    parser.add_argument("--log-key", help="the log's key, name+id+key, as you know it")
    parser.add_argument(
        "--witness", action="append", default=[], help="a witness's key, name+id+key: it must have cosigned"
    )
    parser.add_argument("--seen", help="a file with a checkpoint that you have kept")
    parser.add_argument(
        "--signer",
        action="append",
        default=[],
        help="side or party=KEY: the operator's or a centre's public key, base64",
    )
    parser.add_argument(
        "--statement", action="append", default=[], help="a centre's statement that you have: its signature is checked"
    )
    parser.add_argument(
        "--before", help="the settlement before this one, as you signed it: what was owed is what that closed with"
    )
    parser.add_argument("--runs", action="store_true", help="say of each run what it stands on")
    parser.add_argument("--processes", type=int, help="how many work at once; default: one a core, at most 8")
    given = parser.parse_args(arguments)
    gc.disable()  # nothing here refers to itself
    try:
        seen = open(given.seen, encoding="utf-8").read() if given.seen else None  # noqa: SIM115
        documents = [open(path, "rb").read() for path in given.statement]  # noqa: SIM115
        before = open(given.before, "rb").read() if given.before else None  # noqa: SIM115
        options = Options(given.log_key, given.witness, seen, given.processes, given.signer, documents, before)
        with opened(given.bundle) as lines:
            whole = checked(iter(lines), options)
    except (OSError, ValueError, KeyError, TypeError, IndexError, AttributeError, StopIteration) as exc:
        what = str(exc) if type(exc) is ValueError else f"{type(exc).__name__}: {exc}"
        print(f"cannot be checked: {what}", file=sys.stderr)
        return 2
    findings, unread = whole.findings, whole.not_metered()
    print("\n".join([*whole.summary(), *(whole.runs() if given.runs else ())]))
    for text, count in sorted(whole.notes.items()):
        print(f"note ({count}): {text}")
    for text in findings[:SHOWN]:
        print(f"WRONG: {text}")
    if len(findings) > SHOWN:
        print(f"WRONG: … and {len(findings) - SHOWN} more")
    open_points = []
    if unread:
        open_points.append(f"{len(unread)} CHARGES WERE NOT METERED AGAIN from a raw record")
    if whole.bare:
        open_points.append(f"{len(whole.bare)} ENTRIES STAND UNDER NO CHARGE")
    if open_points and not findings:
        print(f"what could be checked fits; {', '.join(open_points)}")
        return 3
    print("DOES NOT FIT" if findings else "everything fits")
    return 1 if findings else 0


if __name__ == "__main__":
    sys.exit(main())
