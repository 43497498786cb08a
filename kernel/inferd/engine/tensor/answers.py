"""What a request is told: its outputs, as far as they fit, or an error that says whose fault it is."""

from __future__ import annotations

import logging
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from inferd.engine.cause import last_line, placed_line
from inferd.engine.tensor.entry import told_bytes
from inferd.errors import BackendFailedError, InferdError, InvalidFieldError, LimitExceededError
from inferd.plugin import ElementType
from inferd.plugin.tensor import size_bytes

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from inferd.engine.tensor.request import Request, TensorLimits
    from inferd.plugin import Signature, Tensor

_log = logging.getLogger(__name__)


def check_size(outputs: Mapping[str, Tensor], limits: TensorLimits) -> None:
    """Refuse outputs that are together larger than they may be.

    Raises:
        LimitExceededError: They are.
        BackendFailedError: One has a text that is no Unicode.
    """
    sizes = {name: _told_bytes(name, tensor) for name, tensor in outputs.items()}
    texts = {name: size for name, size in sizes.items() if outputs[name].element_type is ElementType.STRING}
    for of, told, most, bound in (
        (sizes, "outputs", limits.output_bytes, "limits.output_bytes"),
        (texts, "texts of the outputs", limits.text_bytes, "limits.message_bytes"),
    ):
        if (total := sum(of.values())) > most:
            largest = max(of, key=lambda name: of[name])
            raise LimitExceededError(
                f"the {told} have {total} bytes, the largest, {largest!r}, {of[largest]}, and at most {most} are told "
                f"at once; ask for fewer outputs, or raise {bound} of the kernel",
                metadata={"bound": bound, "value": str(total), "limit": str(most)},
            )


def check_known_size(request: Request, wanted: Sequence[str], signature: Signature, limits: TensorLimits) -> None:
    """Refuse a request, before anything is computed, whose outputs are larger than they may be whatever it says.

    What counts is what the signature fixes: outputs all of whose sizes are numbers, the rows of a batch apart.

    Raises:
        LimitExceededError: They are.
    """
    rows = next((tensor.shape[0] for tensor in request.inputs.values() if tensor.shape), 0)
    sizes: dict[str, int] = {}
    for info in signature.outputs:
        if info.name not in wanted or info.shape is None or info.element_type is ElementType.STRING:
            continue
        shape = info.shape
        if signature.most_batch > 1 and shape and isinstance(shape[0], str):
            shape = (rows, *shape[1:])
        numbers = [size for size in shape if isinstance(size, int)]
        if len(numbers) == len(shape):
            sizes[info.name] = size_bytes(info.element_type, numbers)
    if (total := sum(sizes.values())) > limits.output_bytes:
        largest = max(sizes, key=lambda name: sizes[name])
        raise LimitExceededError(
            f"the outputs will have {total} bytes, the largest, {largest!r}, {sizes[largest]}, and at most"
            f" {limits.output_bytes} are told at once; ask for fewer outputs or rows, or raise limits.output_bytes of"
            " the kernel",
            metadata={"bound": "limits.output_bytes", "value": str(total), "limit": str(limits.output_bytes)},
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
