"""Calls to the Hub that come to an end: repeated where that helps, bounded in time, explained where they fail.

`huggingface_hub` repeats uploads and lists itself, but creating, committing and collections never, and it waits
without limit for a server that goes silent (its HTTP client has no timeouts).
"""

from __future__ import annotations

import json
import math
import random
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, wait
from dataclasses import dataclass
from typing import TypeVar

from huggingface_hub import HfApi
from huggingface_hub.errors import HfHubHTTPError, LocalTokenNotFoundError, OfflineModeIsEnabled

from ..config.rules import check_numbers
from ..errors import HubError, chain_of

T = TypeVar("T")

# Base of all transport errors of the HTTP library that the client uses (httpx, or httpx2 since huggingface_hub 2).
HTTPError: type[Exception] = HfHubHTTPError.__mro__[1]
FAILURES = (HTTPError, RuntimeError, ValueError, OSError)
"""What the client raises: HTTP and transport errors, a failed upload, a refused card or name, no connection."""

PASSING = frozenset({408, 412, 429, 500, 502, 503, 504})
"""Answers that may be others next time; 412 says that somebody else committed in between."""

ADVICE = {
    401: "the Hub does not accept your token, or there is none; log in with `hf auth login` or set HF_TOKEN",
    402: "the account's plan does not allow it",
    403: "your token may not write there; take one with write permission (`hf auth login`), or another namespace",
    404: "it does not exist, or your token may not see it; check the name and `hf auth whoami`",
    409: "the name is taken, or something else is changing it; try again, or choose another name_template",
    412: "somebody else commits to it at the same time; try again",
    413: "a file is too large for the server",
    429: "the Hub asks to slow down; try again later",
}
LONGEST = 300
"""Characters of a server's words in a message; a refused licence comes with the list of all others."""

_JITTER = random.Random()  # Of its own: the run's random numbers stay as they are.


class Stalled(TimeoutError):
    """The server gave no answer in the time that was set."""


@dataclass(frozen=True)
class Patience:
    """How long and how often the Hub is tried.

    Args:
        attempts (`int`, *optional*, defaults to 5): of one call, the first included.
        first_wait_s (`float`, *optional*, defaults to 1.0): seconds before the second attempt; doubles each time.
        longest_wait_s (`float`, *optional*, defaults to 60.0): bound of one wait, also where `Retry-After` says more.
        call_s (`float`, *optional*, defaults to 60.0): seconds for one small call.
        slowest_upload (`float`, *optional*, defaults to 200_000): bytes per second below which an upload has stalled.
        deadline_s (`float`, *optional*): seconds for all that the Hub is asked, not for what is read and built here;
            ten minutes and the time of the slowest upload when unset, `math.inf` for no bound.

    Example:

    ```python
    >>> Patience().upload_s(1_000_000_000)
    5060.0
    ```
    """

    attempts: int = 5
    first_wait_s: float = 1.0
    longest_wait_s: float = 60.0
    call_s: float = 60.0
    slowest_upload: float = 200_000
    deadline_s: float | None = None

    def __post_init__(self):
        check_numbers(**{name: value for name, value in vars(self).items() if value != math.inf})

    def upload_s(self, size: int) -> float:
        """Seconds after which the transfer of `size` bytes counts as stalled."""
        return self.call_s + size / self.slowest_upload


class HubCalls:
    """The client's API with patience; one object per push, as its deadline starts when it is made.

    Args:
        token (`str`, *optional*): the one the user is logged in with when unset.
        endpoint (`str`, *optional*): `HF_ENDPOINT`, or the public Hub, when unset.
        patience ([`Patience`], *optional*): bounds of time.
        size (`int`, *optional*, defaults to 0): bytes to transfer in all.
    """

    def __init__(
        self,
        token: str | None = None,
        endpoint: str | None = None,
        patience: Patience | None = None,
        size: int = 0,
    ):
        self.api = HfApi(endpoint=endpoint, token=token)
        self.patience = patience or Patience()
        deadline = self.patience.deadline_s
        self._ends = time.monotonic() + (600 + self.patience.upload_s(size) if deadline is None else deadline)

    def call(self, what: str, function: Callable[[], T], size: int = 0) -> T:
        """The result of `function()`, which is repeated on passing faults and so must bear repetition.

        Args:
            what (`str`): what is being done and where, the start of a message.
            function (callable): the call.
            size (`int`, *optional*, defaults to 0): bytes that it transfers.

        Raises:
            [`HubError`]: it failed for good, or the time is over.
        """
        attempt = 0
        while True:
            attempt += 1
            seconds = min(self.patience.upload_s(size), self.left)
            try:
                return bounded(function, seconds)
            except HubError:
                raise
            except FAILURES as error:
                pause = self._pause(error, attempt)
                if pause is not None:
                    time.sleep(pause)
                elif attempt < self.patience.attempts and is_passing(error) and self.patience.deadline_s is not None:
                    given = f"the deadline of {self.patience.deadline_s:g} s that was given is over"
                    raise HubError(f"{what} failed: {given}; give it more time, or none") from error
                else:
                    raise as_hub_error(what, error, attempt) from error

    def allow(self, size: int) -> None:
        """Put the deadline off by the time that `size` more bytes may take, unless it was set."""
        if self.patience.deadline_s is None:
            self._ends += self.patience.upload_s(size)

    @property
    def left(self) -> float:
        """Seconds until the deadline."""
        return self._ends - time.monotonic()

    def _pause(self, error: Exception, attempt: int) -> float | None:
        """Seconds until the next attempt, `None` where there is none."""
        if attempt >= self.patience.attempts or not is_passing(error):
            return None
        pause = self.patience.first_wait_s * 2 ** (attempt - 1) * _JITTER.uniform(0.5, 1.0)
        pause = min(max(pause, asked_pause(error)), self.patience.longest_wait_s)
        return pause if pause < self.left else None


def bounded(function: Callable[[], T], seconds: float) -> T:
    """The result of `function()` within `seconds`. A call that has stalled is left behind in a daemon thread.

    Raises:
        [`Stalled`]: the time is over. Whatever `function` itself raises passes through.
    """
    outcome: Future[T] = Future()

    def work() -> None:
        try:
            outcome.set_result(function())
        except BaseException as error:  # Carried to the caller, whatever it is.
            outcome.set_exception(error)

    threading.Thread(target=work, daemon=True, name="hub-call").start()
    wait([outcome], timeout=max(seconds, 0.0))
    if not outcome.done():
        raise Stalled(f"no answer within {max(seconds, 0.0):.3g} s")
    return outcome.result()


def status_of(error: BaseException) -> int | None:
    """The HTTP status behind an exception."""
    answers = [part.response.status_code for part in chain_of(error) if isinstance(part, HfHubHTTPError)]
    return answers[0] if answers else None


def is_passing(error: BaseException) -> bool:
    """Whether the same call may succeed later: lost connections, silence, busy or broken servers."""
    status = status_of(error)
    if status is not None:
        return status in PASSING
    parts = chain_of(error)
    if any(isinstance(part, OfflineModeIsEnabled) for part in parts):
        return False
    # A gateway's error page in place of JSON is a fault of the moment, too.
    return any(isinstance(part, HTTPError | ConnectionError | TimeoutError | json.JSONDecodeError) for part in parts)


def asked_pause(error: BaseException) -> float:
    """Seconds that the server asks for in `Retry-After`; 0 where it does not, or gives a date."""
    for part in chain_of(error):
        if isinstance(part, HfHubHTTPError):
            asked = part.response.headers.get("Retry-After", "")
            return float(asked) if asked.strip().isdecimal() else 0.0
    return 0.0


def as_hub_error(what: str, error: BaseException, attempts: int = 1) -> HubError:
    """One message for a failed call: what was done, what the server said, the way out."""
    tried = f" after {attempts} attempts" if attempts > 1 else ""
    if isinstance(error, ValueError) and not isinstance(error, HTTPError | json.JSONDecodeError):
        # A card or a name; the client raises it also where the server's answer was behind it.
        told = [line.strip() for line in str(error).splitlines() if line.strip()]
        return HubError(f"{what} is refused: {' '.join(told)[:LONGEST]}")
    status = status_of(error)
    if status is not None:
        answer = next(part for part in chain_of(error) if isinstance(part, HfHubHTTPError))
        told = (answer.server_message or "").strip().splitlines()
        detail = f"{status}: {told[0][:LONGEST]}" if told else str(status)
        advice = ADVICE.get(status, "the Hub has trouble; try again later" if status >= 500 else "")
        return HubError(f"{what} failed{tried} ({detail})" + (f"; {advice}" if advice else ""))
    parts = chain_of(error)
    if any(isinstance(part, OfflineModeIsEnabled) for part in parts):
        return HubError(f"{what} failed: offline mode is on; unset HF_HUB_OFFLINE")
    if any(isinstance(part, LocalTokenNotFoundError) for part in parts):
        return HubError(f"{what} failed: {ADVICE[401]}")
    if isinstance(error, Stalled):
        return HubError(f"{what} failed{tried}: {error}; check the connection and try again")
    if is_passing(error):
        lost = next(part for part in parts if isinstance(part, HTTPError | ConnectionError | ValueError | OSError))
        return HubError(f"{what} failed{tried}: the connection broke ({type(lost).__name__}); try again")
    return HubError(f"{what} failed: {' '.join(str(error).split())[:LONGEST] or type(error).__name__}")
