"""Whatever a stream does to a program's answer, no wrong answer comes out of it."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from site_adapters.command import Command, Output
from site_adapters.errors import CommandFailed, OutcomeUnknown, SiteUnreachable
from site_adapters.quoting import quote, quote_all
from site_adapters.transport.framing import (
    NOT_WHOLE,
    STDERR_BYTES_MAX,
    Answers,
    Program,
    program,
    refusal_of,
    result_of,
)

SHELLS = ("dash", "bash")
WORDS = st.text(st.characters(exclude_characters="\0", exclude_categories=("Cs",)), max_size=30)


def command(*argv: str, **more: Any) -> Command[Output]:
    return Command(argv, lambda output: output, **more)


def run(
    sent: Program, *, text: bytes | None = None, login_shell: str = "/bin/sh"
) -> subprocess.CompletedProcess[bytes]:
    """What sshd does with a program: the login shell runs the loader, and the text comes on stdin."""
    given = sent.text if text is None else text
    return subprocess.run([login_shell, "-c", sent.loader], input=given, capture_output=True, check=False)


def read(sent: Program, stdout: bytes, stderr: bytes) -> Answers:
    answers = Answers(sent)
    answers.feed(stdout=stdout, stderr=stderr)
    return answers


def outputs(commands: Sequence[Command[Any]], **environment: str) -> list[Output | None]:
    sent = program(commands, environment=environment)
    done = run(sent)
    return read(sent, done.stdout, done.stderr).outputs()


# ---------------------------------------------------------------- a real shell


@settings(max_examples=60, deadline=None)
@given(words=st.lists(WORDS, max_size=5))
def test_a_command_gets_exactly_its_words(words: list[str]) -> None:
    (output,) = outputs([command("/usr/bin/printf", "%s\\0", "", *words)])
    assert output is not None
    assert output.stdout.decode().split("\0")[1:-1] == words


@pytest.mark.parametrize("shell", SHELLS)
@settings(max_examples=40, deadline=None)
@given(stdin=st.one_of(st.binary(max_size=300), st.binary(max_size=300).map(lambda b: b + b"\n")))
def test_stdin_arrives_byte_for_byte_in_every_shell(shell: str, stdin: bytes) -> None:
    sent = program([command("cat", stdin=stdin), command("cat")], environment={})
    done = subprocess.run([shell, "-c", sent.text], capture_output=True, check=True)
    first, second = read(sent, done.stdout, done.stderr).outputs()
    assert first == Output(stdin, b"", 0)
    assert second == Output(b"", b"", 0)


def test_all_256_bytes_and_what_looks_like_an_option_arrive() -> None:
    for stdin in (bytes(range(256)), bytes(range(255, -1, -1)) * 300 + b"\n", b"-v x", b"%s\\n'\\0"):
        (output,) = outputs([command("cat", stdin=stdin)])
        assert output is not None and output.stdout == stdin


@pytest.mark.parametrize("shell", SHELLS)
def test_a_line_that_begins_as_the_end_word_does_keeps_its_bytes(shell: str) -> None:
    """dash lost a byte of `E一`; with every letter at the beginning of a line no here-document is used."""
    every = b"".join(bytes((65 + n,)) + "一\n".encode() for n in range(26))
    for stdin in ("E一\n".encode(), b"E\x80\n", every):
        sent = program([command("cat", stdin=stdin)], environment={})
        done = subprocess.run([shell, "-c", sent.text], capture_output=True, check=True)
        assert read(sent, done.stdout, done.stderr).outputs() == [Output(stdin, b"", 0)]


def test_both_streams_and_the_exit_code_of_each_command_are_its_own() -> None:
    loud = command("sh", "-c", "printf out; printf err >&2; exit 3")
    assert outputs([loud, command("true"), command("no-such-program"), command("sh", "-c", "kill -9 $$")])[:2] == [
        Output(b"out", b"err", 3),
        Output(b"", b"", 0),
    ]


def test_a_program_that_is_missing_or_killed_has_the_codes_of_the_shell() -> None:
    missing, killed = outputs([command("no-such-program"), command("sh", "-c", "kill -9 $$")])
    assert missing is not None and missing.exit_code == 127
    assert killed is not None and killed.exit_code == 137


def test_a_command_that_reads_all_of_stdin_does_not_swallow_the_next_one() -> None:
    assert outputs([command("cat"), command("echo", "still here")])[1] == Output(b"still here\n", b"", 0)


def test_the_environment_of_the_site_and_of_the_command_are_set_and_the_language_is_c() -> None:
    env = command("sh", "-c", 'echo "$SITE $OWN $LC_ALL"', env=(("OWN", "a 'b' $c"),))
    assert outputs([env, command("sh", "-c", 'echo "$OWN"')], SITE='x "y"') == [
        Output(b"x \"y\" a 'b' $c C\n", b"", 0),
        Output(b"\n", b"", 0),
    ]


def test_words_of_the_shell_are_run_as_programs() -> None:
    for word in ("if", "A=b", "!", "{", "time"):
        (output,) = outputs([command(word, "x")])
        assert output is not None and output.exit_code != 0, word


@pytest.mark.parametrize("login_shell", ["bash", "dash"])
@pytest.mark.parametrize("sh", SHELLS)
def test_the_loader_works_in_every_shell_under_every_shell(login_shell: str, sh: str) -> None:
    sent = program([command("cat", stdin=bytes(range(1, 256)) + b"\n"), command("sh", "-c", "exit 4")], environment={})
    loader = sent.loader.replace("/bin/sh", f"/bin/{sh}")
    done = subprocess.run([login_shell, "-c", loader], input=sent.text, capture_output=True, check=True)
    first, second = read(sent, done.stdout, done.stderr).outputs()
    assert first == Output(bytes(range(1, 256)) + b"\n", b"", 0)
    assert second == Output(b"", b"", 4)


@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_a_program_that_was_cut_runs_nothing(data: st.DataObject) -> None:
    sent = program([command("echo", "ran"), command("cat", stdin=b"a\nb\n")], environment={"A": "b"})
    cut = data.draw(st.integers(0, len(sent.text) - 2))  # the last newline is not missed
    done = run(sent, text=sent.text[:cut])
    assert (done.stdout, done.returncode) == (b"", NOT_WHOLE)


def test_a_program_of_which_a_profile_ate_the_first_line_runs_nothing() -> None:
    sent = program([command("cat", stdin=b"echo oops\n")], environment={})
    done = run(sent, text=sent.text.split(b"\n", 1)[1])
    assert (done.stdout, done.returncode) == (b"", NOT_WHOLE)


def test_a_shell_whose_reader_has_gone_starts_nothing_more(tmp_path: Any) -> None:
    flags = [tmp_path / str(n) for n in range(3)]
    commands = [
        command("touch", str(flags[0])),
        command("sleep", "0.3"),
        *(command("touch", str(f)) for f in flags[1:]),
    ]
    sent = program(commands, environment={})
    process = subprocess.Popen(
        ["/bin/sh", "-c", sent.loader], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stdin and process.stdout and process.stderr
    process.stdin.write(sent.text)
    process.stdin.close()
    assert process.stdout.readline() == b"\n"
    while b" 1\n" not in process.stdout.readline():
        pass  # the second command has begun
    process.stdout.close()
    process.wait(10)
    process.stderr.close()
    assert [flag.exists() for flag in flags] == [True, False, False]


def test_a_large_program_is_quick() -> None:
    script = b"#!/bin/bash\n" + b"echo 123456789\n" * 1300
    answered = outputs([command("wc", "-c", stdin=script)] * 100)
    assert {o.stdout.strip() for o in answered if o is not None} == {str(len(script)).encode()}


# ---------------------------------------------------------------- streams


def answer(sent: Program, sections: Sequence[tuple[bytes, bytes, int]]) -> tuple[bytes, bytes]:
    """The streams that a shell would make of a program."""
    streams = []
    for which in (0, 1):
        text = b""
        for number, section in enumerate(sections):
            begin = f"\nBEGIN-{sent.nonce} {number}\n".encode()
            text += begin + section[which] + f"\nEND-{sent.nonce} {number} {section[2]}\n".encode()
        streams.append(text)
    return streams[0], streams[1]


NOISE = st.one_of(
    st.binary(max_size=60),
    st.sampled_from(
        [b"\n", b"\nBEGIN-", b"\nEND-", b"\nEND-0 0\n", b"Last login: today\r\n", b"\nBEGIN-x 0\nEND-x 0 0\n"]
    ),
)
SECTIONS = st.lists(st.tuples(NOISE, NOISE, st.integers(0, 255)), min_size=1, max_size=4)


def pieces(data: st.DataObject, text: bytes) -> list[bytes]:
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=8)))
    return [text[a:b] for a, b in zip([0, *cuts], [*cuts, len(text)], strict=True)]


@settings(max_examples=300, deadline=None)
@given(data=st.data(), sections=SECTIONS, before=NOISE, between=st.integers(0, 3))
def test_no_cut_and_no_noise_yields_a_wrong_result(
    data: st.DataObject, sections: list[tuple[bytes, bytes, int]], before: bytes, between: int
) -> None:
    sent = program([command("true")] * len(sections), environment={})
    stdout, stderr = answer(sent, sections)
    stdout, stderr = before + stdout, before + before + stderr
    out_cut = data.draw(st.integers(0, len(stdout)))
    err_cut = data.draw(st.integers(0, len(stderr)))
    answers = Answers(sent)
    for piece in pieces(data, stdout[:out_cut]):
        answers.feed(stdout=piece)
    for piece in pieces(data, stderr[:err_cut]):
        answers.feed(stderr=piece)
    for found, section in zip(answers.outputs(), sections, strict=True):
        assert found is None or found == Output(*section)
    whole = out_cut == len(stdout) and err_cut == len(stderr)
    assert answers.complete or not whole
    if answers.complete:
        assert [(o.stdout, o.stderr, o.exit_code) for o in answers.outputs() if o is not None] == sections


def test_what_was_seen_before_a_cut_is_kept() -> None:
    sent = program([command("true")] * 3, environment={})
    stdout, stderr = answer(sent, [(b"a", b"", 0), (b"b", b"", 1), (b"c", b"", 2)])
    cut = stdout.index(b"\nEND-" + sent.nonce.encode() + b" 2")
    found = read(sent, stdout[:cut], stderr).outputs()
    assert found == [Output(b"a", b"", 0), Output(b"b", b"", 1), None]


def test_streams_that_disagree_about_the_exit_code_are_no_answer() -> None:
    sent = program([command("true")], environment={})
    stdout, stderr = answer(sent, [(b"a", b"", 0)])
    assert read(sent, stdout, stderr.replace(b" 0 0\n", b" 0 1\n")).outputs() == [None]


def test_output_over_the_limit_is_given_up_and_holds_no_memory() -> None:
    sent = program([command("true"), command("yes", stdout_bytes_max=1000), command("true")], environment={})
    stdout, _ = answer(sent, [(b"a", b"", 0), (b"y\n" * 100_000, b"", 0), (b"", b"", 0)])
    answers = Answers(sent)
    for at in range(0, len(stdout), 500):
        answers.feed(stdout=stdout[at : at + 500])
    assert answers.overflow == 1
    assert not answers.complete


def test_output_of_exactly_the_limit_is_an_answer() -> None:
    sent = program([command("x", stdout_bytes_max=10)], environment={})
    assert read(sent, *answer(sent, [(b"0123456789", b"", 0)])).outputs() == [Output(b"0123456789", b"", 0)]
    assert read(sent, *answer(sent, [(b"0123456789a", b"", 0)])).overflow == 0


@pytest.mark.parametrize("piece", [7_777, 10_000_000])
def test_a_flood_of_complaints_is_shortened_and_the_answer_is_kept(piece: int) -> None:
    sent = program([command("true"), command("true")], environment={})
    flood = b"".join(b"complaint %d\n" % n for n in range(200_000))
    stdout, stderr = answer(sent, [(b"ok", flood, 0), (b"next", b"e", 4)])
    answers = Answers(sent)
    answers.feed(stdout=stdout)
    for at in range(0, len(stderr), piece):
        answers.feed(stderr=stderr[at : at + piece])
    first, second = answers.outputs()
    assert first == Output(b"ok", flood[:STDERR_BYTES_MAX], 0)
    assert second == Output(b"next", b"e", 4)


def test_the_last_words_of_a_site_that_runs_nothing_are_kept_for_people() -> None:
    sent = program([command("true")], environment={})
    answers = read(sent, b"x" * 5000 + b"\nThis account is currently not available.\n", b"")
    assert not answers.begun
    assert answers.noise.endswith("This account is currently not available.")


# ---------------------------------------------------------------- results and refusals


def test_a_lost_answer_is_unreachable_for_a_read_and_unknown_for_a_write() -> None:
    assert type(result_of(command("squeue"), None, False, "cut")) is SiteUnreachable
    assert type(result_of(command("sbatch", write=True), None, False, "cut")) is OutcomeUnknown


def test_too_long_an_answer_is_not_asked_for_again() -> None:
    failed = result_of(command("cat"), None, True, "it printed more than is allowed")
    assert type(failed) is CommandFailed and not failed.retryable
    assert type(result_of(command("sbatch", write=True), None, True, "too long")) is OutcomeUnknown


def test_a_parser_that_stumbles_over_a_writes_answer_leaves_its_outcome_unknown() -> None:
    def stumble(output: Output) -> int:
        return int(output.stdout)

    assert type(result_of(Command(("squeue",), stumble), Output(b"x", b"", 0), False, "")) is CommandFailed
    assert type(result_of(Command(("sbatch",), stumble, write=True), Output(b"x", b"", 0), False, "")) is OutcomeUnknown


def test_a_nul_in_a_word_a_lone_surrogate_and_an_empty_command_are_refused() -> None:
    for argv in (("echo", "a\0b"), ("echo", "\ud800"), (), ("",)):
        refusal = refusal_of(command(*argv))
        assert refusal is not None and refusal.code == "invalid"
    assert refusal_of(command("echo", "汉字", b"\xff".decode("utf-8", "surrogateescape"))) is None


def test_quote_leaves_plain_words_readable_but_never_the_first_bare() -> None:
    assert quote("--name=x") == "--name=x"
    assert quote_all(["sbatch", "--job-name=a b"]) == "'sbatch' '--job-name=a b'"
