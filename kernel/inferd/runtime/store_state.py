"""Whether a store takes what is written: told to clients, to the log when that changes, and to who watches health."""

import time
from collections.abc import Callable

import structlog

from inferd.core.ids import ModelName
from inferd.errors import InferdError, StoreUnavailableError

RETRY_AFTER_S = 1.0
STORE = ModelName("\0store")  # under which changes are told; no name of a model

log = structlog.get_logger()


def _nobody(_: float) -> None:
    """Nobody asks."""


class StoreState:
    """How the last write to a store ended. One writer: the keeper.

    Args:
        name: Of the store, for people.
        changed: Called when it begins or ceases to take what is written.

    Attributes:
        name: As given.
        failures: Writes that failed since the kernel was started.
        took: Told how long each write took, in seconds.
    """

    def __init__(self, name: str, changed: Callable[[], None]) -> None:
        self.name = name
        self._changed = changed
        self.failures = 0
        self.took: Callable[[float], None] = _nobody
        self._failure: InferdError | None = None
        self._since = 0.0

    @property
    def writes(self) -> bool:
        """Whether the last write was done, or none was tried."""
        return self._failure is None

    def check(self) -> None:
        """Refuse what is to be kept.

        Raises:
            StoreUnavailableError: The last write failed, and none has been done since.
        """
        if self._failure is not None:
            raise StoreUnavailableError(
                self._failure.message, metadata=self._failure.metadata, retry_after_s=RETRY_AFTER_S
            )

    def failed(self, error: InferdError) -> None:
        """A write failed."""
        self.failures += 1
        before, self._failure = self._failure, error
        if before is None:
            self._since = time.monotonic()
            log.error("the store cannot be written; what is to be kept is refused until it can be", why=error.message)
            self._changed()

    def forget(self) -> None:
        """Nothing is left by which it would be seen that the cause is gone."""
        if self._failure is not None:
            self._failure = None
            self._changed()

    def written(self) -> None:
        """A write was done."""
        if self._failure is not None:
            away_s = round(time.monotonic() - self._since, 1)
            log.warning("the store is written again", store=self.name, away_s=away_s)
        self.forget()
