"""Folders with the graph of a llama, in the two layouts that exporters write, from a network of transformers.

"genai" is that of ONNX Runtime GenAI's model builder: genai_config.json, GroupQueryAttention whose keys and values are
written in place, lengths from the mask. "optimum" is that of Optimum: config.json, attention of plain operators, past
keys and values joined with the new ones. "merged" is that of its older versions, see `merge`.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import tiny_networks
from onnx import TensorProto, helper, load, numpy_helper, save

CONTRIB = "com.microsoft"
F, I = TensorProto.FLOAT, TensorProto.INT64  # noqa: E741 - as onnx calls them


class Writer:
    """Collects the nodes and weights of one graph."""

    def __init__(self, network: Any) -> None:
        self.config = network.config
        self.state = {name: value.numpy() for name, value in network.state_dict().items()}
        self.nodes: list[Any] = []
        self.weights: list[Any] = []
        self.heads = self.config.num_attention_heads
        self.groups = self.config.num_key_value_heads
        self.width = self.config.hidden_size // self.heads

    def add(self, operator: str, *inputs: str, out: str, outs: tuple[str, ...] = (), **attributes: Any) -> str:
        domain = CONTRIB if operator == "GroupQueryAttention" else ""
        self.nodes.append(helper.make_node(operator, list(inputs), [out, *outs], domain=domain, **attributes))
        return out

    def hold(self, name: str, array: Any) -> str:
        self.weights.append(numpy_helper.from_array(np.ascontiguousarray(array), name))
        return name

    def product(self, state: str, name: str, out: str) -> str:
        return self.add("MatMul", state, self.hold(name, self.state[name].T), out=out)

    def norm(self, state: str, name: str, out: str) -> str:
        gamma = self.hold(name, self.state[name])
        epsilon = self.config.rms_norm_eps
        return self.add("SimplifiedLayerNormalization", state, gamma, out=out, axis=-1, epsilon=epsilon, stash_type=1)

    def tables(self) -> tuple[Any, Any]:
        exponents = np.arange(0, self.width, 2) / self.width
        angles = np.arange(tiny_networks.CONTEXT)[:, None] / self.config.rope_parameters["rope_theta"] ** exponents
        return np.cos(angles).astype(np.float32), np.sin(angles).astype(np.float32)

    def heads_first(self, state: str, heads: int, out: str) -> str:
        shape = self.hold(f"{out}.shape", np.array([0, 0, heads, self.width]))
        return self.add("Transpose", self.add("Reshape", state, shape, out=f"{out}.split"), out=out, perm=[0, 2, 1, 3])

    def rotate(self, state: str, out: str) -> str:
        """Gives x * cos + (-second half, first half) * sin, with cos and sin of the positions, (b, 1, s, width)."""
        first, second = f"{out}.first", f"{out}.second"
        self.add("Split", state, out=first, outs=(second,), axis=-1, num_outputs=2)
        turned = self.add("Concat", self.add("Neg", second, out=f"{out}.neg"), first, out=f"{out}.turned", axis=-1)
        parts = [self.add("Mul", one, by, out=f"{out}.{by}") for one, by in ((state, "cos"), (turned, "sin"))]
        return self.add("Add", *parts, out=out)

    def attend_plainly(self, layer: int, queries: str, keys: str, values: str) -> str:
        at = f"l{layer}"
        turned = self.rotate(self.heads_first(queries, self.heads, f"{at}.q4"), f"{at}.qr")
        past = f"past_key_values.{layer}"
        new = self.rotate(self.heads_first(keys, self.groups, f"{at}.k4"), f"{at}.kr")
        key = self.add("Concat", f"{past}.key", new, out=f"present.{layer}.key", axis=2)
        new = self.heads_first(values, self.groups, f"{at}.v4")
        value = self.add("Concat", f"{past}.value", new, out=f"present.{layer}.value", axis=2)
        pick = self.hold(f"{at}.pick", np.repeat(np.arange(self.groups), self.heads // self.groups))
        key, value = (self.add("Gather", one, pick, out=f"{one}.all", axis=1) for one in (key, value))
        key = self.add("Transpose", key, out=f"{at}.kt", perm=[0, 1, 3, 2])
        scores = self.add("MatMul", turned, key, out=f"{at}.raw")
        scores = self.add("Mul", scores, self.hold(f"{at}.scale", np.float32(self.width**-0.5)), out=f"{at}.scaled")
        scores = self.add("Where", "seen", scores, "lowest", out=f"{at}.masked")
        mixed = self.add("MatMul", self.add("Softmax", scores, out=f"{at}.soft", axis=-1), value, out=f"{at}.mixed4")
        mixed = self.add("Transpose", mixed, out=f"{at}.mixed3", perm=[0, 2, 1, 3])
        shape = self.hold(f"{at}.joined", np.array([0, 0, self.heads * self.width]))
        return self.add("Reshape", mixed, shape, out=f"{at}.mixed")

    def attend_grouped(self, layer: int, queries: str, keys: str, values: str) -> str:
        past, present = f"past_key_values.{layer}", f"present.{layer}"
        inputs = [queries, keys, values, f"{past}.key", f"{past}.value", "seqlens", "total", "cosines", "sines"]
        outs = (f"{present}.key", f"{present}.value")
        sizes = {"num_heads": self.heads, "kv_num_heads": self.groups}
        return self.add("GroupQueryAttention", *inputs, out=f"l{layer}.mixed", outs=outs, do_rotary=1, **sizes)

    def prepare_grouped(self) -> None:
        """Lengths from the mask, as the model builder has them."""
        sums = self.add("ReduceSum", "attention_mask", self.hold("axis", np.array([1])), out="sums", keepdims=0)
        self.add("Cast", self.add("Sub", sums, self.hold("one", np.array(1)), out="less"), out="seqlens", to=6)
        sizes = self.add("Shape", "attention_mask", out="sizes")
        self.add("Cast", self.add("Gather", sizes, "one", out="most", axis=0), out="total", to=6)
        for name, table in zip(("cosines", "sines"), self.tables(), strict=True):
            self.hold(name, table)

    def prepare_plain(self) -> None:
        """Of the positions cosines and sines, and which keys each row sees."""
        for name, table in zip(("cos", "sin"), self.tables(), strict=True):
            whole = self.hold(f"{name}.table", np.concatenate([table, table], axis=1))
            picked = self.add("Gather", whole, "position_ids", out=f"{name}.picked", axis=0)
            self.add("Unsqueeze", picked, self.hold(f"{name}.axis", np.array([1])), out=name)
        self.hold("lowest", np.float32(-1e30))
        total = self.add(
            "Gather",
            self.add("Shape", "attention_mask", out="sizes"),
            self.hold("one", np.array(1)),
            out="total",
            axis=0,
        )
        keys = self.add("Range", self.hold("zero", np.array(0)), total, "one", out="keys")
        rows = self.add("Unsqueeze", "position_ids", self.hold("axes", np.array([1, 3])), out="rows")
        before = self.add("LessOrEqual", keys, rows, out="before")
        there = self.add("Cast", "attention_mask", out="there", to=9)
        there = self.add("Unsqueeze", there, self.hold("inner", np.array([1, 2])), out="there4")
        self.add("And", before, there, out="seen")

    def write(self, layout: str, path: Path, *, external: bool) -> None:
        grouped = layout == "genai"
        (self.prepare_grouped if grouped else self.prepare_plain)()
        attend = self.attend_grouped if grouped else self.attend_plainly
        embedding = self.hold("model.embed_tokens.weight", self.state["model.embed_tokens.weight"])
        state = self.add("Gather", embedding, "input_ids", out="h", axis=0)
        for layer in range(self.config.num_hidden_layers):
            name, at = f"model.layers.{layer}", f"l{layer}"
            normed = self.norm(state, f"{name}.input_layernorm.weight", f"{at}.n1")
            parts = [self.product(normed, f"{name}.self_attn.{x}_proj.weight", f"{at}.{x}") for x in "qkv"]
            mixed = self.product(attend(layer, *parts), f"{name}.self_attn.o_proj.weight", f"{at}.o")
            state = self.add("Add", state, mixed, out=f"{at}.h1")
            normed = self.norm(state, f"{name}.post_attention_layernorm.weight", f"{at}.n2")
            gate, up = (self.product(normed, f"{name}.mlp.{x}_proj.weight", f"{at}.{x}") for x in ("gate", "up"))
            bent = self.add("Mul", gate, self.add("Sigmoid", gate, out=f"{at}.sigmoid"), out=f"{at}.bent")
            inner = self.add("Mul", bent, up, out=f"{at}.inner")
            state = self.add(
                "Add", state, self.product(inner, f"{name}.mlp.down_proj.weight", f"{at}.down"), out=f"{at}.h2"
            )
        self.product(self.norm(state, "model.norm.weight", "last"), "lm_head.weight", "logits")
        info = helper.make_tensor_value_info
        inputs = [info("input_ids", I, ["b", "s"]), info("attention_mask", I, ["b", "t"])]
        inputs += [] if grouped else [info("position_ids", I, ["b", "s"])]
        outputs = [info("logits", F, ["b", "s", self.config.vocab_size])]
        for layer in range(self.config.num_hidden_layers):
            for what in ("key", "value"):
                sizes = ["b", self.groups, "past", self.width]
                inputs.append(info(f"past_key_values.{layer}.{what}", F, sizes))
                outputs.append(info(f"present.{layer}.{what}", F, ["b", self.groups, "all", self.width]))
        graph = helper.make_graph(self.nodes, "llama", inputs, outputs, self.weights)
        opsets = [helper.make_opsetid("", 18), helper.make_opsetid(CONTRIB, 1)]
        model = helper.make_model(graph, opset_imports=opsets, ir_version=9)
        save(model, path, save_as_external_data=external, location="model.onnx.data", size_threshold=1024)


def merge(path: Path) -> None:
    """Make a decoder a merged one, as older versions of Optimum do: without past keys and values another branch."""
    model = load(path)
    graph = model.graph
    past = [each for each in graph.input if each.name.startswith("past_key_values")]
    empty = [
        [1, each.type.tensor_type.shape.dim[1].dim_value, 0, each.type.tensor_type.shape.dim[3].dim_value]
        for each in past
    ]
    inside = {name for node in graph.node for name in node.output}
    branches = []
    for prefix in ("with.", "without."):
        without = prefix == "without."
        own = inside | ({each.name for each in past} if without else set())
        nodes = []
        for node in graph.node:
            made = type(node)()
            made.CopyFrom(node)
            made.input[:] = [prefix + name if name in own else name for name in node.input]
            made.output[:] = [prefix + name for name in node.output]
            nodes.append(made)
        weights = [
            numpy_helper.from_array(np.zeros(shape, np.float32), prefix + each.name)
            for shape, each in zip(empty, past, strict=True)
        ]
        outputs = [helper.make_tensor_value_info(prefix + each.name, F, None) for each in graph.output]
        branches.append(helper.make_graph(nodes, prefix, [], outputs, weights if without else []))
    choose = helper.make_node(
        "If",
        ["use_cache_branch"],
        [each.name for each in graph.output],
        then_branch=branches[0],
        else_branch=branches[1],
    )
    graph.ClearField("node")
    graph.node.append(choose)
    graph.input.append(helper.make_tensor_value_info("use_cache_branch", TensorProto.BOOL, [1]))
    save(model, path)


def write_folder(layout: str, folder: Path, *, external: bool = False) -> Any:
    """Write a tiny llama in a layout; the network."""
    network = tiny_networks.make_network("llama")
    merged = layout == "merged"
    layout = "optimum" if merged else layout
    Writer(network).write(layout, folder / "model.onnx", external=external)
    if merged:
        merge(folder / "model.onnx")
    tiny_networks.write_tokenizer(folder)
    config = network.config
    if layout == "optimum":
        network.config.save_pretrained(folder)
        return network
    inputs = {name: name for name in ("input_ids", "attention_mask")}
    outputs = {"logits": "logits"}
    for what in ("key", "value"):
        inputs[f"past_{what}_names"] = f"past_key_values.%d.{what}"
        outputs[f"present_{what}_names"] = f"present.%d.{what}"
    decoder = {
        "session_options": {"log_id": "onnxruntime-genai", "provider_options": []},
        "filename": "model.onnx",
        "head_size": config.hidden_size // config.num_attention_heads,
        "hidden_size": config.hidden_size,
        "inputs": inputs,
        "outputs": outputs,
        "num_attention_heads": config.num_attention_heads,
        "num_hidden_layers": config.num_hidden_layers,
        "num_key_value_heads": config.num_key_value_heads,
    }
    model = {
        "bos_token_id": tiny_networks.START,
        "context_length": tiny_networks.CONTEXT,
        "decoder": decoder,
        "eos_token_id": tiny_networks.END,
        "pad_token_id": tiny_networks.END,
        "type": "llama",
        "vocab_size": config.vocab_size,
    }
    search = {"do_sample": True, "temperature": 0.5, "top_k": 7, "max_length": tiny_networks.CONTEXT}
    (folder / "genai_config.json").write_text(json.dumps({"model": model, "search": search}))
    return network
