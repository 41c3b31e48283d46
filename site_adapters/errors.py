"""What can go wrong at a site.

SiteError
├── SiteUnreachable        no answer: try later (retryable)
│   └── OutcomeUnknown     a write was sent and its answer was lost: look before you try again
├── SiteClosed             closed on our side or theirs, with a reason a person must lift
│   └── HostKeyChanged     the site's host key is not the pinned one
├── CredentialRefused      the site does not accept this account's key
├── CommandFailed          the site answered, and the answer is an error
│   ├── Busy               a limit or a temporary state: the same call may work later (retryable)
│   ├── NotFound           the site does not know that job or file
│   └── Refused            the site will never accept this as it stands
└── Unsupported            this centre has no such ability; shown in its capabilities
"""

from __future__ import annotations


class SiteError(Exception):
    """An act at a site did not succeed; `retryable` says whether the same call may work later."""

    retryable = False


class SiteUnreachable(SiteError):
    """The site gave no (complete) answer; nothing is known to have changed."""

    retryable = True


class OutcomeUnknown(SiteUnreachable):
    """A write was sent and its answer was lost: it may or may not have happened."""

    retryable = False


class SiteClosed(SiteError):
    """The site may not be used until a person has removed the reason."""


class HostKeyChanged(SiteClosed):
    """The site showed another host key than the pinned one."""


class CredentialRefused(SiteError):
    """The site does not accept this account's credential."""


class CommandFailed(SiteError):
    """The site answered with an error; `native_text` holds its own words."""

    def __init__(self, message: str, *, native_text: str = "") -> None:
        super().__init__(message)
        self.native_text = native_text


class Busy(CommandFailed):
    """A limit is reached or the site is briefly not able; the same call may work later."""

    retryable = True


class NotFound(CommandFailed):
    """The site does not know what was asked for."""


class Refused(CommandFailed):
    """The site will not accept this call as it stands; `code` is the class of the refusal.

    `field`: the part of the job spec that it is about (`attributes`, `qos`), where it is about one.
    """

    def __init__(
        self, message: str, *, native_text: str = "", code: str = "refused", field: tuple[str, ...] = ()
    ) -> None:
        super().__init__(message, native_text=native_text)
        self.code = code
        self.field = field


class Unsupported(SiteError):
    """The centre lacks this ability."""
