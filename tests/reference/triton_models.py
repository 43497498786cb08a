"""The example models of Triton's documentation, built anew with `onnx`: a repository as its clients know it.

They are described in its public documentation: `simple` adds and subtracts, `simple_int8` and `simple_string` do so
with other types, `simple_identity` gives texts back, `simple_sequence` adds up a sequence, and `simple_dyna_sequence`
does so and adds the id of the sequence to its last sum. `pipeline` is an ensemble of two of them.
"""

from pathlib import Path
from typing import Any

from onnx import TensorProto, helper
from onnx_models import save

T = TensorProto
SIZE = 16


def info(name: str, kind: int, size: int = SIZE) -> Any:
    return helper.make_tensor_value_info(name, kind, ["batch", size])


def node(operator: str, inputs: str, outputs: str, **attributes: Any) -> Any:
    return helper.make_node(operator, inputs.split(), outputs.split(), **attributes)


def simple(path: Path, kind: int, inner: int) -> None:
    """Sum and difference, computed as `inner`."""
    nodes = [
        node("Cast", "INPUT0", "a", to=inner),
        node("Cast", "INPUT1", "b", to=inner),
        node("Add", "a b", "sum"),
        node("Sub", "a b", "difference"),
        node("Cast", "sum", "OUTPUT0", to=kind),
        node("Cast", "difference", "OUTPUT1", to=kind),
    ]
    inputs = [info("INPUT0", kind), info("INPUT1", kind)]
    save(path, nodes, inputs, [info("OUTPUT0", kind), info("OUTPUT1", kind)])


def identity(path: Path) -> None:
    save(path, [node("Identity", "INPUT0", "OUTPUT0")], [info("INPUT0", T.STRING)], [info("OUTPUT0", T.STRING)])


def sequence(path: Path, *, tells_id: bool) -> None:
    """The sum of a sequence so far; with its id, that is added at the end."""
    nodes = [
        node("Constant", "", "one", value=helper.make_tensor("one", T.INT32, [1], [1])),
        node("Sub", "one START", "goes_on"),
        node("Mul", "STATE goes_on", "before"),
        node("Mul", "INPUT READY", "now"),
        node("Add", "before now", "NEW_STATE"),
    ]
    names = ["INPUT", "START", "READY", "STATE"]
    if tells_id:
        names += ["END"]
        nodes += [
            node("Cast", "CORRID", "id", to=T.INT32),
            node("Mul", "id END", "added"),
            node("Add", "NEW_STATE added", "OUTPUT"),
        ]
    else:
        nodes += [node("Identity", "NEW_STATE", "OUTPUT")]
    inputs = [info(name, T.INT32, 1) for name in names] + ([info("CORRID", T.UINT64, 1)] if tells_id else [])
    save(path, nodes, inputs, [info("OUTPUT", T.INT32, 1), info("NEW_STATE", T.INT32, 1)])


def tensors(kind: str) -> str:
    """What `simple` takes and gives, as a configuration says it."""
    inputs = ", ".join(f'{{ name: "INPUT{n}" data_type: {kind} dims: [ {SIZE} ] }}' for n in (0, 1))
    outputs = ", ".join(f'{{ name: "OUTPUT{n}" data_type: {kind} dims: [ {SIZE} ] }}' for n in (0, 1))
    return f"max_batch_size: 8 input [ {inputs} ] output [ {outputs} ]"


STATE = """
  state [{ input_name: "STATE" output_name: "NEW_STATE" data_type: TYPE_INT32 dims: [ 1 ]
           initial_state { name: "zero" data_type: TYPE_INT32 dims: [ 1 ] zero_data: true } }]
"""
ONE = "data_type: TYPE_INT32 dims: [ 1 ]"
CONTROLS = """
  { name: "START" control [ { kind: CONTROL_SEQUENCE_START int32_false_true: [ 0, 1 ] } ] },
  { name: "READY" control [ { kind: CONTROL_SEQUENCE_READY int32_false_true: [ 0, 1 ] } ] }
"""
MORE = """,
  { name: "END" control [ { kind: CONTROL_SEQUENCE_END int32_false_true: [ 0, 1 ] } ] },
  { name: "CORRID" control [ { kind: CONTROL_SEQUENCE_CORRID data_type: TYPE_UINT64 } ] }
"""
SEQUENCE = f'max_batch_size: 8 input [{{ name: "INPUT" {ONE} }}] output [{{ name: "OUTPUT" {ONE} }}]'
DIRECT = (
    f"{SEQUENCE} sequence_batching {{ direct {{}} max_sequence_idle_microseconds: 5000000 control_input [{CONTROLS}]"
)
OLDEST = f"{SEQUENCE} sequence_batching {{ oldest {{ max_candidate_sequences: 4 }} control_input [{CONTROLS}{MORE}]"
PIPELINE = (
    tensors("TYPE_INT32").replace("max_batch_size", 'platform: "ensemble" max_batch_size')
    + """ ensemble_scheduling { step [
  { model_name: "simple" model_version: -1
    input_map { key: "INPUT0" value: "INPUT0" } input_map { key: "INPUT1" value: "INPUT1" }
    output_map { key: "OUTPUT0" value: "sum" } output_map { key: "OUTPUT1" value: "difference" } },
  { model_name: "simple" model_version: -1
    input_map { key: "INPUT0" value: "sum" } input_map { key: "INPUT1" value: "difference" }
    output_map { key: "OUTPUT0" value: "OUTPUT0" } output_map { key: "OUTPUT1" value: "OUTPUT1" } } ] }"""
)
"""Of a and b: twice a, and twice b."""


def write_repository(root: Path) -> Path:
    """All of them."""
    kinds = {"simple": (T.INT32, T.INT32), "simple_int8": (T.INT8, T.INT32), "simple_string": (T.STRING, T.INT32)}
    for name, (kind, inner) in kinds.items():
        simple(_version(root, name, tensors(f"TYPE_{T.DataType.Name(kind)}") + " dynamic_batching {}"), kind, inner)
    identity(_version(root, "simple_identity", ""))
    sequence(_version(root, "simple_sequence", DIRECT + STATE + "}"), tells_id=False)
    sequence(_version(root, "simple_dyna_sequence", OLDEST + STATE + "}"), tells_id=True)
    _version(root, "pipeline", PIPELINE)
    return root


def _version(root: Path, name: str, config: str) -> Path:
    """The file of version 1 of a model whose configuration is there, unless it is none."""
    folder = root / name / "1"
    folder.mkdir(parents=True)
    if config:
        (root / name / "config.pbtxt").write_text(config)
    return folder / "model.onnx"
