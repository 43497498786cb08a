"""What a model's file says, read without the runtime and before anything of it is in memory.

Source: onnx/onnx.proto (IR version 13), whose field numbers are the constants here. ONNX Runtime looks at external data
as well; here it is refused before the runtime opens a file.
"""

import mmap
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from inferd.plugin import ElementType, LoadError
from inferd.plugin.tensor import BITS
from inferd_onnx.external import check_external
from inferd_onnx.wire import Field, read_contents, read_fields, read_numbers, read_text, signed

MAX_DEPTH = 32  # of graphs in attributes of nodes in graphs; protobuf itself reads 100 messages in each other
MAX_DIMS = 64
MAX_MESSAGES = 500_000  # nodes, their attributes, weights and what is in them: some ten times those of large models
MAX_PLACES = 32  # what is said of one weight's place; known are five
OWN_FILE = "model.onnx"  # of a folder, or of one of this name in it
INNER = "onnx"
ENCODER_FILE = "encoder_model.onnx"  # of a folder with a decoder beside it
MODEL_GRAPH, MODEL_TRAINING, MODEL_FUNCTION, MODEL_IR = 7, 20, 25, 1
TRAINING_GRAPHS = (1, 2)
GRAPH_NODE, GRAPH_NAME, GRAPH_TENSOR, GRAPH_INPUT, GRAPH_OUTPUT, GRAPH_SPARSE = 1, 2, 5, 11, 12, 15
NODE_OP, NODE_ATTRIBUTE, FUNCTION_NODE, FUNCTION_ATTRIBUTE = 4, 5, 7, 11
ATTRIBUTE_TENSORS, ATTRIBUTE_GRAPHS, ATTRIBUTE_SPARSE = (5, 10), (6, 11), (22, 23)
SPARSE_TENSORS = (1, 2)
TENSOR_DIMS, TENSOR_TYPE, TENSOR_NAME, TENSOR_EXTERNAL = 1, 2, 8, 13
ENTRY = (1, 2)  # its key and its value
VALUE_NAME, VALUE_TYPE, TYPE_TENSOR, TENSOR_SHAPE = 1, 2, 1, 2
GROUPED = "GroupQueryAttention"
COMPILED_MARK, COMPILED_MARK_AT = b"ORTM", 4  # of FlatBuffers: which kind it is stands behind the root's offset
MIXING = "DynamicQuantize"  # …Linear, …MatMul, …LSTM: one scale for all that is computed together
COMPILED = "EPContext"  # a node whose engine was compiled by a provider, from its attributes or another file


@dataclass(slots=True)
class ModelFile:
    """A model on disk, checked as far as that is possible without the runtime.

    Attributes:
        path: Its file.
        size_bytes: Of that file.
        name: Of its graph; "".
        parameters: Number of weights; 0 where that is not known.
        weights_bytes: Of all weights, those in other files included.
        weight_bytes_by_type: The same by type; empty where that is not known.
        nodes: Of all graphs.
        unranked: Inputs and outputs whose number of sizes is not known.
        inputs: Names of its inputs, of those too that have values of their own.
        grouped: Whether attention is GroupQueryAttention, which writes keys and values in place.
        mixing: An operator that takes one scale over all rows, so that each row's result depends on the others; "".
    """

    path: Path
    size_bytes: int
    name: str = ""
    parameters: int = 0
    weights_bytes: int = 0
    weight_bytes_by_type: Counter[ElementType] = field(default_factory=Counter)
    nodes: int = 0
    unranked: set[str] = field(default_factory=set)
    inputs: list[str] = field(default_factory=list)
    grouped: bool = False
    mixing: str = ""

    @property
    def weight_format(self) -> str:
        """The type of most of its weights' bytes."""
        for kind, _ in self.weight_bytes_by_type.most_common(1):
            return kind.name
        return "ORT" if self.path.suffix == ".ort" else "NONE"


def find_file(path: Path) -> Path:
    """The file of a model that is a file or a folder."""
    if not path.is_dir():
        return path
    inner = path / INNER / OWN_FILE
    return inner if inner.is_file() and not (path / OWN_FILE).exists() else path / OWN_FILE


def read_model_file(path: Path) -> ModelFile:
    """Read and check a model's file, or that of a folder.

    Raises:
        LoadError: It is damaged, or names data outside its folder, or data that is not there.
    """
    file = find_file(path)
    try:
        size_bytes = file.stat().st_size
        if not size_bytes:
            raise LoadError(f"{file} is empty")
        found = ModelFile(path=file, size_bytes=size_bytes)
        if file.suffix == ".ort":  # in other letters the runtime reads it as ONNX
            return _read_compiled(found)
        with (
            file.open("rb") as opened,
            mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) as mapped,
            memoryview(mapped) as data,
        ):
            _Reader(data, found).read()
    except OSError as error:
        raise LoadError(f"{file} cannot be read: {error.strerror or error}") from None
    except ValueError as error:
        raise LoadError(f"{file} is no sound ONNX file: {error}") from None
    return found


def _read_compiled(found: ModelFile) -> ModelFile:
    """A FlatBuffer with weights and all, which the runtime verifies; here only whether it is one, and what it names.

    Raises:
        ValueError: It is not.
    """
    with found.path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        head = data[: len(COMPILED_MARK) + COMPILED_MARK_AT]
        if head[COMPILED_MARK_AT:] != COMPILED_MARK:
            raise ValueError(f"bytes {COMPILED_MARK_AT} to 7 of an .ort file are {COMPILED_MARK!r}")
        found.mixing = MIXING if data.find(MIXING.encode()) >= 0 else ""  # its operators are texts in it
    found.weights_bytes = found.size_bytes
    return found


class _Reader:
    """Goes once through all messages that hold weights or say where they are."""

    def __init__(self, data: memoryview, found: ModelFile) -> None:
        self._data = data
        self._found = found
        self._external_bytes: dict[str, int] = {}
        self._messages = 0

    def read(self) -> None:
        """All of the model.

        Raises:
            ValueError: It is damaged, or not one.
            LoadError: As `check_external`.
        """
        graphs = 0
        for each in read_fields(self._data, 0, len(self._data)):
            if each.number == MODEL_GRAPH and each.end:
                graphs += 1
                self._read_signature(each)
                self._read_graph(each, 0)
            elif each.number == MODEL_FUNCTION and each.end:
                for inner in self._inside(each, FUNCTION_NODE, FUNCTION_ATTRIBUTE):
                    (self._read_node if inner.number == FUNCTION_NODE else self._read_attribute)(inner, 0)
            elif each.number == MODEL_TRAINING and each.end:
                for graph in self._inside(each, *TRAINING_GRAPHS):
                    self._read_graph(graph, 0)
        if graphs != 1:
            raise ValueError(f"it has {graphs} graphs; a model has 1")

    def _inside(self, outer: Field, *numbers: int) -> Iterator[Field]:
        """The messages and texts of these numbers in a message."""
        for each in read_contents(self._data, outer.value, outer.end, frozenset(numbers)):
            self._messages += 1
            if self._messages > MAX_MESSAGES:
                raise ValueError(f"it has more than {MAX_MESSAGES} nodes, attributes and weights")
            yield each

    def _read_signature(self, graph: Field) -> None:
        for value in self._inside(graph, GRAPH_INPUT, GRAPH_OUTPUT):
            names = [read_text(self._data, name) for name in self._inside(value, VALUE_NAME)]
            kinds = [kind for type_ in self._inside(value, VALUE_TYPE) for kind in self._inside(type_, TYPE_TENSOR)]
            if kinds and not any(True for kind in kinds for _ in self._shapes(kind)):
                self._found.unranked.update(names[-1:])
            if value.number == GRAPH_INPUT:
                self._found.inputs += names[-1:]
        for name in self._inside(graph, GRAPH_NAME):
            self._found.name = read_text(self._data, name)

    def _shapes(self, kind: Field) -> Iterator[Field]:
        """The shapes of a type; one without sizes, a scalar's, has no bytes, and is one."""
        return (each for each in read_fields(self._data, kind.value, kind.end) if each.number == TENSOR_SHAPE)

    def _read_graph(self, graph: Field, depth: int) -> None:
        if depth > MAX_DEPTH:
            raise ValueError(f"its graphs stand {depth} deep in each other; at most {MAX_DEPTH} are read")
        for each in self._inside(graph, GRAPH_NODE, GRAPH_TENSOR, GRAPH_SPARSE):
            if each.number == GRAPH_NODE:
                self._read_node(each, depth)
            elif each.number == GRAPH_TENSOR:
                self._read_tensor(each)
            else:
                self._read_sparse(each)

    def _read_node(self, node: Field, depth: int) -> None:
        self._found.nodes += 1
        for each in self._inside(node, NODE_OP, NODE_ATTRIBUTE):
            if each.number == NODE_OP:
                operator = read_text(self._data, each)
                self._found.grouped |= operator == GROUPED
                if operator.startswith(MIXING):
                    self._found.mixing = operator
                if operator == COMPILED:
                    why = f"holds an engine that was compiled for one machine ({COMPILED}); load what it was made of"
                    raise LoadError(f"{self._found.path} {why}")
            else:
                self._read_attribute(each, depth)

    def _read_attribute(self, attribute: Field, depth: int) -> None:
        for value in self._inside(attribute, *ATTRIBUTE_TENSORS, *ATTRIBUTE_GRAPHS, *ATTRIBUTE_SPARSE):
            if value.number in ATTRIBUTE_TENSORS:
                self._read_tensor(value)
            elif value.number in ATTRIBUTE_GRAPHS:
                self._read_graph(value, depth + 1)
            else:
                self._read_sparse(value)

    def _read_sparse(self, sparse: Field) -> None:
        for tensor in self._inside(sparse, *SPARSE_TENSORS):
            self._read_tensor(tensor)

    def _read_tensor(self, tensor: Field) -> None:
        name, kind, elements, dims = "", 0, 1, 0
        places: dict[str, str] = {}
        for each in read_fields(self._data, tensor.value, tensor.end):
            if each.number == TENSOR_DIMS:
                for size in read_numbers(self._data, each):
                    elements, dims = elements * size, dims + 1
                    if size < 0 or dims > MAX_DIMS:
                        raise ValueError(f"a weight has a size of {size}, or more than {MAX_DIMS} sizes")
            elif each.number == TENSOR_TYPE and not each.end:
                kind = signed(each.value)
            elif each.number == TENSOR_NAME and each.end:
                name = read_text(self._data, each)
            elif each.number == TENSOR_EXTERNAL and each.end:
                self._read_place(each, places)
        known = ElementType(kind) if kind in set(ElementType) else None
        size_bytes = tensor.end - tensor.value
        if places:
            needed_bytes = -(-elements * BITS.get(known, 0) // 8) if known else 0
            size_bytes = check_external(self._found.path, name, places, needed_bytes, self._external_bytes)
        self._found.parameters += elements
        self._found.weights_bytes += size_bytes
        if known:
            self._found.weight_bytes_by_type[known] += size_bytes

    def _read_place(self, entry: Field, places: dict[str, str]) -> None:
        """What is said of a weight's place, exactly: a file's name that was mended would be that of another file."""
        parts = {part.number: bytes(self._data[part.value : part.end]) for part in self._inside(entry, *ENTRY)}
        try:
            places[parts.get(ENTRY[0], b"").decode()] = parts.get(ENTRY[1], b"").decode()
        except UnicodeDecodeError:
            raise ValueError(f"where a weight is said to be at byte {entry.value}, that is no UTF-8") from None
        if len(places) > MAX_PLACES:
            raise ValueError(f"more than {MAX_PLACES} things are said of a weight's place")
