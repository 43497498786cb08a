"""What the configuration and models say of how new versions come to serve: read by who knows the words of the wire."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Mapping

    from inferd.core.canary import Canary
    from inferd.core.probe import Probe


class Terms(Protocol):
    """Reads it."""

    def written(self, given: Mapping[str, Any], name: str) -> str:
        """A probe of the configuration as the model of this name keeps it; "" for one without prompts.

        Raises:
            InvalidFieldError, LimitExceededError: It is none.
        """

    def probe(self, written: str, name: str) -> Probe | None:
        """A probe that the model of this name keeps; None for "".

        Raises:
            InvalidFieldError, LimitExceededError: It is more than one may be now.
        """

    def canary(self, given: Mapping[str, Any] | str) -> Canary | None:
        """By which steps new versions come, as the configuration says; None for nothing.

        Raises:
            InvalidFieldError, LimitExceededError: They are none.
        """
