"""Sound ONNX files that hold what there is to damage: weights, subgraphs, functions, texts, packed types."""

import tempfile
from pathlib import Path

import onnx
import onnxruntime as ort
from onnx import TensorProto, helper

OPSET = 21


def contents() -> list[tuple[str, bytes]]:
    """Ending and content of each."""
    models = [linear(), branches(), called(), texts(), packed()]
    files = [(".onnx", model.SerializeToString()) for model in models]
    return [*files, (".ort", to_ort(models[0])), (".ort", to_ort(models[1]))]


def _model(
    nodes: list[onnx.NodeProto],
    inputs: list[onnx.ValueInfoProto],
    outputs: list[onnx.ValueInfoProto],
    weights: list[onnx.TensorProto] | None = None,
    functions: list[onnx.FunctionProto] | None = None,
) -> onnx.ModelProto:
    graph = helper.make_graph(nodes, "graph", inputs, outputs, initializer=weights or [])
    opsets = [helper.make_opsetid("", OPSET), helper.make_opsetid("own", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=10, functions=functions or [])


def linear() -> onnx.ModelProto:
    """A product, a sum and a function of it."""
    weights = [
        helper.make_tensor("weight", TensorProto.FLOAT, [4, 3], [0.5] * 12),
        helper.make_tensor("bias", TensorProto.FLOAT, [3], bytes(12), raw=True),
    ]
    nodes = [
        helper.make_node("Gemm", ["x", "weight", "bias"], ["product"], alpha=0.5),
        helper.make_node("Softmax", ["product"], ["y"], axis=1),
    ]
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 4])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 3])
    return _model(nodes, [x], [y], weights)


def branches() -> onnx.ModelProto:
    """Two subgraphs, and one that is a loop."""
    y = helper.make_tensor_value_info("inner", TensorProto.FLOAT, None)
    then = helper.make_graph([helper.make_node("Neg", ["x"], ["inner"])], "then", [], [y])
    otherwise = helper.make_graph([helper.make_node("Abs", ["x"], ["inner"])], "else", [], [y])
    body = helper.make_graph(
        [
            helper.make_node("Add", ["carried", "one"], ["next"]),
            helper.make_node("Identity", ["go_on"], ["still"]),
        ],
        "body",
        [
            helper.make_tensor_value_info("step", TensorProto.INT64, []),
            helper.make_tensor_value_info("go_on", TensorProto.BOOL, []),
            helper.make_tensor_value_info("carried", TensorProto.FLOAT, None),
        ],
        [
            helper.make_tensor_value_info("still", TensorProto.BOOL, []),
            helper.make_tensor_value_info("next", TensorProto.FLOAT, None),
        ],
        initializer=[helper.make_tensor("one", TensorProto.FLOAT, [], [1.0])],
    )
    nodes = [
        helper.make_node("If", ["which"], ["chosen"], then_branch=then, else_branch=otherwise),
        helper.make_node("Loop", ["times", "", "chosen"], ["y"], body=body),
    ]
    inputs = [
        helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n"]),
        helper.make_tensor_value_info("which", TensorProto.BOOL, []),
    ]
    times = helper.make_tensor("times", TensorProto.INT64, [], [3])
    return _model(nodes, inputs, [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n"])], [times])


def called() -> onnx.ModelProto:
    """A function of the model's own."""
    constant = helper.make_node("Constant", [], ["two"], value=helper.make_tensor("two", TensorProto.FLOAT, [1], [2.0]))
    nodes = [constant, helper.make_node("Mul", ["a", "two"], ["b"])]
    double = helper.make_function("own", "Double", ["a"], ["b"], nodes, [helper.make_opsetid("", OPSET)])
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 2]) for name in "xy")
    return _model([helper.make_node("Double", ["x"], ["y"], domain="own")], [x], [y], functions=[double])


def texts() -> onnx.ModelProto:
    """Texts as weights and in attributes."""
    words = helper.make_tensor("words", TensorProto.STRING, [2], [b"one", "zwölf".encode()])
    nodes = [
        helper.make_node("StringConcat", ["x", "words"], ["joined"]),
        helper.make_node("StringNormalizer", ["joined"], ["y"], case_change_action="UPPER", locale="C"),
    ]
    x, y = (helper.make_tensor_value_info(name, TensorProto.STRING, [2]) for name in "xy")
    return _model(nodes, [x], [y], [words])


def packed() -> onnx.ModelProto:
    """Weights of four bits, and a sparse one."""
    weight = helper.make_tensor("weight", TensorProto.UINT4, [4, 2], bytes(range(4)), raw=True)
    scale = helper.make_tensor("scale", TensorProto.FLOAT, [], [0.5])
    values = helper.make_tensor("values", TensorProto.FLOAT, [1], [3.0])
    sparse = helper.make_sparse_tensor(values, helper.make_tensor("indices", TensorProto.INT64, [1], [5]), [4, 2])
    nodes = [
        helper.make_node("DequantizeLinear", ["weight", "scale"], ["whole"]),
        helper.make_node("Constant", [], ["rest"], sparse_value=sparse),
        helper.make_node("Add", ["whole", "rest"], ["sum"]),
        helper.make_node("MatMul", ["x", "sum"], ["y"]),
    ]
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 4])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 2])
    return _model(nodes, [x], [y], [weight, scale])


def to_ort(model: onnx.ModelProto) -> bytes:
    """The model in the runtime's own format."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.ort"
        options = ort.SessionOptions()
        options.optimized_model_filepath = str(path)
        options.add_session_config_entry("session.save_model_format", "ORT")
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_BASIC
        ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        return path.read_bytes()
