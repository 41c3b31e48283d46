#!/usr/bin/env python3
"""For a centre: keep watch over the log, and sign what one has checked. Standard library and `openssl` (3.0 or later).

    penstock_witness.py keygen KEY.pem [--name NAME]            a key pair; prints the public key for the operator, and,
                                                                of a witness (NAME), the key that others check against
    penstock_witness.py watch  --url URL --log-key VKEY --name NAME --key KEY.pem --state FILE
    penstock_witness.py sign   --statement FILE --key KEY.pem --key-id ID   prints the JWS of a statement

`watch` fetches the newest checkpoint, checks that the log it cosigned last is its beginning, remembers the new one in
the state file, and only then cosigns and hands the line in. Run it by cron once an hour. If history was changed it says
so, signs nothing and exits with 1: keep the state file, it is the proof. What hinders it otherwise (no answer, a key
that the operator has not added) it says, and exits with 2. The token is read from PENSTOCK_TOKEN.
"""

import argparse
import base64
import hashlib
import json
import os
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.parse
import urllib.request

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import penstock_verify as verify

WITNESS = b"\x04"  # a key that cosigns, as the signed note names it


class Hindered(Exception):
    """It cannot be done this time; nothing is known against the log."""


# ---------------------------------------------------------------- keys, by openssl


def openssl(*arguments, data=None):
    done = subprocess.run(["openssl", *arguments], input=data, capture_output=True, check=False)
    if done.returncode:
        raise Hindered(f"openssl {arguments[0]}: {done.stderr.decode(errors='replace').strip()}")
    return done.stdout


def public_of(key_file):
    """The 32 bytes of an Ed25519 public key: the end of its DER form."""
    return openssl("pkey", "-in", key_file, "-pubout", "-outform", "DER")[-32:]


def signed(key_file, message):
    """An Ed25519 signature, checked before it is used."""
    with tempfile.NamedTemporaryFile() as file:
        file.write(message)
        file.flush()
        signature = openssl("pkeyutl", "-sign", "-inkey", key_file, "-rawin", "-in", file.name)
    if not verify.ed25519(public_of(key_file), message, signature):
        raise Hindered(f"{key_file} is no Ed25519 key")
    return signature


def keygen(options):
    if os.path.exists(options.key):
        raise Hindered(f"{options.key} is there already")
    descriptor = os.open(options.key, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(openssl("genpkey", "-algorithm", "ed25519"))
    public = public_of(options.key)
    print(base64.b64encode(public).decode())
    if options.name:
        print(f"{options.name}+{key_id(options.name, public).hex()}+{base64.b64encode(WITNESS + public).decode()}")
    return 0


# ---------------------------------------------------------------- the log


def get(options, path):
    return call(options, path).read().decode()


def call(options, path, body=None):
    headers = {"Authorization": "Bearer " + os.environ.get("PENSTOCK_TOKEN", ""), "Content-Type": "application/json"}
    data = None if body is None else json.dumps(body).encode()
    url = options.url.rstrip("/") + "/api/v2/evidence/" + path
    if urllib.parse.urlsplit(url).scheme not in ("http", "https"):
        raise Hindered("--url is the gateway's address")
    try:
        return urllib.request.urlopen(urllib.request.Request(url, data, headers), timeout=60)
    except urllib.error.HTTPError as exc:
        raise Hindered(f"the gateway refuses this: {refusal(exc)}") from exc


def refusal(exc):
    """What the gateway says, in its words where it has any."""
    try:
        said = json.loads(exc.read())
        return " ".join(filter(None, (said["detail"], said.get("remedy"))))
    except (ValueError, KeyError, TypeError):
        return str(exc)


def watch(options):
    key = verify.vkey(options.log_key)
    text = get(options, "checkpoint")
    note = verify.read_note(text)
    origin, size, root, body = note[:4]
    if origin != key[0] or not verify.note_signed(note, key):
        return refuse(f"the checkpoint is not signed by {key[0]}")
    state = None
    if os.path.exists(options.state):
        with open(options.state, encoding="utf-8") as file:
            state = json.load(file)
    if state is not None:
        old_size, old_root = state["size"], base64.b64decode(state["root"])
        if state["origin"] != origin:
            return refuse(f"this is {origin}, and I have watched {state['origin']}")
        proof = []
        if old_size < size:
            answer = json.loads(get(options, f"consistency?old={old_size}&new={size}"))
            proof = [base64.b64decode(h) for h in answer["hashes"]]
        if old_size > size or not verify.consistent(old_size, size, old_root, root, proof):
            with open(options.state + ".conflict", "w", encoding="utf-8") as file:
                file.write(text)
            return refuse(f"HISTORY WAS CHANGED: the log of {old_size} leaves is not the beginning of this one; "
                          f"kept as {options.state}.conflict")  # fmt: skip
    remember(options.state, {"origin": origin, "size": size, "root": base64.b64encode(root).decode(), "note": text})
    now = int(time.time())
    line = cosignature(options, body, now)
    call(options, "cosignatures", {"size": size, "line": line})
    print(f"cosigned {origin} at {size} leaves")
    return 0


def cosignature(options, body, now):
    """A line of c2sp.org/tlog-cosignature."""
    signature = signed(options.key, b"cosignature/v1\ntime %d\n" % now + body)
    of_key = key_id(options.name, public_of(options.key))
    value = base64.b64encode(of_key + now.to_bytes(8, "big") + signature).decode()
    return f"— {options.name} {value}\n"


def key_id(name, public):
    """The id of a witness's key (c2sp.org/tlog-cosignature)."""
    return hashlib.sha256(name.encode() + b"\n" + WITNESS + public).digest()[:4]


def remember(path, state):
    """Durably, and before the signature leaves the house."""
    with open(path + ".new", "w", encoding="utf-8") as file:
        json.dump(state, file)
        file.flush()
        os.fsync(file.fileno())
    os.replace(path + ".new", path)


def refuse(why):
    print(f"NOT COSIGNED: {why}", file=sys.stderr)
    return 1


# ---------------------------------------------------------------- statements


def sign(options):
    """A JWS (RFC 7515, Ed25519) over the very bytes of a statement; of the centre's own one over their hash, so that
    payers can check it who may not see the whole statement."""
    with open(options.statement, "rb") as file:
        payload = file.read()
    if options.kind == "statement-hash":
        payload = json.dumps({"sha256": hashlib.sha256(payload).hexdigest()}, separators=(",", ":")).encode()
    header = {"alg": "Ed25519", "kid": options.key_id, "typ": f"penstock-{options.kind}+jws"}
    head = url64(json.dumps(header, separators=(",", ":")).encode())
    body = url64(payload)
    signature = url64(signed(options.key, f"{head}.{body}".encode()))
    print(f"{head}.{body if options.kind != 'statement' else ''}.{signature}")
    return 0


def url64(data):
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def main():
    parser = argparse.ArgumentParser(description="For a centre: watch the log of Penstock, sign what was checked.")
    commands = parser.add_subparsers(dest="command", required=True)
    one = commands.add_parser("keygen")
    one.add_argument("key", help="the file to write")
    one.add_argument("--name", help="of a witness: the name under which it cosigns, like centre.example/w")
    one.set_defaults(run=keygen)
    one = commands.add_parser("watch")
    for name, what in (
        ("--url", "the gateway's address"), ("--log-key", "the log's key, name+id+key, as you know it"),
        ("--name", "the name under which you cosign"), ("--key", "your witness's private key (PEM)"),
        ("--state", "a file that keeps what you cosigned last"),
    ):  # fmt: skip
        one.add_argument(name, required=True, help=what)
    one.set_defaults(run=watch)
    one = commands.add_parser("sign")
    for name, what in (
        ("--statement", "the file"), ("--key", "your private key (PEM)"),
        ("--key-id", "the name under which the operator knows it"),
    ):  # fmt: skip
        one.add_argument(name, required=True, help=what)
    one.add_argument("--kind", choices=("settlement", "statement", "statement-hash"), default="settlement")
    one.set_defaults(run=sign)
    options = parser.parse_args()
    try:
        return options.run(options)
    except (Hindered, OSError, ValueError) as exc:
        print(f"cannot be done: {exc}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
