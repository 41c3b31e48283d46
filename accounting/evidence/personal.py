"""Keep what a raw record says of a person apart: encrypted under that person's key, and committed to with a salt.

Erasing somebody is dropping their key. What the log says stays as it was: the commitment is an HMAC under a salt that
comes from the key, so without it nobody can try names against it, and every proof still holds.
"""

from __future__ import annotations

import base64
import hmac
import json
import re
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from accounting.evidence.canonical import canonical

# Where the sealed part of a stored raw record is found; no scheduler names a field like this.
SEALED = "~personal"
# What a sealed text begins with.
_TEXT = "~sealed/1 "
KEY_BYTES = 32
_NONCE_BYTES = 12

# Fields of the schedulers' records that say who it was or what they called things, in small letters.
PERSONAL = frozenset(
    {
        *("user", "uid", "gid", "group", "jobname", "submitline", "comment", "workdir"),  # sacct
        *("admincomment", "systemcomment", "extra", "stdout", "stderr", "stdin", "wckey"),
        *("username", "job_name"),  # the local shim, and what others translate
        *("owner", "requestor", "euser", "egroup", "job_owner", "variable_list", "submit_arguments"),  # PBS
        *("error_path", "output_path", "jobdir", "submit_host", "x_workdir", "job_comment"),
        *("username_local", "globalusername", "commandline", "exechome"),  # LSF, OGF usage records
        *("localuserid", "userfqan", "submithost"),  # OGF usage records, APEL
        *("jobbatchname", "cmd", "args", "arguments", "environment", "env", "iwd", "in", "out", "err", "userlog"),
        *("ntdomain", "osuser", "notifyuser", "acctgroupuser", "accountinggroup", "authtokensubject"),  # HTCondor
        *("x509userproxysubject", "transferinput", "transferoutput"),
        "name",  # of a Sunway job, beside its block
    }
)
# Whole lines of a scheduler that say more than names: what stays readable of them has a dash where a name was.
_LINES = frozenset({"line", "s", "phases", "block"})
_WORD = re.compile(
    r"(?<![^\s;])(user|group|owner|requestor|jobname|submit_host|Submit_arguments|Variable_List|jobdir)="
    r'(?:"(?:[^"\\]|\\.)*"|\S*)'
)
_MEMBER = re.compile(r"\b(User|Job Name|Command|CWD|Cwd|Submitted from host )( ?)<[^<>]*>")
# LSF's lsb.acct: words in a fixed order, of which these quoted ones name no person (hosts are in numbered lists).
_LSF_WORD = re.compile(r'"(?:[^"]|"")*"|[^\s"]+')
# Behind the hosts: up to the index, up to the job's description; then two lists, and three words before what was in
# force.
_LSF_INDEX, _LSF_DESCRIBED, _LSF_REQUIRED = 30, 23, 3
_LSF_EVENT, _LSF_USER_ID, _LSF_QUEUE, _LSF_HOSTS, _LSF_PROJECT = 0, 4, 12, 22, 24  # the project: counted from the hosts


class Erased(Exception):
    """The person's key is gone, and with it what the record said of them."""


@dataclass(frozen=True, slots=True)
class Disclosed:
    """Personal fields with the salt that shows that they are the ones committed to."""

    fields: Mapping[str, str]
    salt: str


@dataclass(frozen=True, slots=True)
class SealedText:
    """A text under one person's key; `ref` names where it stands."""

    person: str
    ref: str
    data: bytes


def seal(raw: Mapping[str, Any], *, person: str, key: bytes, ref: str, also: Collection[str] = ()) -> dict[str, Any]:
    """The raw record with its personal fields (and those named in `also`) sealed; `ref` names the run (site, key,
    meter)."""
    found, hidden = apart(raw, also)
    if hidden:
        found[SEALED] = sealed_part(canonical(hidden), person=person, key=key, ref=ref)
    return found


def apart(raw: Mapping[str, Any], also: Collection[str] = ()) -> tuple[dict[str, Any], dict[str, Any]]:
    """What of a raw record says nothing of a person, and the fields that do."""
    found = public(raw, also)
    return found, {name: raw[name] for name in raw if name not in found or found[name] != raw[name]}


def sealed_part(hidden: bytes, *, person: str, key: bytes, ref: str) -> dict[str, str]:
    """What stands in a kept record for fields (their canonical bytes) that say something of a person."""
    return {
        "person": person, "ref": ref, "commitment": _hmac(bytes.fromhex(salt(key, ref)), hidden),
        "sealed": base64.b64encode(_encrypted(hidden, key, ref)).decode(),
    }  # fmt: skip


def public(raw: Mapping[str, Any], also: Collection[str] = ()) -> dict[str, Any]:
    """What of a raw record says nothing of a person (`also`: fields to be left out too); a line keeps its figures,
    without the names in it."""
    names, lines = _kinds(tuple(raw))
    found = {name: raw[name] for name in names}
    for name in lines:
        if isinstance(found[name], str):
            found[name] = _without_names(name.lower(), found[name])
    for name in also:
        found.pop(name, None)
    return found


def has_lines(names: Sequence[str]) -> bool:
    """Whether one of these fields is a whole line of a scheduler, of which a part is kept."""
    return any(name.lower() in _LINES for name in names)


@lru_cache(maxsize=256)
def _kinds(names: tuple[str, ...]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Which fields of a record stay, and which of these are whole lines; the records of one meter have the same."""
    stay = tuple(name for name in names if name.lower() not in PERSONAL)
    return stay, tuple(name for name in stay if name.lower() in _LINES)


def _without_names(name: str, text: str) -> str:
    """A whole line of a scheduler with a dash where a name was."""
    if name == "line" and text.lstrip().startswith('"JOB_FINISH"'):
        return _lsf_without_names(text)
    return _MEMBER.sub(r"\1\2<->", text) if name == "block" else _WORD.sub(r"\1=-", text)  # Sunway, PBS


def _lsf_without_names(line: str) -> str:
    """Numbers, event, version, queue, hosts, project and what was in force stay; a line that is cut says nothing."""
    words = _LSF_WORD.findall(line)
    kept = {_LSF_EVENT, _LSF_EVENT + 1, _LSF_QUEUE}
    try:
        asked = int(words[_LSF_HOSTS])
        ran_on = int(words[_LSF_HOSTS + 1 + asked])
        after = _LSF_HOSTS + 2 + asked + ran_on
        kept |= {*range(_LSF_HOSTS, after), after + _LSF_PROJECT}
    except (IndexError, ValueError):
        return "-"
    with suppress(IndexError, ValueError):  # lines of old releases end before it
        at = after + _LSF_INDEX + _LSF_DESCRIBED
        for group in (2, 5):
            at += 1 + group * int(words[at])
        kept.add(at + _LSF_REQUIRED)
    quoted = (w if not w.startswith('"') or i in kept else '"-"' for i, w in enumerate(words))
    return " ".join("-" if i == _LSF_USER_ID else w for i, w in enumerate(quoted))


def disclose(raw: Mapping[str, Any], *, key: bytes | None) -> Disclosed | None:
    """The personal fields of a sealed record; None where it has none; raises `Erased`."""
    sealed = raw.get(SEALED)
    if sealed is None:
        return None
    if key is None:
        raise Erased(f"what was known of {sealed['person']} is erased")
    text = _decrypted(base64.b64decode(sealed["sealed"]), key, sealed["ref"])
    return Disclosed(json.loads(text), salt(key, sealed["ref"]))


def seal_text(text: str, *, person: str, key: bytes, ref: str) -> str:
    """A text that is read again only with the person's key."""
    data = base64.b64encode(_encrypted(text.encode(), key, ref)).decode()
    return _TEXT + json.dumps([person, ref, data])


def sealed_text(text: str) -> SealedText | None:
    """What a kept text is, where it is a sealed one."""
    if not text.startswith(_TEXT):
        return None
    person, ref, data = json.loads(text.removeprefix(_TEXT))
    return SealedText(person, ref, base64.b64decode(data))


def open_text(sealed: SealedText, *, key: bytes) -> str:
    """The text that was sealed; ValueError where it was changed."""
    return _decrypted(sealed.data, key, sealed.ref).decode()


def _encrypted(text: bytes, key: bytes, ref: str) -> bytes:
    # From key, reading and text, so that the same record read twice is the same bytes (and nothing else ever is).
    nonce = hmac.digest(key, b"penstock/nonce/1\n" + ref.encode() + b"\n" + text, "sha256")[:_NONCE_BYTES]
    return nonce + AESGCM(key).encrypt(nonce, text, ref.encode())


def _decrypted(data: bytes, key: bytes, ref: str) -> bytes:
    try:
        return AESGCM(key).decrypt(data[:_NONCE_BYTES], data[_NONCE_BYTES:], ref.encode())
    except InvalidTag as exc:
        raise ValueError(f"the sealed fields of {ref} were changed, or belong to another key") from exc


def whole(raw: Mapping[str, Any], *, key: bytes | None) -> dict[str, Any]:
    """The raw record as it came, for whoever reads its meaning again."""
    disclosed = disclose(raw, key=key)
    rest = {name: value for name, value in raw.items() if name != SEALED}
    return rest if disclosed is None else rest | dict(disclosed.fields)


def pseudonym(username: str, key: bytes | None) -> str:
    """What stands for a login in the books: the same for the same person, and nothing once the key is gone."""
    if key is None or not username:
        return ""
    return "~" + _hmac(key, b"penstock/login/1\n" + username.encode())[:20]


def salt(key: bytes, ref: str) -> str:
    """The salt of one reference (a run, a statement): it opens its commitments and tells nothing of others."""
    return _hmac(key, b"penstock/salt/1\n" + ref.encode())


def commitment(fields: Mapping[str, Any], salt_hex: str) -> str:
    return _hmac(bytes.fromhex(salt_hex), canonical(dict(fields)))


def _hmac(key: bytes, message: bytes) -> str:
    return hmac.digest(key, message, "sha256").hex()
