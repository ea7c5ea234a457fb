"""How a command ends: what only shows cannot end it, and every error or interruption is one line and an exit code."""

from __future__ import annotations

import atexit
import contextlib
import gc
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

from ..errors import MutualKDError

USER_ERROR, INTERRUPTED, TERMINATED = 2, 130, 143

PAUSE_S = 3.0
"""Seconds after which a process that is not the first says what is wrong; mostly the first has ended all by then."""


class Terminated(KeyboardInterrupt):
    """SIGTERM, as Ctrl-C is `KeyboardInterrupt`."""


class SteadyStream:
    """A stream for what only shows: once it cannot be written (closed, full, nobody reads), what is said goes nowhere.

    Args:
        stream: text stream to write to; characters that its encoding lacks are written as escapes.
    """

    def __init__(self, stream: Any):
        self._stream = stream
        self._is_broken = False
        with contextlib.suppress(AttributeError, ValueError, OSError):
            stream.reconfigure(errors="backslashreplace")

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        """As the stream's; never raises because of the stream."""
        self._try(lambda: self._stream.write(text))
        return len(text)

    def flush(self) -> None:
        """As the stream's; never raises because of the stream."""
        self._try(self._stream.flush)

    def _try(self, work: Callable[[], Any]) -> None:
        if self._is_broken:
            return
        try:
            work()
        except (OSError, ValueError):
            self._is_broken = True
            with contextlib.suppress(OSError, ValueError, AttributeError):
                # What the interpreter has buffered is flushed as it ends, and would end it with 120.
                nowhere = os.open(os.devnull, os.O_WRONLY)
                os.dup2(nowhere, self._stream.fileno())
                os.close(nowhere)


def run_command(work: Callable[[], Any]) -> int:
    """
    Run a command to its exit code.

    Args:
        work (`Callable`): what the command does.

    Returns:
        `int`: 0; 2 for an error of the user's, 130 for Ctrl-C, 143 for SIGTERM, each with one line on stderr.
    """
    # transformers imports bitsandbytes wherever peft is installed, and that misses a kernel for bases in 4 bits.
    logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)
    with steady_output(), terminable():
        try:
            work()
        except MutualKDError as error:
            return _say(f"error: {error}", USER_ERROR)
        except Terminated as stop:
            return _say(" ".join(["terminated", *map(str, stop.args)]), TERMINATED)
        except KeyboardInterrupt as stop:
            return _say(" ".join(["interrupted", *map(str, stop.args)]), INTERRUPTED)
    return 0


def _say(text: str, code: int) -> int:
    if os.environ.get("RANK", "0") != "0":
        time.sleep(PAUSE_S)
    print(text, file=sys.stderr, flush=True)
    return code


@contextlib.contextmanager
def first_import(module: str) -> Iterator[None]:
    """
    Within the block a module is imported that brings in many others; when it is there already, nothing is done.

    The collector of cycles would go through a million objects of these modules again and again, while they are made
    and for the rest of the process. They stay, so that it waits, and then leaves them out (`gc.freeze`).
    """
    if module in sys.modules or not gc.isenabled():
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        # Libraries in C++ take what is left out as the process ends for leaks, and say so.
        atexit.register(gc.unfreeze)
        gc.enable()


@contextlib.contextmanager
def steady_output() -> Iterator[None]:
    """Within the block nothing that is written to stdout or stderr raises because it cannot be written."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            # Else the next file that is opened gets this number, and what is printed.
            os.open(os.devnull, os.O_RDWR)
    before = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = (SteadyStream(stream or open(os.devnull, "w")) for stream in before)  # noqa: SIM115
    try:
        yield
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        sys.stdout, sys.stderr = before


@contextlib.contextmanager
def terminable() -> Iterator[None]:
    """Within the block SIGTERM raises [`Terminated`], so that what is under way is cleaned up.

    Of several processes each ends at once, as others would wait for one that is inside a collective call.
    """
    alone = os.environ.get("WORLD_SIZE", "1") == "1"
    if not alone or threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(number: int, frame: Any) -> None:
        raise Terminated

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
