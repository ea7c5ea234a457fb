"""Errors that users meet. Each is also a `ValueError` and says what was given, what was expected and the way out."""

from __future__ import annotations

import re

TOKEN = re.compile(
    r"\b(?:hf_[A-Za-z0-9]{20,}|hf_oauth_[A-Za-z0-9_.-]{20,}|api_org_[A-Za-z0-9]{20,}|gh[oprsu]_[A-Za-z0-9]{20,}|github_pat_\w{20,}"
    r"|AKIA[A-Z0-9]{16}|sk-[A-Za-z0-9_-]{20,})"
)
"""Access tokens of the Hub, GitHub, AWS and others by their prefixes."""


def without_tokens(text: str) -> str:
    """A text in which access tokens are `(hidden)`.

    Example:
        >>> without_tokens("got hf_0123456789abcdefXYZ01")
        'got (hidden)'
    """
    return TOKEN.sub("(hidden)", text)


class MutualKDError(ValueError):
    """Base of all errors raised for something the user gave us; what was given is shown without access tokens."""

    def __init__(self, *args: object):
        super().__init__(*(without_tokens(arg) if isinstance(arg, str) else arg for arg in args))


class ConfigError(MutualKDError):
    """An option, a recipe file or a combination of options is not usable."""


class PeerError(MutualKDError):
    """A peer cannot be loaded, named or used."""


class LabelError(MutualKDError):
    """Label lists or label values do not fit together."""


class DataError(MutualKDError):
    """A data set, a split, a column or a row cannot be used."""


class OutputFolderError(MutualKDError):
    """The output folder is in use or cannot be written."""


class ResumeError(MutualKDError):
    """A checkpoint does not belong to this run."""


class HubError(MutualKDError):
    """The Hub refused or could not be reached."""


class ExportError(MutualKDError):
    """A peer cannot be exported, or the exported file does not do what the peer does."""


def chain_of(error: BaseException | None) -> list[BaseException]:
    """An exception and all that led to it, last first."""
    found: list[BaseException] = []
    while error is not None and error not in found:
        found.append(error)
        error = error.__cause__ or error.__context__
    return found
