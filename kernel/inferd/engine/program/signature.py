"""What a configuration says that a program takes and gives, as the engine has it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from inferd.engine.program.types import KINDS
from inferd.plugin import LoadError, Signature, TensorInfo

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

BATCH: Final = "batch"
AT_ONCE: Final = 16
"""Requests of a decoupled program that are answered at once: its threads tell each as it comes."""
VALUES: Final = {"int32_false_true": "TYPE_INT32", "fp32_false_true": "TYPE_FP32", "bool_false_true": "TYPE_BOOL"}


def signature_of(config: Mapping[str, Any]) -> Signature:
    """What a program takes and gives.

    Args:
        config: Its configuration, completed.

    Raises:
        LoadError: That lacks inputs or outputs, or has a type that no program is given.
    """
    batches = config.get("max_batch_size", 0) > 0
    inputs = [_info(each, batches=batches) for each in config.get("input", ())]
    outputs = [_info(each, batches=batches) for each in config.get("output", ())]
    inputs += _controls(config.get("sequence_batching", {}).get("control_input", ()), batches=batches)
    for what, found in (("input", inputs), ("output", outputs)):
        if not found:
            raise LoadError(
                f"the configuration of the program has no {what}: name them in config.pbtxt, or in auto_complete_config"
                " of model.py"
            )
    return Signature(inputs=tuple(inputs), outputs=tuple(outputs), threads=AT_ONCE if decoupled(config) else 1)


def decoupled(config: Mapping[str, Any]) -> bool:
    """Whether the program gives several responses for a request."""
    return bool(config.get("model_transaction_policy", {}).get("decoupled"))


def _info(said: Mapping[str, Any], *, batches: bool) -> TensorInfo:
    name, shape = said["name"], [int(size) for size in said.get("dims", ())]
    kind = KINDS.get(said["data_type"])
    if kind is None:
        raise LoadError(f"tensor {name!r} is {said['data_type']}; a model.py is given {', '.join(KINDS)}")
    sizes: list[int | str] = [BATCH] if batches else []
    sizes += [size if size >= 0 else "" for size in shape]
    return TensorInfo(
        name=name, element_type=kind.element_type, shape=tuple(sizes), optional=bool(said.get("optional"))
    )


def _controls(given: Sequence[Mapping[str, Any]], *, batches: bool) -> list[TensorInfo]:
    """The inputs that tell of a request's place in its sequence."""
    found = []
    for each in given:
        (control,) = each["control"]
        said = next((kind for field, kind in VALUES.items() if control.get(field)), control.get("data_type", ""))
        found.append(_info({"name": each["name"], "data_type": said, "dims": [1]}, batches=batches))
    return found
