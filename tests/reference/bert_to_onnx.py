"""An encoder of BERT's kind from a Hugging Face folder as an ONNX graph: ids of texts in, a vector for each out.

That is the mean of the hidden states of all tokens that are not padding, made as long as 1, as sentence-transformers
has it; or the graph gives the hidden states, or the logits of a classifier.
"""

import json
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from safetensors.numpy import load_file

OPSET, IR = 21, 10
FAR = -1e9  # added to the logits of padding


class _Graph:
    """Nodes and weights, as they come."""

    def __init__(self, weights: dict[str, np.ndarray], prefix: str = "") -> None:
        self._prefix = prefix
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: dict[str, onnx.TensorProto] = {}
        self._weights = weights

    def add(self, operator: str, *inputs: str, **attributes: object) -> str:
        """The output of a new node."""
        name = f"{operator}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(operator, list(inputs), [name], **attributes))
        return name

    def constant(self, value: object, dtype: type = np.float32) -> str:
        """A weight of its own."""
        name = f"constant_{len(self.initializers)}"
        self.initializers[name] = numpy_helper.from_array(np.asarray(value, dtype), name)
        return name

    def weight(self, name: str, *, turned: bool = False) -> str:
        """A weight of the folder."""
        array = self._weights[name if name in self._weights else self._prefix + name]
        self.initializers[name] = numpy_helper.from_array(np.ascontiguousarray(array.T if turned else array), name)
        return name

    def linear(self, name: str, x: str) -> str:
        """A product and a sum."""
        product = self.add("MatMul", x, self.weight(f"{name}.weight", turned=True))
        return self.add("Add", product, self.weight(f"{name}.bias"))

    def norm(self, name: str, x: str, epsilon: float) -> str:
        """Mean 0 and variance 1, scaled and moved."""
        scale, bias = (self.weight(f"{name}.{part}") for part in ("weight", "bias"))
        return self.add("LayerNormalization", x, scale, bias, epsilon=epsilon)


def convert(folder: Path, path: Path, *, gives: str = "embedding", types: bool = False) -> Path:
    """Write the graph of a folder to a file.

    Args:
        folder: Of transformers.
        path: Where to.
        gives: Its output: "embedding", "last_hidden_state" or "logits".
        types: Whether the types of tokens are an input, too.
    """
    config = json.loads((folder / "config.json").read_text())
    epsilon, heads, width = config["layer_norm_eps"], config["num_attention_heads"], config["hidden_size"]
    g = _Graph(load_file(folder / "model.safetensors"), prefix="bert.")
    zero, one = g.constant([0], np.int64), g.constant([1], np.int64)
    shape = g.add("Shape", "input_ids")
    tokens = g.add("Squeeze", g.add("Slice", shape, one, g.constant([2], np.int64)))
    ends = (g.constant(0, np.int64), tokens, g.constant(1, np.int64))
    x = g.add("Gather", g.weight("embeddings.word_embeddings.weight"), "input_ids")
    x = g.add("Add", x, g.add("Gather", g.weight("embeddings.position_embeddings.weight"), g.add("Range", *ends)))
    kind = "token_type_ids" if types else zero
    x = g.add("Add", x, g.add("Gather", g.weight("embeddings.token_type_embeddings.weight"), kind))
    x = g.norm("embeddings.LayerNorm", x, epsilon)
    mask = g.add("Cast", "attention_mask", to=TensorProto.FLOAT)
    hidden = g.add("Mul", g.add("Sub", g.constant(1.0), mask), g.constant(FAR))
    hidden = g.add("Unsqueeze", hidden, g.constant([1, 2], np.int64))
    apart, together = g.constant([0, 0, heads, width // heads], np.int64), g.constant([0, 0, width], np.int64)
    scale = g.constant((width // heads) ** -0.5)
    for layer in range(config["num_hidden_layers"]):
        at = f"encoder.layer.{layer}"
        query, key, value = (
            g.add(
                "Transpose",
                g.add("Reshape", g.linear(f"{at}.attention.self.{part}", x), apart),
                perm=[0, 2, 3, 1] if part == "key" else [0, 2, 1, 3],
            )
            for part in ("query", "key", "value")
        )
        logits = g.add("Add", g.add("Mul", g.add("MatMul", query, key), scale), hidden)
        mixed = g.add("Transpose", g.add("MatMul", g.add("Softmax", logits, axis=-1), value), perm=[0, 2, 1, 3])
        attended = g.linear(f"{at}.attention.output.dense", g.add("Reshape", mixed, together))
        x = g.norm(f"{at}.attention.output.LayerNorm", g.add("Add", x, attended), epsilon)
        wide = g.add("Gelu", g.linear(f"{at}.intermediate.dense", x))
        x = g.norm(f"{at}.output.LayerNorm", g.add("Add", x, g.linear(f"{at}.output.dense", wide)), epsilon)
    sizes: list[str | int] = ["batch", width]
    if gives == "embedding":
        counted = g.add("Mul", x, g.add("Unsqueeze", mask, g.constant([2], np.int64)))
        total = g.add("ReduceSum", counted, one, keepdims=0)
        g.nodes.append(helper.make_node("LpNormalization", [total], [gives], axis=-1, p=2))
    elif gives == "logits":
        first = g.add("Gather", x, g.constant(0, np.int64), axis=1)
        sizes = ["batch", "scores"]
        g.nodes.append(helper.make_node("Identity", [g.linear("classifier", _pool(g, first))], [gives]))
    else:
        sizes.insert(1, "tokens")
        g.nodes.append(helper.make_node("Identity", [x], [gives]))
    inputs = [
        helper.make_tensor_value_info(name, TensorProto.INT64, ["batch", "tokens"])
        for name in ("input_ids", "attention_mask", *(["token_type_ids"] if types else []))
    ]
    outputs = [helper.make_tensor_value_info(gives, TensorProto.FLOAT, sizes)]
    graph = helper.make_graph(g.nodes, "bert", inputs, outputs, initializer=list(g.initializers.values()))
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR), path)
    return path


def _pool(g: _Graph, first: str) -> str:
    return g.add("Tanh", g.linear("pooler.dense", first))
