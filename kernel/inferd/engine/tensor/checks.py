"""Requests held against the signature of their model, and what sessions give against the interface."""

from __future__ import annotations

from collections.abc import Mapping
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np

from inferd.errors import InvalidFieldError, suggestion
from inferd.plugin.tensor import BITS, NUMPY, ElementType, Tensor, size_bytes

if TYPE_CHECKING:
    from collections.abc import Container, Iterable, Sequence

    from inferd.plugin import Signature, TensorInfo

AT = "spec.infer.inputs"


def check_inputs(inputs: Mapping[str, Tensor], signature: Signature, *, carried: frozenset[str]) -> None:
    """Refuse inputs that a model does not take.

    Args:
        inputs: By name.
        signature: Of the model.
        carried: Inputs that are states of the request's sequence: the engine gives them.

    Raises:
        InvalidFieldError: One is not known, or missing, or of another type or shape; the message names both.
    """
    known = {info.name: info for info in signature.inputs}
    sizes: dict[str, tuple[int, str]] = {}  # of named dimensions, and of which input
    for place, (name, tensor) in enumerate(inputs.items()):
        path = f"{AT}[{place}]"
        if name in carried:
            raise InvalidFieldError(f"input {name!r} is carried by the sequence; leave it out", field=f"{path}.name")
        if name not in known:
            raise InvalidFieldError(unknown("input", name, known), field=f"{path}.name")
        _check_input(tensor, known[name], path, sizes)
    for info in signature.inputs:
        if not info.optional and info.name not in inputs and info.name not in carried:
            raise InvalidFieldError(f"input {info.name!r} is missing; the model takes {_told(info)} there", field=AT)
    if signature.most_batch > 1:
        _check_rows(inputs)


def choose_outputs(wanted: Sequence[str], signature: Signature, *, carried: frozenset[str]) -> tuple[str, ...]:
    """The names of the outputs of a request: those that it wants, by default all that are not `carried`.

    Raises:
        InvalidFieldError: The model has no such output.
    """
    known = [info.name for info in signature.outputs]
    for place, name in enumerate(wanted):
        if name not in known:
            raise InvalidFieldError(unknown("output", name, known), field=f"spec.infer.outputs[{place}]")
    return tuple(wanted) or tuple(name for name in known if name not in carried)


def unknown(what: str, name: str, known: Iterable[str]) -> str:
    """That a model has no input or output of a name, and which it has."""
    names = list(known)
    near = suggestion(name, names)
    hint = f"; did you mean {near!r}?" if near else "."
    shown = ", ".join(names[:20]) + (", …" if len(names) > 20 else "")  # noqa: PLR2004 - a line of them
    return f"the model has no {what} {name[:80]!r}{hint} It has: {shown or 'none'}"


def check_outputs(
    given: Any,
    wanted: Sequence[str],
    rows: int | None,
    *,
    signature: Signature,
    state_rows: int | None = None,
    states: Container[str] = (),
) -> dict[str, Tensor]:
    """What `TensorSession.predict` gave, by the names that were wanted.

    Args:
        given: That.
        wanted: The names.
        rows: The first dimension that each must have; None for any.
        signature: Of the model: clients read what they get by it.
        state_rows: The same for those among `states`.
        states: Outputs that a sequence carries on.

    Raises:
        TypeError: It is not what it must be: no defect of the inputs, whatever else a ValueError says.
    """
    outputs = {}
    known = {info.name: info for info in signature.outputs}
    for name in wanted:
        tensor = given.get(name) if isinstance(given, Mapping) else given
        if not isinstance(tensor, Tensor) or not isinstance(tensor.array, np.ndarray):
            raise TypeError(
                f"TensorSession.predict gave {type(tensor).__name__} as output {name!r}; it must be a Tensor"
            )
        must = state_rows if name in states else rows
        if must is not None and tensor.shape[:1] != (must,):
            raise TypeError(
                f"TensorSession.predict gave output {name!r} of shape {list(tensor.shape)} for {must} rows; "
                "its first dimension must be the rows, or Signature.most_batch 1"
            )
        outputs[name] = _checked(name, tensor)
        _check_told(outputs[name], known[name])
    return outputs


def _check_told(tensor: Tensor, info: TensorInfo) -> None:
    """That an output is what the signature says; sizes are left to the model, as graphs often say wrong ones."""
    if tensor.element_type is not info.element_type:
        gave, has = tensor.element_type.name, _told(info)
    elif info.shape is not None and len(tensor.shape) != len(info.shape):
        gave, has = f"{len(tensor.shape)} dimensions, {list(tensor.shape)},", _told(info)
    else:
        return
    raise TypeError(f"TensorSession.predict gave {gave} as output {info.name!r}; its Signature has {has} there")


def _checked(name: str, tensor: Tensor) -> Tensor:
    kind, array = tensor.element_type, tensor.array
    expected = np.dtype(NUMPY.get(kind, "u1"))
    if array.dtype != expected:
        raise TypeError(
            f"TensorSession.predict gave {array.dtype} for output {name!r} of {kind.name}; it must be {expected}"
        )
    packed = kind in BITS and BITS[kind] < 8  # noqa: PLR2004 - bits of a byte
    shape = (size_bytes(kind, tensor.shape),) if packed else tuple(tensor.shape)
    if array.shape != shape:
        raise TypeError(
            f"TensorSession.predict gave an array of {array.shape} for output {name!r}; its shape says {shape}"
        )
    return tensor


def _check_input(tensor: Tensor, info: TensorInfo, path: str, sizes: dict[str, tuple[int, str]]) -> None:
    if tensor.element_type is not info.element_type:
        raise InvalidFieldError(
            f"input {info.name!r} is {tensor.element_type.name}; the model takes {_told(info)}",
            field=f"{path}.element_type",
        )
    if info.shape is None:
        return
    if len(tensor.shape) != len(info.shape):
        raise InvalidFieldError(
            f"input {info.name!r} has {len(tensor.shape)} dimensions, {list(tensor.shape)}; the model takes"
            f" {_told(info)}",
            field=f"{path}.shape",
        )
    for place, (size, wanted) in enumerate(zip(tensor.shape, info.shape, strict=True)):
        if isinstance(wanted, int) and size != wanted:
            raise InvalidFieldError(
                f"input {info.name!r} has size {size} in dimension {place}; the model takes {_told(info)}",
                field=f"{path}.shape",
            )
        if isinstance(wanted, str) and wanted:
            other, whose = sizes.setdefault(wanted, (size, info.name))
            if other != size:
                raise InvalidFieldError(
                    f"input {info.name!r} has {wanted} {size} and input {whose!r} has {other}; they must be equal",
                    field=f"{path}.shape",
                )


def _check_rows(inputs: Mapping[str, Tensor]) -> None:
    rows: int | None = None
    for place, (name, tensor) in enumerate(inputs.items()):
        have = tensor.shape[0] if tensor.shape else None
        if have is None or (rows is not None and have != rows):
            raise InvalidFieldError(
                f"input {name!r} has {'no rows' if have is None else f'{have} rows'}"
                f"{'' if rows is None else f' and another {rows}'}; the first dimension of all is the batch",
                field=f"{AT}[{place}].shape",
            )
        rows = have


def _told(info: TensorInfo) -> str:
    if info.shape is None:
        return f"{info.element_type.name} of any shape"
    sizes = ", ".join(str(size) or "?" for size in info.shape)
    return f"{info.element_type.name} of shape [{sizes}]"


def zeros_bytes(kind: ElementType, shape: tuple[int, ...]) -> int:
    """What `zeros` takes."""
    return prod(shape) * np.dtype(object).itemsize if kind is ElementType.STRING else size_bytes(kind, shape)


def zeros(kind: ElementType, shape: tuple[int, ...]) -> Tensor:
    """A tensor of zeros, or of empty texts."""
    if kind is ElementType.STRING:
        return Tensor(element_type=kind, shape=shape, array=np.full(shape, "", object))
    flat = BITS[kind] < 8  # noqa: PLR2004 - bits of a byte
    return Tensor(
        element_type=kind,
        shape=shape,
        array=np.zeros((size_bytes(kind, shape),) if flat else shape, NUMPY.get(kind, "u1")),
    )
