"""Texts that schedulers and centres print, and the class of error that each one is."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from site_adapters.command import Output
from site_adapters.config import SiteConfig
from site_adapters.errors import Busy, CommandFailed, NotFound, Refused, SiteError, SiteUnreachable
from site_adapters.types import Rejected, SubmitOutcome, Unknown


@dataclass(frozen=True, slots=True)
class ErrorRule:
    """A text that a scheduler (or a centre) prints, and the class of error it is."""

    pattern: re.Pattern[str]
    make: Callable[[str, str], SiteError]


def unreachable(message: str, text: str) -> SiteError:
    return SiteUnreachable(message)


def busy(message: str, text: str) -> SiteError:
    return Busy(message, native_text=text)


def not_found(message: str, text: str) -> SiteError:
    return NotFound(message, native_text=text)


def refused(code: str) -> Callable[[str, str], SiteError]:
    return lambda message, text: Refused(message, native_text=text, code=code)


MEANINGS = {"busy": busy, "refused": refused("refused"), "not_found": not_found, "unreachable": unreachable}


def rules(table: Iterable[tuple[str, Callable[[str, str], SiteError]]]) -> tuple[ErrorRule, ...]:
    """A dialect's table of (regular expression, class), in order."""
    return tuple(ErrorRule(re.compile(pattern), make) for pattern, make in table)


def site_rules(config: SiteConfig) -> tuple[ErrorRule, ...]:
    """The centre's own texts: they come before the scheduler's."""
    return tuple(ErrorRule(rule.match, MEANINGS[rule.means]) for rule in config.errors)


def by_text(text: str, message: str, tables: Sequence[Sequence[ErrorRule]]) -> SiteError | None:
    """The first rule of the first table whose text is there."""
    for table in tables:
        for rule in table:
            if rule.pattern.search(text):
                return rule.make(message, text)
    return None


def refusal(output: Output, error: SiteError, program: str) -> SubmitOutcome:
    """What a submit command that gave no id leaves behind: refused, or nobody knows."""
    match error:
        case SiteUnreachable():
            return Unknown(str(error))
        case CommandFailed() if output.exit_code == 0 or not output.error_text:  # a scheduler that refuses says so
            return Unknown(f"{program} said neither yes nor no: {output.error_text[:500]}")
        case Refused(code=code):
            return Rejected(str(error), code=code)
        case _:
            return Rejected(str(error), retryable=error.retryable, code="limit" if error.retryable else "refused")
