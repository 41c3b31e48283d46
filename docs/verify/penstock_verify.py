#!/usr/bin/env python3
"""Check a bill of Penstock without trusting Penstock: one file, Python's standard library only, nothing of the server.

    penstock_verify.py BUNDLE --log-key VKEY [--witness VKEY …] [--seen NOTE]

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
from datetime import datetime, timezone
from itertools import islice

CHUNK = 1500
SHOWN = 20

# ---------------------------------------------------------------- bytes


_encode = json.JSONEncoder(sort_keys=True, ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode


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
    cores = int(read["cores"])
    threads = -(-found["cpus"] // cores) if cores else 1  # a core may be several of the scheduler's CPUs
    if threads > 1:
        note("records of CPUs that are threads: cores by the agreement")
        found["core_seconds"] = cores * found["elapsed_s"]
    for name in _QUANTITIES:
        if str(found[name]) != read[name]:
            tell(f"the raw record gives {name} {found[name]}, the usage says {read[name]}")
    if not threads > 1 and cores != found["cpus"]:
        tell(f"the raw record has {found['cpus']} CPUs, the usage says {cores} cores")
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


def check_personal(record, shown, tell):
    """Names that are shown must be those that the log committed to."""
    mac = hmac.new(bytes.fromhex(shown["salt"]), jcs(shown["fields"]), hashlib.sha256).hexdigest()
    if mac != record["personal"]:
        tell("the personal fields shown are not those that the log committed to")


# ---------------------------------------------------------------- usage -> charge


def rate(quantity, price, per):
    """Price for `per` units, half up, in whole micro-units."""
    return (2 * quantity * price + per) // (2 * per)


def check_charge(charge, record, rules, tell, note):
    """Segments cover the run, are priced by their rule, and sum to the charge."""
    read = record["read"]
    core_seconds, amount = int(charge["core_seconds"]), int(charge["amount"])
    if charge["record"] != hashed(record):
        tell("the charge names another raw record")
    if read["kind"] != "run" and (core_seconds or amount):
        tell(f"a {read['kind']} is charged")
    billed = re.match(r"(\d+) (.+?) × (\d+) s", charge["rule"])
    if billed and core_seconds:
        if int(billed[1]) * int(billed[3]) != core_seconds:
            tell(f"{billed[0]} are not {core_seconds} core-seconds")
        if billed[2] == "allocated cores" and core_seconds != int(read["core_seconds"]):
            tell(f"{core_seconds} core-seconds are charged of {read['core_seconds']}")
        elif billed[2] != "allocated cores":
            note("charges for other cores than the allocated ones, by the agreement")
    elif core_seconds:
        tell(f"core-seconds without a rule that gives them: {charge['rule']!r}")
    total, metered, edges = 0, 0, {}
    for s in charge["segments"]:
        resource = s.get("resource", "core_seconds")
        quantity = int(s["quantity"] if "quantity" in s else s["core_seconds"])
        price = int(s["price_micro"] if "price_micro" in s else s["micro_per_core_hour"])
        up, down = int(s.get("numerator") or 1), int(s.get("denominator") or 1)
        part, per = int(s["amount_micro"]), int(s.get("per") or 3600)
        total += part
        if resource == "core_seconds":
            metered += quantity
        if s.get("tier_key"):
            note("segments at tiered prices: their sum over the month is the price, not each of them")
        elif resource != "minimum" and part != rate(quantity, price * up, per * down):
            tell(f"{quantity} at {price} for {per} are {rate(quantity, price * up, per * down)}, not {part}")
        if resource != "minimum":
            start, end = edges.setdefault(resource, [s["start"], s["start"]])
            if end != s["start"] or s["end"] <= s["start"]:
                tell(f"the segments of {resource} do not follow each other: {end}, {s['start']} to {s['end']}")
            edges[resource][1] = s["end"]
        check_rule(s, price, per, rules, tell, note)
    for resource, (start, end) in edges.items():
        if (start, end) != (read["start"], read["end"]):
            tell(f"the segments of {resource} cover {start} to {end}, the run {read['start']} to {read['end']}")
    if total != amount:
        tell(f"the segments sum to {total}, the charge says {amount}")
    if charge["segments"] and metered != core_seconds:
        tell(f"the segments have {metered} core-seconds, the charge {core_seconds}")
    if not charge["segments"] and (amount or core_seconds):
        tell("a charge without segments")


def check_rule(segment, price, per, rules, tell, note):
    rule = rules.get(str(segment.get("rule") or segment.get("rule_id")))
    if rule is None:
        note("segments whose tariff is not in the bundle: the price itself was not compared")
    elif int(rule["price_micro"]) != price or int(rule.get("per") or 3600) != per:
        tell(f"the tariff has {rule['price_micro']}, the segment {price}")
    elif segment["start"] < rule["valid_from"] or (rule["valid_to"] and segment["end"] > rule["valid_to"]):
        tell("the tariff does not hold in that time")


# ---------------------------------------------------------------- charge -> entry

_ZERO = {}


def check_entry(line, rules, about, tell, note):
    """One entry with its charges. Returns what the whole is summed from."""
    leaf, charged = line["leaf"], line["charges"]
    if leaf["charges"] != [hashed(c["charge"]) for c in charged]:
        tell("the charges are not those that the leaf commits to")
    sums, owed = {}, {}
    for account, commodity, text in leaf["postings"]:
        value = int(text)
        sums[commodity] = sums.get(commodity, 0) + value
        if account.startswith("project:"):
            owed[commodity] = owed.get(commodity, 0) + value
            if about.get("project") and account.split(":")[1] != about["project"]:
                tell(f"the entry is about {account}, the bill about project {about['project']}")
    if any(sums.values()):
        tell(f"the postings do not balance: {sums}")
    made, expected, parts = [], {}, []
    for c in charged:
        charge, record = c["charge"], c["record"]
        check_record(record, tell, note)
        check_charge(charge, record, rules, tell, note)
        if c.get("shown"):
            check_personal(record, c["shown"], tell)
        check_about(record, about, tell)
        before = [(r["entry"], int(r["amount"]), int(r["core_seconds"])) for r in charge["replaces"]]
        amount, seconds = int(charge["amount"]), int(charge["core_seconds"])
        currency = charge["currency"]
        expected[currency] = expected.get(currency, 0) + amount - sum(b[1] for b in before)
        expected["core-seconds"] = expected.get("core-seconds", 0) + seconds - sum(b[2] for b in before)
        made.append((leaf["key"], amount, seconds, record["site"], record["read"]["queue"], currency, record["run"],
                     record["meter"], record["revision"]))  # fmt: skip
        parts += before
    for commodity, value in expected.items():
        if owed.get(commodity, 0) != value and not (commodity != "core-seconds" and borne(leaf, commodity, value)):
            tell(f"{value} {commodity} are charged, {owed.get(commodity, 0)} are posted")
    return made, parts


def borne(leaf, commodity, value):
    """What the payer was let off is posted to the operator, or not earned by the centre: by the agreement's weights."""
    lines = [int(a) for account, c, a in leaf["postings"] if c == commodity and account == "operator:borne"]
    return bool(lines) and value == sum(lines) + sum(
        int(a) for account, c, a in leaf["postings"] if c == commodity and account.startswith("project:")
    )


def check_about(record, about, tell):
    if about.get("site") and record["site"] != about["site"]:
        tell(f"the run was at {record['site']}, the bill is about {about['site']}")
    end = record["read"]["end"]
    if about.get("from") and not clock(about["from"]) <= clock(end) < clock(about["to"]):
        tell(f"the run ended {end}, outside the period of the bill")


# ---------------------------------------------------------------- the bundle, in parallel


def check_chunk(task):
    """Lines of entries. Returns findings, notes, leaf hashes by number, charges made and replaced."""
    lines, rules, about = task
    findings, notes, leaves, made, replaced = [], {}, [], [], []

    def note(text):
        notes[text] = notes.get(text, 0) + 1

    for text in lines:
        where = "a line"
        try:
            line = json.loads(text)
            where = f"leaf {line['seq']} ({line['leaf']['key']})"
            said = []
            leaves.append((line["seq"], leaf_hash(line["leaf"])))
            more, parts = check_entry(line, rules, about, said.append, note)
            findings += [f"{where}: {what}" for what in said]
            made += more
            replaced += [(line["leaf"]["key"], *part) for part in parts]
        except (KeyError, TypeError, ValueError, AttributeError, IndexError, OverflowError) as exc:
            findings.append(f"{where}: cannot be read ({type(exc).__name__}: {exc})")
    return findings, notes, leaves, made, replaced


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
            state.take(check_chunk((chunk, state.rules, state.about)))
    else:
        with multiprocessing.get_context("fork" if hasattr(os, "fork") else "spawn").Pool(options.processes) as pool:
            tasks = ((c, state.rules, state.about) for c in _chain(first, entries))
            for result in pool.imap(check_chunk, bounded(tasks, options.processes * 3)):
                GATE.release()
                state.take(result)
    return state.finish()


GATE = multiprocessing.BoundedSemaphore(64)


def bounded(tasks, most):
    """A pool reads all its tasks at once; this lets it have only some, so that memory stays small."""
    for task in tasks:
        GATE.acquire()
        yield task


def _chain(first, rest):
    yield first
    yield from rest


class Whole:
    """What is known of the bundle so far."""

    def __init__(self, head, options):
        self.head, self.about, self.options = head, head["about"], options
        self.findings, self.notes, self.leaves = [], {}, []
        self.rules, self.gaps, self.bill, self.settlements = {}, [], None, []
        self.made, self.replaced, self.readings = {}, {}, set()
        self.sums, self.older = {}, []
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
        else:
            self.tell(f"a line of a kind that this verifier does not know: {kind!r}")

    def leaf(self, line):
        """A document with its leaf: the leaf names the document's hash."""
        leaf, content = line["leaf"], line["content"]
        self.leaves.append((line["seq"], leaf_hash(leaf)))
        if leaf["sha256"] != hashed(content):
            self.tell(f"leaf {line['seq']}: the {leaf['t']} is not the one that the log commits to")
        if leaf["t"] == "tariff":
            self.rules[leaf["ref"]] = content
        elif leaf["t"] == "settlement":
            self.settlements.append((leaf, content, line["signatures"]))

    def take(self, result):
        findings, notes, leaves, made, replaced = result
        self.findings += findings
        self.leaves += leaves
        for text, count in notes.items():
            self.notes[text] = self.notes.get(text, 0) + count
        for key, amount, seconds, site, queue, currency, run, meter, revision in made:
            if key in self.made:
                self.tell(f"{key} is there twice")
            self.made[key] = (amount, seconds, site, queue, currency)
            reading = f"{site}\n{run}\n{meter}\n{revision}"
            if reading in self.readings:
                self.tell(f"{key}: this reading of run {run} at {site} is charged twice")
            self.readings.add(reading)
        for key, before, amount, seconds in replaced:
            if before in self.replaced:
                self.tell(f"{key}: {before} was replaced already by {self.replaced[before][0]}")
            self.replaced[before] = (key, amount, seconds)

    def finish(self):
        self.check_replaced()
        self.check_log()
        self.check_bill()
        for _leaf, content, signatures in self.settlements:
            check_settlement(content, signatures, self.head, self.options, self.sums, self.tell, self.remark)
        return self.findings, self.notes, self.summary()

    def check_replaced(self):
        for before, (key, amount, seconds) in self.replaced.items():
            known = self.made.get(before)
            if known is None:
                self.remark("corrections of charges that are not in this bundle")
            elif known[:2] != (amount, seconds):
                self.tell(f"{key} takes back {amount} of {before}, which had charged {known[0]}")

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
        """Live charges (those that nothing replaced) summed by site, queue and currency."""
        for key, (amount, seconds, site, queue, currency) in self.made.items():
            if key not in self.replaced:
                at = self.sums.setdefault((site, queue, currency), [0, 0, 0])
                at[0] += amount
                at[1] += seconds
                at[2] += 1
        if self.bill is None:
            self.tell("there is no bill in the bundle")
            return
        said = {}
        for line in self.bill["lines"]:
            key = (line["site"], line["queue"], line["currency"])
            if key in said:
                self.tell(f"the bill has two lines for {key}")
            said[key] = [int(line["amount"]), int(line["core_seconds"]), int(line["runs"])]
        for key in sorted(said.keys() | self.sums.keys()):
            if said.get(key) != self.sums.get(key):
                self.tell(f"{'/'.join(key)}: the bill says {said.get(key)}, the charges sum to {self.sums.get(key)}")
        totals = {}
        for (_, _, currency), (amount, _, _) in self.sums.items():
            totals[currency] = totals.get(currency, 0) + amount
        if {c: int(a) for c, a in self.bill["totals"].items()} != totals:
            self.tell(f"the bill's totals are {self.bill['totals']}, the charges sum to {totals}")

    def summary(self):
        lines = [
            f"{len(self.leaves)} leaves of {self.note[1] if self.note else '?'}, {len(self.made)} charges re-added"
        ]
        for (site, queue, currency), (amount, seconds, runs) in sorted(self.sums.items()):
            lines.append(f"  {site}/{queue}: {runs} runs, {seconds / 3600:.3f} core-hours, {money(amount)} {currency}")
        return lines


def money(micro):
    sign = "-" if micro < 0 else ""
    return f"{sign}{abs(micro) // 10**6}.{abs(micro) % 10**6:06d}"


# ---------------------------------------------------------------- settlement


def check_settlement(content, signatures, head, options, sums, tell, note):
    """Reserved for the settlement's own arithmetic and signatures."""
    note("settlements in the bundle")


# ---------------------------------------------------------------- command line


class Options:
    def __init__(self, log=None, witnesses=(), seen=None, processes=None):
        self.log_text, self.log = log, vkey(log) if log else None
        self.witnesses = [vkey(w) for w in witnesses]
        self.seen = seen
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
    parser.add_argument("--processes", type=int)
    given = parser.parse_args(arguments)
    try:
        seen = open(given.seen, encoding="utf-8").read() if given.seen else None  # noqa: SIM115
        options = Options(given.log_key, given.witness, seen, given.processes)
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
