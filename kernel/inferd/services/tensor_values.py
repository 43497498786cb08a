"""Tensors from the wire: held against their own shapes and types before anything of them is taken."""

from hashlib import sha256
from math import prod
from typing import Final

from inferd.errors import InvalidFieldError
from inferd.plugin.tensor import ElementType, size_bytes
from inferd_api.v1 import task_pb2 as tp
from inferd_api.v1 import tensor_pb2 as pb

AT: Final = "spec.infer"
_OTHERS: Final = {
    "sampling": "chooses tokens, and tensors have none",
    "embedding": "makes a vector of a text; ask for an output of the model instead",
}


def check_infer(spec: tp.TaskSpec) -> None:
    """Refuse a task of tensors that contradicts itself.

    Raises:
        InvalidFieldError: A tensor does not have what its type and shape say, two have one name, or the task has
            something that tasks of tensors do not have. The message has the path of the field and both numbers.
    """
    for name, why in _OTHERS.items():
        if spec.HasField(name):  # type: ignore[arg-type] # its names, as a list of texts
            raise InvalidFieldError(
                f"spec.{name} stands beside spec.infer; it {why}; leave it out", field=f"spec.{name}"
            )
    _check_names([tensor.name for tensor in spec.infer.inputs], "inputs")
    _check_names(spec.infer.outputs, "outputs")
    for number, tensor in enumerate(spec.infer.inputs):
        _check_tensor(tensor, f"{AT}.inputs[{number}]")


def digest_infer(given: pb.InferInput) -> tuple[bytes, int]:
    """Equal for the same inputs and wanted outputs, of whatever sequence; and how many bytes those have on the wire.

    Both at once: to count the bytes of a message, it is written as well.
    """
    digest, size_bytes = sha256(b"infer"), 0
    for part in (*given.inputs, pb.InferInput(outputs=sorted(given.outputs))):
        written = part.SerializeToString(deterministic=True)
        digest.update(len(written).to_bytes(8))
        digest.update(written)
        size_bytes += len(written)
    return digest.digest(), size_bytes


def _check_names(names: list[str] | object, field: str) -> None:
    seen = set()
    for number, name in enumerate(names):  # type: ignore[var-annotated, arg-type] # protobuf's lists
        path = f"{AT}.{field}[{number}]" + (".name" if field == "inputs" else "")
        if not name:
            raise InvalidFieldError(f"{path} is empty; it must be given", field=path)
        if name in seen:
            raise InvalidFieldError(f"{path} is {name[:80]!r} as one before it; name each once", field=path)
        seen.add(name)


def _check_tensor(tensor: pb.Tensor, path: str) -> None:
    try:
        element_type = ElementType(tensor.element_type)
    except ValueError:
        raise InvalidFieldError(
            f"{path}.element_type is {tensor.element_type}; it must be from 1 to {max(ElementType)}, see ElementType",
            field=f"{path}.element_type",
        ) from None
    if wrong := [size for size in tensor.shape if size < 0]:
        raise InvalidFieldError(f"{path}.shape has a size of {wrong[0]}; each must be 0 or more", field=f"{path}.shape")
    if element_type is ElementType.STRING:
        have, need, what, field = len(tensor.strings.values), prod(tensor.shape), "texts", "strings"
    else:
        have, need, what, field = len(tensor.data), size_bytes(element_type, tensor.shape), "bytes", "data"
    if tensor.WhichOneof("elements") not in (None, field):
        other = tensor.WhichOneof("elements")
        raise InvalidFieldError(
            f"{path}.{other} is given for type {element_type.name}, whose elements are in {field}",
            field=f"{path}.{other}",
        )
    if have != need:
        raise InvalidFieldError(
            f"{path}.{field} has {have} {what}; type {element_type.name} and shape {list(tensor.shape)} need {need}",
            field=f"{path}.{field}",
        )
