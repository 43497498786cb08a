"""What a request is told: its outputs, as far as they fit, or an error that says whose fault it is."""

from __future__ import annotations

import logging
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from inferd.engine.cause import last_line, placed_line
from inferd.engine.tensor.entry import told_bytes
from inferd.errors import BackendFailedError, InferdError, InvalidFieldError, LimitExceededError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from inferd.plugin import Tensor

_log = logging.getLogger(__name__)


def check_size(outputs: Mapping[str, Tensor], most: int) -> None:
    """Refuse outputs that are together larger than `most` bytes.

    Raises:
        LimitExceededError: They are.
        BackendFailedError: One has a text that is no Unicode.
    """
    sizes = {name: _told_bytes(name, tensor) for name, tensor in outputs.items()}
    total = sum(sizes.values())
    if total > most:
        largest = max(sizes, key=lambda name: sizes[name])
        raise LimitExceededError(
            f"the outputs have {total} bytes, the largest, {largest!r}, {sizes[largest]}, and at most {most} are"
            " told of a task at once; ask for fewer outputs, or raise limits.message_bytes and limits.stream_bytes of"
            " the kernel",
            metadata={"bound": "limits.message_bytes", "value": str(total), "limit": str(most)},
        )


def typed(error: BaseException, session: Any) -> InferdError:
    """What a request is told of an error; one that is not ours is written to the log, too."""
    if isinstance(error, InferdError):
        return error
    _log.error("the backend failed with one request", exc_info=error)
    cause = placed_line(error, session)
    return BackendFailedError(f"the backend failed in a step: {cause}", metadata={"cause": cause})


@contextmanager
def refusals() -> Iterator[None]:
    """A ValueError that a session raises is the client's fault; not that of texts which it cannot read or write."""
    try:
        yield
    except UnicodeError:
        raise
    except ValueError as error:
        message = f"the model does not take these inputs: {error}"
        raise InvalidFieldError(message, field="spec.infer.inputs") from error


def _told_bytes(name: str, tensor: Tensor) -> int:
    try:
        return told_bytes(tensor)
    except UnicodeError as error:
        cause = f"output {name!r} has a text that is no Unicode: {last_line(error)}"
        raise BackendFailedError(f"the backend failed in a step: {cause}", metadata={"cause": cause}) from None
