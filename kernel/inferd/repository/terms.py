"""What a configuration says of requests: it is obeyed where they come in, whatever computes them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from inferd.errors import InvalidFieldError
from inferd_api.inference import model_config_pb2 as cp

if TYPE_CHECKING:
    from collections.abc import Sequence

Kinds = cp.ModelSequenceBatching.Control
WHOLE: Final = (cp.TYPE_INT32, cp.TYPE_UINT32, cp.TYPE_INT64, cp.TYPE_UINT64)
IDS: Final = (*WHOLE, cp.TYPE_STRING)
"""What the input may consist of that is told which sequence a request is of."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Control:
    """An input that tells a model of a request's place in its sequence; no client gives it.

    Attributes:
        name: Of the input.
        kind: What it tells, a number of `ModelSequenceBatching.Control.Kind`.
        data_type: What it consists of, a number of `DataType`.
        no: How it says no; of no use where it tells an id.
        yes: How it says yes.
    """

    name: str
    kind: int
    data_type: int
    no: float = 0
    yes: float = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """What holds of the requests to a model.

    Attributes:
        config: The configuration, as a message.
        platform: What clients are told that it is.
        backend: What clients are told that loads it.
        rows: Most rows of a request; 0 where it has none.
        sequences: Each request is one of a sequence.
        controls: What the model is told of that.
        default_priority: Of requests that name none, or one beyond `priorities`; 0 for the usual one.
        priorities: How many there are; 0 where they are not counted.
        names_tensors: The configuration names inputs, outputs, controls or states, as the model must have them.
    """

    config: bytes
    platform: str
    backend: str
    rows: int = 0
    sequences: bool = False
    controls: tuple[Control, ...] = ()
    default_priority: int = 0
    priorities: int = 0
    names_tensors: bool = False


def terms_of(config: cp.ModelConfig, *, platform: str, backend: str) -> Terms:
    """What a configuration says of requests.

    Raises:
        InvalidFieldError: It contradicts itself.
    """
    if config.max_batch_size < 0:
        raise InvalidFieldError(
            f"max_batch_size is {config.max_batch_size}; it must be 0 or more", field="config.max_batch_size"
        )
    dynamic, sequence = config.dynamic_batching, config.sequence_batching
    if dynamic.default_priority_level > dynamic.priority_levels:
        raise InvalidFieldError(
            f"default_priority_level is {dynamic.default_priority_level} and priority_levels is"
            f" {dynamic.priority_levels}; the first must be at most the second",
            field="config.dynamic_batching.default_priority_level",
        )
    return Terms(
        config=config.SerializeToString(deterministic=True),
        platform=platform,
        backend=backend,
        rows=config.max_batch_size,
        sequences=config.HasField("sequence_batching"),
        controls=tuple(_controls(sequence.control_input)),
        default_priority=dynamic.default_priority_level,
        priorities=dynamic.priority_levels,
        names_tensors=any((config.input, config.output, sequence.control_input, sequence.state)),
    )


def _controls(inputs: Sequence[cp.ModelSequenceBatching.ControlInput]) -> list[Control]:
    found = list[Control]()
    for place, each in enumerate(inputs):
        where = f"config.sequence_batching.control_input[{place}]"
        if not each.name or len(each.control) != 1:
            raise InvalidFieldError(
                f"{where} has {len(each.control)} controls; it must have a name and one", field=where
            )
        if any(other.name == each.name or other.kind == each.control[0].kind for other in found):
            raise InvalidFieldError(f"{where} has a name or a kind that one before it has", field=where)
        if each.control[0].kind not in Kinds.Kind.values():
            raise InvalidFieldError(f"{where} is of no kind that there is: {each.control[0].kind}", field=where)
        found.append(_control(each.name, each.control[0], where))
    return found


def _control(name: str, said: cp.ModelSequenceBatching.Control, where: str) -> Control:
    values: dict[int, Sequence[float]] = {
        cp.TYPE_INT32: list(said.int32_false_true),
        cp.TYPE_FP32: list(said.fp32_false_true),
        cp.TYPE_BOOL: list(said.bool_false_true),
    }
    given = [(kind, pair) for kind, pair in values.items() if pair]
    if said.kind == Kinds.CONTROL_SEQUENCE_CORRID:
        if given or said.data_type not in IDS:
            raise InvalidFieldError(
                f"{where} tells the id of a sequence: it must have a data_type that is a whole number of 32 or 64 bits"
                " or TYPE_STRING, and no values",
                field=where,
            )
        return Control(name=name, kind=said.kind, data_type=said.data_type)
    if len(given) != 1 or len(given[0][1]) != 2:  # noqa: PLR2004 - no and yes
        raise InvalidFieldError(
            f"{where} must have two values, for no and yes, in one of int32_false_true, fp32_false_true and"
            " bool_false_true",
            field=where,
        )
    kind, (no, yes) = given[0]
    return Control(name=name, kind=said.kind, data_type=kind, no=no, yes=yes)
