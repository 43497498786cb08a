"""From a network's shape to a graph: attention by GroupQueryAttention, products by MatMulNBits.

The graph begins behind the embedding, whose rows the session looks up itself: so the table stays where it lies on disk.

Inputs: `hidden` (b, s, width), `last` (b,), the number of each sequence's last key; `total` (), of keys of the longest;
`counts` (b,), the tokens of each sequence, where the runtime takes them: the rest of its s rows is nobody's;
`logit_rows` and `hidden_rows`, of the b * s rows those that are wanted; `past_key.N` and `past_value.N` (b, kv_heads,
places, head_width), which are written to in place: `key.N` and `value.N` must be bound to the same memory.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from inferd_onnx.decoder.counts import COUNTS_AT
from inferd_onnx.decoder.model import DecoderModel
from inferd_onnx.decoder.packing import BLOCK, Packed, choose_bits, pack
from inferd_onnx.decoder.proto import CONTRIB, FLOAT, INT32, INT64, UINT8, Graph
from inferd_onnx.decoder.shape import Shape
from inferd_onnx.decoder.sources import Weight

BY_BYTES = 4  # of MatMulNBits' accuracy levels: rows are rounded to 8 bits, and products are of whole numbers
Array = NDArray[Any]
KINDS = {np.dtype(np.float32): FLOAT, np.dtype(np.uint8): UINT8}


class Builder:
    """Builds one graph. Weights are packed one after the other as the graph is built.

    Attributes:
        weights: What the runtime is to be handed, by name.
        packed: Of these, numbers of packed matrices, with their bits.
    """

    def __init__(
        self,
        model: DecoderModel,
        *,
        context_tokens: int,
        quantization: str,
        exact: bool,
        counts: bool,
        done: Callable[[int], None],
    ) -> None:
        self._model = model
        self._shape = model.shape
        self._context_tokens = context_tokens
        self._quantization = quantization
        self._exact = exact
        self._counts = counts
        self._done = done
        self._graph = Graph("decoder")
        self._shapes = set[str]()
        self.weights: dict[str, Array] = {}
        self.packed: dict[str, int] = {}

    def build(self) -> bytes:
        """The model's bytes; `weights` are then what it needs besides."""
        shape = self._shape
        self._declare()
        for name, table in zip(
            ("cosines", "sines"), shape.rotation.tables(self._context_tokens, shape.head_width), strict=True
        ):
            self._hold(name, table)
        self._graph.add_numbers("row_shape", (-1, shape.width))
        state = skip = ""
        for layer in range(shape.layers):
            if layer == 0:
                state = "hidden"
                normed = self._norm(state, "0.attention_norm")
            else:
                state, normed = self._join(state, skip, f"{layer}.attention_norm")
            attended = self._attend(layer, normed)
            state, normed = self._join(state, attended, f"{layer}.inner_norm")
            skip = self._bend(layer, normed)
        self._graph.add("Add", [state, skip], ["last_state"])
        self._finish()
        return self._graph.write()

    def _declare(self) -> None:
        shape, graph = self._shape, self._graph
        graph.add_input("hidden", FLOAT, ("b", "s", shape.width))
        graph.add_input("last", INT32, ("b",))
        graph.add_input("total", INT32, ())
        if self._counts:
            graph.add_input("counts", INT32, ("b",))
        graph.add_input("logit_rows", INT64, ("l",))
        graph.add_input("hidden_rows", INT64, ("h",))
        graph.add_output("logits", FLOAT, ("l", shape.vocabulary_size))
        graph.add_output("states", FLOAT, ("h", shape.width))
        for layer in range(shape.layers):
            for what in ("key", "value"):
                sizes = ("b", shape.kv_heads, "places", shape.head_width)
                graph.add_input(f"past_{what}.{layer}", FLOAT, sizes)
                graph.add_output(f"{what}.{layer}", FLOAT, sizes)

    def _hold(self, name: str, array: Array) -> str:
        """Hand the runtime an array as a weight."""
        self._graph.add_weight(name, KINDS[array.dtype], array.shape, array.nbytes)
        self.weights[name] = np.ascontiguousarray(array)
        return name

    def _gamma(self, what: str) -> str:
        return what if what in self.weights else self._hold(what, self._model.weights[what].whole())

    def _norm(self, state: str, what: str, tag: str = "") -> str:
        out = f"{what}{tag}.out"
        attributes = {"axis": -1, "epsilon": self._shape.epsilon, "stash_type": 1}
        self._graph.add("SimplifiedLayerNormalization", [state, self._gamma(what)], [out], attributes=attributes)
        return out

    def _join(self, state: str, more: str, what: str) -> tuple[str, str]:
        """The sum of two states, and its norm."""
        total, out = f"{what}.sum", f"{what}.out"
        inputs, attributes = [state, more, self._gamma(what)], {"epsilon": self._shape.epsilon}
        outputs = [out, "", "", total]
        self._graph.add("SkipSimplifiedLayerNormalization", inputs, outputs, domain=CONTRIB, attributes=attributes)
        return total, out

    def _product(self, out: str, state: str, *whats: str) -> str:
        """The product with matrices of the model, one below the other, and their biases."""
        biases = self._find_biases(whats)
        parts = [self._model.head if what == "head" else self._model.weights[what] for what in whats]
        if self._exact:
            return self._multiply(out, state, parts, biases)
        packed = pack(parts, choose_bits(parts, self._quantization))
        inputs = [state, *self._hold_packed(out, packed)]
        if biases is not None:
            inputs += [""] * (5 - len(inputs)) + [self._hold(f"{out}.bias", biases)]
        attributes = {"K": packed.inputs, "N": packed.outputs, "bits": packed.bits, "block_size": BLOCK}
        attributes["accuracy_level"] = BY_BYTES
        self._graph.add("MatMulNBits", inputs, [out], domain=CONTRIB, attributes=attributes)
        self._done(packed.outputs * packed.inputs)
        return out

    def _find_biases(self, whats: Sequence[str]) -> Array | None:
        """Of matrices one below the other; zeros for those without, None where none has one."""
        weights = self._model.weights
        if not any(f"{what}_bias" in weights for what in whats):
            return None
        found = [weights.get(f"{what}_bias") for what in whats]
        return np.concatenate(
            [
                np.zeros(weights[what].sizes[0], np.float32) if bias is None else bias.whole()
                for what, bias in zip(whats, found, strict=True)
            ]
        )

    def _multiply(self, out: str, state: str, parts: Sequence[Weight], biases: Array | None) -> str:
        """The same with numbers that are not rounded."""
        matrix = np.concatenate([part.whole() for part in parts]).T
        product = out if biases is None else f"{out}.product"
        self._graph.add("MatMul", [state, self._hold(f"{out}.numbers", matrix)], [product])
        if biases is not None:
            self._graph.add("Add", [product, self._hold(f"{out}.bias", biases)], [out])
        self._done(matrix.size)
        return out

    def _hold_packed(self, name: str, packed: Packed) -> Iterator[str]:
        self.packed[f"{name}.numbers"] = packed.bits
        yield self._hold(f"{name}.numbers", packed.numbers)
        yield self._hold(f"{name}.scales", packed.scales)
        if packed.zeros is not None:
            yield self._hold(f"{name}.zeros", packed.zeros.reshape(-1))

    def _attend(self, layer: int, state: str) -> str:
        shape = self._shape
        queries, keys, values = f"{layer}.qkv", "", ""
        if shape.head_norms:
            queries, keys, values = (self._product(f"{layer}.{part}.out", state, f"{layer}.{part}") for part in "qkv")
            queries = self._norm_heads(layer, "q", queries, shape.heads)
            keys = self._norm_heads(layer, "k", keys, shape.kv_heads)
        else:
            self._product(queries, state, *(f"{layer}.{part}" for part in "qkv"))
        rotates = layer not in shape.unrotated
        inputs = [queries, keys, values, f"past_key.{layer}", f"past_value.{layer}", "last", "total"]
        attributes: dict[str, int | float] = {"num_heads": shape.heads, "kv_num_heads": shape.kv_heads}
        attributes |= {"do_rotary": int(rotates), "rotary_interleaved": int(shape.rotation.neighbours)}
        inputs += ["cosines", "sines"] if rotates else []
        if self._counts:
            inputs += [""] * (COUNTS_AT - len(inputs)) + ["counts"]
        outputs = [f"{layer}.mixed", f"key.{layer}", f"value.{layer}"]
        self._graph.add("GroupQueryAttention", inputs, outputs, domain=CONTRIB, attributes=attributes)
        return self._product(f"{layer}.attended", f"{layer}.mixed", f"{layer}.o")

    def _norm_heads(self, layer: int, part: str, state: str, heads: int) -> str:
        """Norm each head: (b, s, heads * head_width) as (b, s, heads, head_width) and back."""
        width = self._shape.head_width
        split, whole = f"split_{heads}", f"whole_{heads}"
        if split not in self._shapes:
            self._shapes.add(split)
            self._graph.add_numbers(split, (0, 0, heads, width))  # 0 is what it was before
            self._graph.add_numbers(whole, (0, 0, heads * width))
        self._graph.add("Reshape", [state, split], [f"{layer}.{part}.heads"])
        normed = self._norm(f"{layer}.{part}.heads", f"{layer}.{part}_norm")
        self._graph.add("Reshape", [normed, whole], [f"{layer}.{part}.normed"])
        return f"{layer}.{part}.normed"

    def _bend(self, layer: int, state: str) -> str:
        gate = self._product(f"{layer}.gate.out", state, f"{layer}.gate")
        up = self._product(f"{layer}.up.out", state, f"{layer}.up")
        bent, inner = f"{layer}.bent", f"{layer}.inner"
        self._graph.add("QuickGelu", [gate], [bent], domain=CONTRIB, attributes={"alpha": 1.0})  # x * sigmoid(x)
        self._graph.add("Mul", [bent, up], [inner])
        return self._product(f"{layer}.down.out", inner, f"{layer}.down")

    def _finish(self) -> None:
        """Of the rows that are wanted, norm and logits."""
        self._graph.add("Reshape", ["last_state", "row_shape"], ["rows"])
        for wanted in ("logit", "hidden"):
            self._graph.add("Gather", ["rows", f"{wanted}_rows"], [f"{wanted}_states"], attributes={"axis": 0})
        normed = self._norm("logit_states", "norm")
        self._product("logits", normed, "head")
        gamma, attributes = self._gamma("norm"), {"axis": -1, "epsilon": self._shape.epsilon, "stash_type": 1}
        inputs = ["hidden_states", gamma]
        self._graph.add("SimplifiedLayerNormalization", inputs, ["states"], attributes=attributes)


def graph_bytes(shape: Shape) -> int:
    """What the runtime takes for the structures of a graph: measured, with a margin."""
    return (16 << 20) + shape.layers * 20 * (16 << 10)
