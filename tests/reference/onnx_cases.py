"""`make onnx-cases`: the test cases of the `onnx` package, for every operator, and its models on disk, computed here.

Each case is a model, inputs and the outputs that the standard expects. What comes of one is

    passed     the outputs are those that are expected
    refused    the runtime does not load the model, here as without us
    no tensor  an input or output is a sequence or a map, which cannot be sent
    differs    the runtime's own outputs are not those that are expected, bit by bit the same here as without us
    failed     anything else
"""

import ctypes
import importlib
import sys
import tempfile
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnx
import onnx_models as models
import onnxruntime as ort
from onnx.backend.test.loader import load_model_tests

from inferd.plugin import ElementType, LoadError, Tensor, UnsupportedModelError
from inferd.plugin.tensor import BITS, NUMPY

DATA = Path(onnx.__file__).parent / "backend" / "test" / "data"
KINDS = ("simple", "pytorch-converted", "pytorch-operator", "real")
MODULES = "onnx.backend.test.case.node"
TYPES: Mapping[str, ElementType] = {  # by numpy's names, where they are not ours in small letters
    "float32": ElementType.FLOAT,
    "float64": ElementType.DOUBLE,
    "object": ElementType.STRING,
    "float4_e2m1fn": ElementType.FLOAT4E2M1,
    "float8_e4m3fn": ElementType.FLOAT8E4M3FN,
    "float8_e4m3fnuz": ElementType.FLOAT8E4M3FNUZ,
    "float8_e5m2": ElementType.FLOAT8E5M2,
    "float8_e5m2fnuz": ElementType.FLOAT8E5M2FNUZ,
    "float8_e8m0fnu": ElementType.FLOAT8E8M0,
}
TOLERANCE, NEARLY = 1e-3, 1e-7  # those of the package
BFLOAT16_TOLERANCE = 2**-6  # as the package has it
BYTE_BITS = 8
Facts = tuple[int, tuple[int, ...], bytes]


class DifferentError(AssertionError):
    """Outputs are not what they must be."""


@dataclass(frozen=True, slots=True)
class Case:
    """A model and sets of inputs and expected outputs, in the order of its signature; None is an input left out."""

    name: str
    model: onnx.ModelProto
    sets: Sequence[tuple[Sequence[Any], Sequence[Any]]]


class Outcome(NamedTuple):
    """What came of a case, and why."""

    kind: str
    why: str = ""


def node_cases(names: Iterable[str] = ()) -> list[Case]:
    """The cases of all operators; or of the modules of these names, which takes less time."""
    package = importlib.import_module(MODULES)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # making some of them divides by zero
        if names:
            for name in names:
                importlib.import_module(f"{MODULES}.{name}")
            made = package._NodeTestCases  # where importing a module leaves them
        else:
            made = package.collect_testcases(None)
    return [Case(each.name, each.model, each.data_sets) for each in made]


def disk_cases() -> Iterator[Case]:
    """The models that the package has as files; those of real networks have a made-up input."""
    for kind in KINDS:
        for each in sorted(load_model_tests(kind=kind), key=lambda case: case.name):
            if each.url is not None:
                path = DATA / "light" / Path(each.url).name
                model = onnx.load(path)
                yield Case(
                    each.name, model, [(made_up(model), [load_value(path.with_name(f"{path.stem}_output_0.pb"))])]
                )
                continue
            folder = Path(each.model_dir)
            model = onnx.load(folder / "model.onnx")
            sets = sorted(path for path in folder.iterdir() if path.is_dir())
            yield Case(each.name, model, [(load_set(path, "input"), load_set(path, "output")) for path in sets])


def made_up(model: onnx.ModelProto) -> list[np.ndarray]:
    """Numbers that rise from 0 to 1, as the package takes them."""
    weights = {each.name for each in model.graph.initializer}
    found = []
    for each in model.graph.input:
        if each.name not in weights:
            shape = [size.dim_value or 1 for size in each.type.tensor_type.shape.dim]
            count = int(np.prod(shape))
            found.append((np.arange(count).reshape(shape) / count).astype(np.float32))
    return found


def load_set(folder: Path, what: str) -> list[Any]:
    """The values of a folder, in their order."""
    count = len(list(folder.glob(f"{what}_*.pb")))
    return [load_value(folder / f"{what}_{index}.pb") for index in range(count)]


def load_value(path: Path) -> Any:
    """A tensor; a list where the file holds none."""
    tensor = onnx.TensorProto()
    try:
        tensor.ParseFromString(path.read_bytes())
        return onnx.numpy_helper.to_array(tensor)
    except Exception:  # noqa: BLE001 - a sequence is parsed as no tensor, in many ways
        return []


def to_tensor(given: Any) -> Tensor:
    """A value of a case as the interface has it."""
    array = onnx.numpy_helper.to_array(given) if isinstance(given, onnx.TensorProto) else np.asarray(given)
    if array.dtype.kind in "US":
        array = array.astype(object)
    kind = TYPES.get(array.dtype.name) or ElementType[array.dtype.name.upper()]
    if kind is ElementType.STRING:
        texts = [each.decode() if isinstance(each, bytes) else str(each) for each in array.flat]
        array = np.array(texts, dtype=object).reshape(array.shape)
    elif BITS[kind] < BYTE_BITS:
        each_bits = np.unpackbits(array.view(np.uint8).reshape(-1, 1), 1, BITS[kind], "little")
        packed = np.packbits(each_bits, bitorder="little")
        return Tensor(element_type=kind, shape=array.shape, array=packed)
    else:
        array = np.ascontiguousarray(array).reshape(array.shape).view(NUMPY.get(kind, "u1"))
    return Tensor(element_type=kind, shape=array.shape, array=array)


def compare(found: Tensor, expected: Any) -> None:
    """Check an output.

    Raises:
        DifferentError: It is not what is expected.
    """
    wanted = to_tensor(expected)
    if (found.element_type, found.shape) != (wanted.element_type, wanted.shape):
        raise DifferentError(f"{found.element_type.name} {found.shape} for {wanted.element_type.name} {wanted.shape}")
    one, other = (widened(tensor) for tensor in (found, wanted))
    tolerance = BFLOAT16_TOLERANCE if found.element_type is ElementType.BFLOAT16 else TOLERANCE
    if one.dtype.kind in "fc":
        same = np.allclose(one, other, rtol=tolerance, atol=NEARLY, equal_nan=True)
    else:
        same = np.array_equal(one, other)
    if not same:
        raise DifferentError(f"{one.ravel()[:4]} for {other.ravel()[:4]}")


def widened(tensor: Tensor) -> np.ndarray:
    """Numbers that can be compared: bfloat16 as float32; packed and small floats as their bits."""
    if tensor.element_type is ElementType.BFLOAT16:
        return (tensor.array.astype(np.uint32) << 16).view(np.float32)
    return tensor.array


def try_case(case: Case, folder: Path) -> Outcome:
    """Compute a case by a session of the backend."""
    if any(isinstance(value, list) for inputs, outputs in case.sets for value in (*inputs, *outputs)):
        return Outcome("no tensor")
    path = folder / "case.onnx"
    path.write_bytes(case.model.SerializeToString())
    try:
        session = models.load(path, max_batch="1").session
    except LoadError as error:
        if isinstance(error, UnsupportedModelError) and "only tensors can be sent" in str(error):
            return Outcome("no tensor")
        return Outcome("refused" if is_refused(path) else "failed", str(error))
    needed = [each.name for each in session.signature.inputs]
    names = [each.name for each in session.signature.outputs]
    for inputs, expected in case.sets:
        given = {name: to_tensor(value) for name, value in zip(needed, inputs, strict=False) if value is not None}
        try:
            found = session.predict(given, names)
        except Exception as error:  # noqa: BLE001 - an outcome
            return Outcome("refused" if bare(case, inputs) is None else "failed", str(error))
        try:
            for name, value in zip(names, expected, strict=True):
                compare(found[name], value)
        except DifferentError as failure:
            plain = bare(case, inputs)
            same = plain is not None and [facts(found[name]) for name in names] == plain
            return Outcome("differs" if same else "failed", str(failure))
    return Outcome("passed")


def facts(tensor: Tensor) -> Facts:
    """What must be the same bit by bit."""
    texts = tensor.element_type is ElementType.STRING
    data = b"".join(map(str.encode, tensor.array.flat)) if texts else tensor.array.tobytes()
    return int(tensor.element_type), tensor.shape, data


def is_refused(path: Path) -> bool:
    """Whether the runtime without us does not load a model."""
    try:
        ort.InferenceSession(path, quiet(), providers=["CPUExecutionProvider"])
    except Exception:  # noqa: BLE001 - of any kind
        return True
    return False


def bare(case: Case, inputs: Sequence[Any]) -> list[Facts] | None:
    """All outputs of the runtime without us, which reads inputs as weights itself; None if it fails."""
    model = onnx.ModelProto()
    model.CopyFrom(case.model)
    weights = {each.name for each in model.graph.initializer}
    open_inputs = [each for each in model.graph.input if each.name not in weights]
    for each, given in zip(open_inputs, inputs, strict=False):
        if given is not None:
            tensor = given if isinstance(given, onnx.TensorProto) else onnx.numpy_helper.from_array(np.asarray(given))
            model.graph.initializer.add().CopyFrom(tensor)
            model.graph.initializer[-1].name = each.name
    options = quiet()
    try:
        session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        names = [each.name for each in session.get_outputs()]
        return [
            (value.element_type(), tuple(value.shape()), raw(value)) for value in session.run_with_ort_values(names, {})
        ]
    except Exception:  # noqa: BLE001 - of any kind
        return None


def raw(value: Any) -> bytes:
    """The bytes of a value of the runtime, read without numpy where numpy has no such type."""
    if value.data_type() == "tensor(string)":
        return b"".join(map(str.encode, value.numpy().flat))
    return ctypes.string_at(value.data_ptr(), value.tensor_size_in_bytes()) if value.tensor_size_in_bytes() else b""


def quiet() -> ort.SessionOptions:
    """Options of the runtime, without its log."""
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    return options


def main() -> None:
    """All cases: a line for each that did not pass, and the counts."""
    failed = False
    with tempfile.TemporaryDirectory() as folder:
        for title, cases in (("operators", node_cases()), ("models", disk_cases())):
            counts: Counter[str] = Counter()
            for case in cases:
                kind, why = try_case(case, Path(folder))
                counts[kind] += 1
                if kind not in ("passed", "no tensor"):
                    sys.stdout.write(f"{kind:<8} {case.name}: {why[:160]}\n")
            told = ", ".join(
                f"{counts[kind]} {kind}" for kind in ("passed", "refused", "no tensor", "differs", "failed")
            )
            sys.stdout.write(f"{title}: {counts.total()} cases, {told}\n")
            failed = failed or bool(counts["failed"])
    sys.exit(failed)


if __name__ == "__main__":
    main()
