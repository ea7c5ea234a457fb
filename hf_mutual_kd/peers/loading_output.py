"""What transformers shows while it loads peers: no bars for local files, and what it reports of one peer once."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from logging import LogRecord, getLogger

from transformers.utils import logging

_reported: set[tuple[str, str]] = set()


@contextlib.contextmanager
def without_bars() -> Iterator[None]:
    """No bars of transformers for local files: they would tear the bar of the training."""
    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


@contextlib.contextmanager
def reported_once(name: str) -> Iterator[None]:
    """Within the block, say of a peer what has not been said of it: every training loads its peers anew, and each time
    transformers reports the same weights that do not fit or are new."""

    def is_new(record: LogRecord) -> bool:
        message = (name, record.getMessage())
        known = message in _reported
        _reported.add(message)
        return not known

    logger = getLogger("transformers.modeling_utils")
    logger.addFilter(is_new)
    try:
        yield
    finally:
        logger.removeFilter(is_new)
