"""Errors that users meet. Each is also a `ValueError` and says what was given, what was expected and the way out."""

from __future__ import annotations


class MutualKDError(ValueError):
    """Base of all errors raised for something the user gave us."""


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
