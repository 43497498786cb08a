"""What a program tells of one request, from whichever of its threads, until the engine has read it."""

from __future__ import annotations

import threading
from collections import deque
from typing import Any, Final

FINAL: Final = 1
MOST_WAITING: Final = 16
"""Responses of a request that the engine has not read yet: a program that sends one more waits."""
CLOSED: Final = "Unable to send response. Response sender has been closed."


class ReplyError(Exception):
    """A program has sent what it may not send."""


class Reply:
    """Responses to one request, in their order.

    Args:
        once: The model gives one for each request.
        model: Its name, for errors.

    Attributes:
        model: See there.
        sent: How many were sent.
    """

    def __init__(self, *, once: bool, model: str = "") -> None:
        self.model = model
        self.sent = 0
        self._once = once
        self._changed = threading.Condition()
        self._waiting: deque[Any] = deque()
        self._ended = False
        self._cancelled = False
        self._dropped = 0
        self._error: BaseException | None = None
        self._holders = 0

    def hold(self) -> None:
        """One more may send: the request, and the sender that it gave."""
        with self._changed:
            self._holders += 1

    def let_go(self) -> None:
        """One of them is gone: once all are, nothing more can come."""
        with self._changed:
            self._holders -= 1
            if not self._holders:
                self._ended = True
                self._changed.notify_all()

    def fail(self, error: BaseException) -> None:
        """The program has failed: that is told behind what it has sent."""
        with self._changed:
            self._error, self._ended = error, True
            self._changed.notify_all()

    def fail_if_open(self, error: BaseException) -> None:
        """As `fail`, of a request that has no end yet."""
        with self._changed:
            if not self._ended:
                self._error, self._ended = error, True
                self._changed.notify_all()

    @property
    def cancelled(self) -> bool:
        """Whether nobody waits for more."""
        return self._cancelled

    @property
    def begun(self) -> bool:
        """Whether anything was sent, the end as well."""
        return self._ended or self.sent > 0

    def send(self, response: Any, flags: int) -> None:
        """Send a response, the end, or both; waits while too many were not read.

        Raises:
            ReplyError: The request has had its end, may have no more of them, or nobody waited for the last ones.
        """
        final = bool(flags & FINAL)
        with self._changed:
            if self._ended:
                raise ReplyError(CLOSED)
            if response is None and not final:
                raise ReplyError("Inference Response object must be provided when the response flags is set to zero.")
            if self._once and response is not None and self.sent:
                raise ReplyError("Unable to send response. Non-decoupled model cannot send more than one response.")
            if self._once and response is None and not self.sent:
                raise ReplyError(
                    "Unable to send response. Non-decoupled model cannot send complete final before sending a response."
                )
            if response is not None:
                self._changed.wait_for(lambda: len(self._waiting) < MOST_WAITING or self._cancelled or self._ended)
                if self._ended:  # by another thread meanwhile, or the program has failed
                    raise ReplyError(CLOSED)
                if self._cancelled:
                    self._drop()
                else:
                    self._waiting.append(response)
                self.sent += 1
            self._ended = final
            self._changed.notify_all()

    def _drop(self) -> None:
        """Nobody waits for a response: a program that does not ask whether that is so is told by the error of some."""
        self._dropped += 1
        if self._dropped > MOST_WAITING:
            raise ReplyError("Unable to send response. The request was cancelled, and nobody waits for more.")

    def read(self, wait_s: float | None = None) -> Any | None:
        """The next response; None behind the last one, or when nobody waits for more.

        Raises:
            TimeoutError: There is none within `wait_s`, if that is given.
            BaseException: With which the program failed.
        """
        with self._changed:
            if not self._changed.wait_for(lambda: self._waiting or self._ended or self._cancelled, wait_s):
                raise TimeoutError
            if self._cancelled:
                return None
            if not self._waiting:
                error, self._error = self._error, None
                if error is not None:
                    raise error
                return None
            self._changed.notify_all()
            return self._waiting.popleft()

    def cancel(self) -> None:
        """Nobody waits for more: what is still sent is dropped."""
        with self._changed:
            self._cancelled = True
            self._waiting.clear()
            self._changed.notify_all()
