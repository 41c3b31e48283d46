"""Every value that crosses the five interfaces comes back as it was; whatever else arrives is refused in words."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from site_adapters import errors
from site_adapters.if2.codec import Malformed, codec, decode, encode
from site_adapters.if2.profile import Profile
from site_adapters.if2.verbs import INTERFACES, VERBS
from site_adapters.if2.wire import error_json, error_of
from site_adapters.policy import Policy
from site_adapters.types import Change, JobSpec, Submission, SubmitOutcome, Unknown

st.register_type_strategy(datetime, st.datetimes(timezones=st.just(UTC)))
st.register_type_strategy(float, st.floats(allow_nan=False, allow_infinity=False))

_TYPES = sorted({repr(t): t for verb in VERBS.values() for t in (*verb.types.values(), verb.answer_type)}.items())


def test_every_method_of_every_protocol_is_a_verb_but_the_pure_ones() -> None:
    methods = {f"{name}.{m}" for name, p in INTERFACES.items() for m in vars(p) if not m.startswith("_")}
    assert methods - set(VERBS) == {"management.render", "management.assert_renders"}


@pytest.mark.parametrize("kind", [t for _, t in _TYPES], ids=[n[:60] for n, _ in _TYPES])
@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_what_is_sent_is_what_arrives(kind: Any, data: st.DataObject) -> None:
    value = data.draw(st.from_type(kind))
    kind = tuple[kind.__args__[0], ...] if getattr(kind, "__name__", "") == "Sequence" else kind

    arrived = decode(kind, json.loads(json.dumps(encode(kind, value))))

    assert encode(kind, arrived) == encode(kind, value)
    if not isinstance(value, list | tuple):
        assert arrived == value


@given(st.recursive(st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
                    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=8))  # fmt: skip
def test_whatever_arrives_is_a_value_or_malformed(noise: Any) -> None:
    for kind in (Submission, Change, SubmitOutcome, Profile, Policy, tuple[JobSpec, ...]):
        try:
            decode(kind, noise)
        except Malformed as exc:
            assert str(exc)


@pytest.mark.parametrize(
    ("kind", "wrong"),
    [(int, True), (int, "1"), (bool, 1), (str, 1), (datetime, "2026-01-01T00:00:00"), (Change, {"sudo": 1}),
     (bytes, "*"), (tuple[int, ...], "12"), (SubmitOutcome, {"$": "Accepted"}), (SubmitOutcome, {"$": "Policy"}),
     (SubmitOutcome, {"$": []})],
)  # fmt: skip
def test_nothing_is_read_as_something_else(kind: Any, wrong: Any) -> None:
    with pytest.raises(Malformed):
        decode(kind, wrong, "/x")


def test_an_offset_is_kept() -> None:
    at = datetime(2026, 1, 1, tzinfo=timezone(timedelta(hours=8)))
    assert decode(datetime, encode(datetime, at)) == at


def test_a_type_that_cannot_travel_cannot_be_added() -> None:
    with pytest.raises(TypeError):
        codec(complex)
    with pytest.raises(TypeError):
        codec(int | str)


def test_every_site_error_crosses_the_wire_as_itself() -> None:
    kinds = [k for k in vars(errors).values() if isinstance(k, type) and issubclass(k, errors.SiteError)]
    for kind in kinds:
        back = error_of(json.loads(json.dumps(error_json(kind("why")))))
        assert type(back) is kind and str(back) == "why" and back.retryable is kind.retryable
    assert type(error_of({"class": "Invented", "message": "x"})) is errors.SiteError
    assert Unknown("x")
