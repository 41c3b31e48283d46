#!/usr/bin/env python3
"""Check a bill of Penstock without trusting Penstock: one file, Python's standard library only, nothing of the server.

    penstock_verify.py BUNDLE --log-key VKEY [--witness VKEY …] [--seen NOTE] [--signer operator=KEY …]

The bundle is lines of JSON (plain or .gz). What is checked, from the raw record upwards:
  raw record -> usage    the scheduler's own fields are read again, cores x seconds are computed again
  usage -> charge        each segment is priced again, in integers; segments cover the run and sum to the charge
  charge -> entry        the postings of its entry balance, and are what the charge (less what it replaces) says
  entry -> log           the entry is a leaf of the log (RFC 6962): the root is computed from the leaves
  log -> signatures      the operator signed that root, witnesses cosigned it (C2SP), older trees are its beginning
  charges -> bill        the lines and totals of the bill are the sums of the charges, no run twice, none left out
  bill -> settlement     shares, fees, tax and exchange are computed again, both sides' signatures are checked

Exit code 0: everything fits. 1: something does not; each finding is one line. 2: the bundle cannot be read.
Keys are yours to know: take them from a contract or a person, not from the bundle.
"""

import argparse
import base64
import gzip
import hashlib
import hmac
import json
import multiprocessing
import os
import re
import sys
import threading
from datetime import datetime, timezone
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
    return base64.b64decode(text, validate=True)


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
    name, key_id, body = text.split("+", 2)
    raw = b64(body)
    if len(raw) != 33 or raw[0] not in (1, 4):
        raise ValueError(f"{text!r} is no Ed25519 key of a log or a witness")
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


def mebibytes(text):
    if not text:
        return 0
    match = re.fullmatch(r"(\d+)(?:\.(\d+))?([KMGT]?)[nc]?", text)
    if match is None:
        raise ValueError(f"{text!r} is no amount of memory")
    scale = {"K": 1, "M": 1024, "": 1024, "G": 1024**2, "T": 1024**3}[match[3]]
    return int(match[1] + (match[2] or "")) * scale // (1024 * 10 ** len(match[2] or ""))


def from_sacct(f):
    """What Slurm's own row says was used: allocated CPUs x elapsed seconds; memory and GPUs also while suspended."""
    submit, start, end = clock(f["Submit"]), clock(f["Start"]), clock(f["End"])
    elapsed, cpus, nodes = int(f["ElapsedRaw"] or 0), int(f["AllocCPUS"] or 0), int(f.get("AllocNodes") or 0)
    if None not in (submit, start, end) and submit > start:  # the second row of a resized job
        elapsed, start = min(elapsed, max(0, end - submit)), submit
    ran = start is not None and elapsed > 0 and cpus > 0
    held = elapsed + span(f.get("Suspended", ""))
    alloc = f.get("AllocTRES", "")
    return {
        "ran": ran, "cpus": cpus, "nodes": nodes, "elapsed_s": elapsed if ran else 0,
        "core_seconds": cpus * elapsed if ran else 0, "node_seconds": nodes * elapsed if ran else 0,
        "gpu_seconds": int(tres(alloc, "gres/gpu") or 0) * held if ran else 0,
        "memory_mib_seconds": mebibytes(tres(alloc, "mem")) * held if ran else 0,
        "suspended_s": span(f.get("Suspended", "")), "start": start if ran else None, "end": end,
        "state": f["State"].split()[0], "queue": f.get("Partition", ""),
        "maybe_fenced": f.get("ExitCode") == "75:0",
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


def reader_of(fields):
    """Which scheduler wrote a record, by the names of its fields."""
    if "ElapsedRaw" in fields and "AllocCPUS" in fields:
        return from_sacct
    if "run_key" in fields and "exit_code" in fields:
        return from_local
    return None


_QUANTITIES = ("core_seconds", "node_seconds", "gpu_seconds", "memory_mib_seconds", "elapsed_s", "suspended_s")


def check_record(record, tell, note):
    """Read the raw fields again; what Penstock says of the run must follow from them."""
    read, fields = record["read"], record["fields"]
    if record["meter"] != "centre":
        note("readings of the gateway's own meter (provisional: there is no centre's record to read)")
        return
    if record["one_sided"]:
        note("records that the centre did not sign (one-sided)")
    reader = reader_of(fields)
    if reader is None:
        note("records of a scheduler that this verifier cannot read again")
        return
    found = reader(fields)
    cores, threads = int(read["cores"]), int(read["threads_per_core"])
    if threads > 1:
        note("records whose CPUs are threads: their cores were computed from the CPUs")
        found["cpus"] = whole_cores(found["cpus"], found["nodes"], threads)
        found["core_seconds"] = cores * found["elapsed_s"]
    for name in _QUANTITIES:
        if str(found[name]) != read[name]:
            tell(f"the raw record gives {name} {found[name]}, the usage says {read[name]}")
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


def check_charge(charge, record, terms, tell, note):
    """Segments cover the run, are priced by their rule, and sum to the charge; its parts are what was agreed."""
    read = record["read"]
    core_seconds = int(charge["core_seconds"])
    gross, amount, bearing, centre, tax = (int(charge[name]) for name in SUMS)
    if charge["record"] != hashed(record) or charge["meter"] != record["meter"]:
        tell("the charge names another raw record")
    if read["kind"] != "run" and (core_seconds or gross):
        tell(f"a {read['kind']} is charged")
    check_core_seconds(charge["rule"], core_seconds, read, tell, note)
    total, metered, edges = 0, None, {}
    for s in charge["segments"]:
        total += int(s["amount_micro"])
        if s["resource"] == "core_seconds":
            metered = (metered or 0) + int(s["quantity"])
        check_segment(s, charge, record, terms["rules"], tell, note)
        if s["resource"] != "minimum" and not s.get("tier_key"):
            start, end = edges.setdefault(s["resource"], [s["start"], s["start"]])
            if end != s["start"] or s["end"] <= s["start"]:
                tell(f"the segments of {s['resource']} do not follow each other: {end}, {s['start']} to {s['end']}")
            edges[s["resource"]][1] = s["end"]
    for resource, (start, end) in edges.items():
        if (start, end) != (read["start"], read["end"]):
            tell(f"the segments of {resource} cover {start} to {end}, the run {read['start']} to {read['end']}")
    if total != gross:
        tell(f"the segments sum to {total}, the charge says {gross}")
    if metered is not None and metered != core_seconds:
        tell(f"the segments have {metered} core-seconds, the charge {core_seconds}")
    if (amount, bearing) != (gross, 0):
        if not charge["reason"]:
            tell(f"the price is {gross}, {amount} is owed and {bearing} borne by the operator, and no reason is given")
        note("charges of which the operator or the centre bears a part")
    if charge["payers"] is not None and sum(map(int, charge["payers"].values())) != amount:
        tell("the payers' parts do not sum to what is owed")
    check_shares(charge, amount + bearing, centre, tax, terms["agreements"], tell, note)


def check_core_seconds(rule, core_seconds, read, tell, note):
    billed = re.match(r"(\d+) (.+?) × (\d+) s", rule)
    if core_seconds and not billed:
        tell(f"core-seconds without a rule that gives them: {rule!r}")
    elif core_seconds and billed[2] == "allocated cores":
        more = int(read["cores"]) * (int(billed[3]) - int(read["elapsed_s"]))  # suspended time, where it is billed
        if core_seconds != int(read["core_seconds"]) + more or billed[1] != read["cores"]:
            tell(f"{core_seconds} core-seconds are charged of {read['core_seconds']} ({rule})")
    elif core_seconds:
        note("charges for other cores than the allocated ones, by the agreement")
        if int(billed[1]) * int(billed[3]) != core_seconds:
            tell(f"{billed[0]} are not {core_seconds} core-seconds")


def check_segment(s, charge, record, rules, tell, note):
    quantity, price, per, part = (int(s[name]) for name in ("quantity", "price_micro", "per", "amount_micro"))
    up, down = int(s.get("numerator") or 1), int(s.get("denominator") or 1)
    if s.get("tier_key"):
        note("segments at tiered prices: the month's total has the price, a segment is by how much it rose")
    elif s["resource"] != "minimum" and part != rate(quantity, price * up, per * down):
        tell(f"{quantity} at {price} for {per} are {rate(quantity, price * up, per * down)}, not {part}")
    if (up, down) != (1, 1):
        note("segments with a contract's discount")
    rule = rules.get(s["rule"])
    if rule is None:
        note("segments whose price rule is not in the bundle: the price itself was not compared")
        return
    said = (rule["price_micro"], rule["per"], rule["resource"], rule["currency"])
    if not s.get("tier_key") and said != (s["price_micro"], s["per"], s["resource"], charge["currency"]):
        tell(f"rule {s['rule']} has {said}, the segment {price} for {per} {s['resource']}")
    read = record["read"]
    for name, value in (("site_id", record["site"]), ("queue", read["queue"]), ("qos", read["qos"]),
                        ("grade", charge["grade"]), ("user_class", charge["user_class"])):  # fmt: skip
        if rule[name] not in (None, value):
            tell(f"rule {s['rule']} is for {name} {rule[name]}, the run was {value!r}")
    if clock(s["start"]) < clock(rule["valid_from"]):
        tell(f"rule {s['rule']} holds from {rule['valid_from']}, the segment begins {s['start']}")


def check_shares(charge, earned, centre, tax, agreements, tell, note):
    """What the centre gets of what was earned: tax first, then the agreed ratio, cut towards zero."""
    if charge["agreement"] is None:
        if centre or tax:
            tell("a share of a centre without an agreement")
        return
    agreed = agreements.get(charge["agreement"])
    if agreed is None:
        note("charges whose agreement is not in the bundle: the centre's share was not computed")
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


def check_entry(line, terms, about, tell, note):
    """One entry with its charges. Returns what the whole is summed from."""
    leaf, charged = line["leaf"], line["charges"]
    if leaf["charges"] != [hashed(c["charge"]) for c in charged]:
        tell("the charges are not those that the leaf commits to")
    sums, posted = {}, {}
    for account, commodity, text in leaf["postings"]:
        value = int(text)
        sums[commodity] = sums.get(commodity, 0) + value
        kind = account.split(":")[0]
        kind = ACCOUNTS.get(account if kind == "operator" else kind)
        if kind:
            posted[commodity, kind] = posted.get((commodity, kind), 0) + value
        if account.startswith("project:") and about.get("project") and account.split(":")[1] != about["project"]:
            tell(f"the entry is about {account}, the bill about project {about['project']}")
    if any(sums.values()):
        tell(f"the postings do not balance: {sums}")
    made, parts, expected = [], [], {}
    for c in charged:
        charge, record = c["charge"], c["record"]
        check_record(record, tell, note)
        check_charge(charge, record, terms, tell, note)
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
        for name, value in said.items():
            expected[charge["currency"], name] = expected.get((charge["currency"], name), 0) + value
        expected["core-seconds", "amount"] = expected.get(("core-seconds", "amount"), 0) + seconds
        key = (record["site"], record["read"]["queue"], charge["grade"], charge["currency"])
        made.append((leaf["key"], values, key, (record["run"], record["meter"], record["revision"])))
    off = {}
    if charged or leaf["kind"] == "overage":
        for name, value in posted.items():
            expected[name] = expected.get(name, 0) - value
        off = {k: v for k, v in expected.items() if v and (k[0] == "core-seconds" or len(k[0]) == 3)}
    return made, parts, (leaf["link"] or leaf["key"], off)


def movement(leaf, charged, about):
    """What an entry moved, by the accounts of its postings: (key, link, late, grade, currency, sums)."""
    owed, bearing, centre, tax, seconds, currencies = 0, 0, 0, 0, 0, set()
    for account, commodity, text in leaf["postings"]:
        if len(commodity) != 3:
            if commodity == "core-seconds" and account.startswith("project:"):
                seconds += int(text)
            continue
        currencies.add(commodity)
        if account.startswith("project:") or account == "operator:credits":
            owed += int(text)
        elif account == "operator:borne":
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


@lru_cache(maxsize=8)
def period(begin, finish):
    return clock(begin), clock(finish)


def check_about(record, about, tell):
    if about.get("settlement"):
        return  # what is settled in a period may have run earlier
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
    findings, notes, leaves, made, replaced, offs, moved = [], {}, [], [], [], [], []

    def note(text):
        notes[text] = notes.get(text, 0) + 1

    for text in lines:
        where = "a line"
        try:
            line = json.loads(text)
            where = f"leaf {line['seq']} ({line['leaf']['key']})"
            said = []
            leaves.append((line["seq"], leaf_hash(line["leaf"])))
            more, parts, off = check_entry(line, terms, about, said.append, note)
            findings += [f"{where}: {what}" for what in said]
            made += more
            replaced += [(line["leaf"]["key"], *part) for part in parts]
            if off[1]:
                offs.append(off)
            if about.get("settlement"):
                moved.append(movement(line["leaf"], line["charges"], about))
        except (KeyError, TypeError, ValueError, AttributeError, IndexError, OverflowError) as exc:
            findings.append(f"{where}: cannot be read ({type(exc).__name__}: {exc})")
    return findings, notes, leaves, made, replaced, offs, moved


def main_of(lines, options):
    """Check a bundle that is given as an iterator of lines; (findings, notes, a summary)."""
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
    return state.finish()


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
        self.terms = {"rules": {}, "agreements": {}}
        self.gaps, self.bill, self.settlements, self.off = [], None, [], {}
        self.made, self.replaced, self.readings = {}, {}, set()
        self.sums, self.older = {}, []
        self.settled, self.keys, self.credits, self.over = {}, set(), 0, []
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
        elif leaf["t"] == "agreement":
            self.terms["agreements"][leaf["ref"]] = content
        elif leaf["t"] == "settlement":
            self.settlements.append((content, line["signatures"]))
            for one in line["signatures"]:
                if leaf[one["side"] + "_jws_sha256"] != hashlib.sha256(one["jws"].encode()).hexdigest():
                    self.tell(f"the log has another signature of the {one['side']}")
            if len(line["signatures"]) != 2:
                self.tell("an agreed statement has two signatures")

    def take(self, result):
        findings, notes, leaves, made, replaced, offs, moved = result
        self.findings += findings
        self.leaves += leaves
        for text, count in notes.items():
            self.notes[text] = self.notes.get(text, 0) + count
        for key, values, of, (run, meter, revision) in made:
            if key in self.made:
                self.tell(f"{key} is there twice")
            self.made[key] = (tuple(values), of)
            reading = f"{of[0]}\n{run}\n{meter}\n{revision}"
            if reading in self.readings:
                self.tell(f"{key}: this reading of run {run} at {of[0]} is charged twice")
            self.readings.add(reading)
        for key, before, values in replaced:
            if before in self.replaced:
                self.tell(f"{key}: {before} was replaced already by {self.replaced[before][0]}")
            self.replaced[before] = (key, tuple(values))
        for key, off in offs:
            at = self.off.setdefault(key, {})
            for name, value in off.items():
                at[name] = at.get(name, 0) + value

        for key, link, late, grade, currency, values in moved:
            self.keys.add(key)
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
        self.check_log()
        self.check_bill()
        if self.about.get("settlement") and len(self.settlements) != 1:
            self.tell("there is no statement in the bundle, or more than one")
        for content, signatures in self.settlements:
            check_settlement(content, signatures, self, self.tell, self.remark)
        return self.findings, self.notes, self.summary()

    def check_replaced(self):
        for before, (key, values) in self.replaced.items():
            known = self.made.get(before)
            if known is None:
                self.remark("corrections of charges that are not in this bundle")
            elif known[0] != values:
                self.tell(f"{key} takes back {values} of {before}, which had charged {known[0]}")
        for (
            key,
            off,
        ) in self.off.items():  # what went beyond a hold is posted by an entry of its own, linked to the first
            if any(off.values()):
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
        for key, (values, of) in self.made.items():
            if key not in self.replaced:
                at = self.sums.setdefault(of, [0] * (len(SUMS) + 2))
                for i, value in enumerate(values):
                    at[i] += value
                at[-1] += 1
        if self.about.get("settlement"):
            return  # the statement is the bill: it sums what entries moved, not what charges stand at
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
        return lines


def money(micro):
    sign = "-" if micro < 0 else ""
    return f"{sign}{abs(micro) // 10**6}.{abs(micro) % 10**6:06d}"


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
    pay, currency = net, payout["currency"] or agreed["currency"]
    lines = [
        [f"centre:{said['centre']}:payable", said["currency"], centre],
        ["operator:revenue", said["currency"], adjustment],
    ]
    lines += [[f"party:{party}:fees", said["currency"], -amount] for party, amount in fees.items()]
    lines.append(["operator:withheld", said["currency"], -withheld])
    if said["rate"] is not None:
        rate_said = said["rate"]
        pay = sign(net) * (
            (2 * abs(net) * int(rate_said["num"]) + int(rate_said["den"])) // (2 * int(rate_said["den"]))
        )
        if (rate_said["base"], rate_said["quote"]) != (said["currency"], currency) or rate_said["day"] > said["to"][
            :10
        ]:
            tell("the exchange rate is of other currencies, or of a day after the period")
        lines += [["operator:fx-clearing", said["currency"], -net], ["operator:fx-clearing", currency, pay]]
    elif currency != said["currency"]:
        tell("an exchange without a rate")
    lines.append([f"centre:{said['centre']}:settled", currency, -pay])
    expected = {
        "tier_adjustment": adjustment, "operator_keeps": keeps, "net": net, "pay": pay,
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
    if sorted(map(tuple, said["movements"])) != sorted((a, c, str(v)) for a, c, v in lines if v):
        tell("the accounts that it moves are not those of its totals")
    if sum(fees.values()) + withheld + net + keeps + int(said["tax"]) != int(said["earned"]):
        tell("the parts do not make up what was earned")


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
    def __init__(self, log=None, witnesses=(), seen=None, processes=None, signers=()):
        self.log_text, self.log = log, vkey(log) if log else None
        self.witnesses = [vkey(w) for w in witnesses]
        self.seen = seen
        self.signers = {side: b64(key) for side, _, key in (text.partition("=") for text in signers)}
        self.processes = processes or min(8, os.cpu_count() or 1)


def opened(path):
    if path == "-":
        return sys.stdin
    with open(path, "rb") as file:
        zipped = file.read(2) == b"\x1f\x8b"
    return gzip.open(path, "rt", encoding="utf-8") if zipped else open(path, encoding="utf-8")


def main(arguments=None):
    parser = argparse.ArgumentParser(description="Check a bill of Penstock without trusting Penstock.")
    parser.add_argument("bundle", help="a file of JSON lines, plain or .gz; - reads standard input")
    parser.add_argument("--log-key", help="the log's verifier key, as you know it")
    parser.add_argument("--witness", action="append", default=[], help="a witness that must have cosigned")
    parser.add_argument("--seen", help="a file with a checkpoint that you have kept")
    parser.add_argument(
        "--signer", action="append", default=[], help="side=KEY: the operator's or centre's key, base64"
    )
    parser.add_argument("--processes", type=int)
    given = parser.parse_args(arguments)
    try:
        seen = open(given.seen, encoding="utf-8").read() if given.seen else None  # noqa: SIM115
        options = Options(given.log_key, given.witness, seen, given.processes, given.signer)
        with opened(given.bundle) as lines:
            findings, notes, summary = main_of(iter(lines), options)
    except (OSError, ValueError, KeyError, TypeError, StopIteration) as exc:
        print(f"cannot be checked: {type(exc).__name__}: {exc}", file=sys.stderr)
        return 2
    print("\n".join(summary))
    for text, count in sorted(notes.items()):
        print(f"note ({count}): {text}")
    for text in findings[:SHOWN]:
        print(f"WRONG: {text}")
    if len(findings) > SHOWN:
        print(f"WRONG: … and {len(findings) - SHOWN} more")
    print("DOES NOT FIT" if findings else "everything fits")
    return 1 if findings else 0


if __name__ == "__main__":
    sys.exit(main())
