"""The tiny models in fp64, with numbers rounded where the native library rounds them: what its formats cost.

What rounding costs depends on the formats alone, not on a processor. So the error of an instruction set is measured
against that of this network with the same formats: of which one part is the formats' and none may be the code's.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import tiny_models as tiny
from numpy.typing import NDArray

Numbers = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Rounding:
    """What is rounded.

    Attributes:
        products: Activations to 8 bits a block, or with their weights to bf16; None leaves weights alone, too.
        kv: Queries, keys, values and the weights of values; None or "f32" for none.
    """

    products: Literal["int8", "bf16"] | None = None
    kv: Literal["i8", "bf16", "f32"] | None = None


def round_to_bf16(x: Numbers) -> Numbers:
    """To the nearest number with eight bits of mantissa."""
    fraction, exponent = np.frexp(x)
    return np.ldexp(np.rint(fraction * 256), exponent - 8)


def round_to_bytes(x: Numbers, most: int = 127) -> Numbers:
    """Whole numbers from -most to most, times what the largest number of the last axis needs."""
    scale = np.abs(x).max(axis=-1, keepdims=True) / most
    return np.rint(np.divide(x, scale, out=np.zeros_like(x), where=scale > 0)) * scale


def in_blocks(x: Numbers, *, halves: bool = False) -> Numbers:
    """Blocks of 32 numbers of the last axis in 8 bits, their scales perhaps as halves."""
    blocks = x.reshape(-1, 32)
    scale = np.abs(blocks).max(axis=1, keepdims=True) / 127
    if halves:
        scale = scale.astype(np.float16).astype(np.float64)
    return (np.rint(blocks / np.where(scale > 0, scale, 1)) * scale).reshape(x.shape)


class RoundedNetwork:
    """One of the tiny models.

    Args:
        model: Which.
        rounding: What is rounded.
    """

    def __init__(self, model: tiny.TinyModel, rounding: Rounding) -> None:
        self._model = model
        self._rounding = rounding
        self._weights = {name: w.astype(np.float64) for name, w in tiny.make_weights(model).items()}
        for name, weight in self._weights.items():
            if rounding.products and weight.ndim == 2:
                self._weights[name] = in_blocks(weight, halves=True)

    def compute(self, ids: list[int]) -> Numbers:
        """Logits behind each token of one sequence."""
        return self._multiply(self.compute_hidden(ids), "model.embed_tokens" if self._model.tied else "lm_head")

    def compute_hidden(self, ids: list[int]) -> Numbers:
        """Hidden states behind the last norm."""
        residual = self._weights["model.embed_tokens.weight"][ids]
        for layer in range(tiny.LAYERS):
            self._prefix = f"model.layers.{layer}."
            residual = residual + self._attend(self._normalize(residual, self._prefix + "input_layernorm"))
            residual = residual + self._feed(self._normalize(residual, self._prefix + "post_attention_layernorm"))
        return self._normalize(residual, "model.norm")

    def _normalize(self, x: Numbers, name: str) -> Numbers:
        return x / np.sqrt(np.mean(x**2, axis=-1, keepdims=True) + tiny.EPSILON) * self._weights[name + ".weight"]

    def _multiply(self, x: Numbers, name: str, *, fine: bool = False) -> Numbers:
        """Fine rows of 8 bits come in two: the second one has what the first has lost."""
        weight = self._weights[name + ".weight"]
        if self._rounding.products == "bf16":
            x, weight = round_to_bf16(x), round_to_bf16(weight)
        elif self._rounding.products == "int8":
            once = in_blocks(x)
            x = once + in_blocks(x - once) if fine else once
        bias = self._weights.get(name + ".bias", 0.0)
        return x @ weight.T + bias

    def _feed(self, x: Numbers) -> Numbers:
        gate, up = (self._multiply(x, f"{self._prefix}mlp.{part}_proj") for part in ("gate", "up"))
        return self._multiply(gate / (1 + np.exp(-gate)) * up, self._prefix + "mlp.down_proj")

    def _attend(self, x: Numbers) -> Numbers:
        heads = {}
        for part in "qkv":
            numbers = self._multiply(x, f"{self._prefix}self_attn.{part}_proj", fine=part != "v")
            heads[part] = numbers.reshape(len(x), -1, tiny.HEAD_WIDTH).swapaxes(0, 1)
            if part != "v":
                if self._model.head_norms:
                    heads[part] = self._normalize(heads[part], f"{self._prefix}self_attn.{part}_norm")
                heads[part] = self._rotate(heads[part])
        shared = tiny.HEADS // tiny.KV_HEADS
        mixed = attend(heads["q"], *(np.repeat(heads[part], shared, axis=0) for part in "kv"), kv=self._rounding.kv)
        return self._multiply(mixed.swapaxes(0, 1).reshape(len(x), -1), self._prefix + "self_attn.o_proj")

    def _rotate(self, x: Numbers) -> Numbers:
        half = tiny.HEAD_WIDTH // 2
        frequencies = self._model.rope_base ** -(np.arange(half) / half)
        if self._model.scaling == "linear":
            frequencies = frequencies / 2
        if self._model.scaling == "llama3":
            frequencies = frequencies / tiny.make_llama3_divisors(self._model.rope_base)
        angles = np.arange(x.shape[1])[:, None] * frequencies
        first, second = x[..., :half], x[..., half:]
        cosine, sine = np.cos(angles), np.sin(angles)
        return np.concatenate([first * cosine - second * sine, second * cosine + first * sine], axis=-1)


def attend(queries: Numbers, keys: Numbers, values: Numbers, *, kv: str | None, segment_tokens: int = 128) -> Numbers:
    """Causal attention of heads, shapes (heads, tokens, width), with what a KV format rounds.

    Args:
        queries: Of the last tokens of a sequence, or of all.
        keys: Of all tokens.
        values: The same.
        kv: The format.
        segment_tokens: In 8 bits weights are rounded by the largest of so many.
    """
    queries = queries / np.sqrt(queries.shape[-1])
    if kv == "bf16":
        queries, keys, values = round_to_bf16(queries), round_to_bf16(keys), round_to_bf16(values)
    elif kv == "i8":
        turn = make_hadamard(keys.shape[-1])
        queries, keys, values = round_to_bytes(queries @ turn), round_to_bytes(keys @ turn), round_to_bytes(values)
    scores = queries @ keys.swapaxes(1, 2)
    first = keys.shape[1] - queries.shape[1]
    hidden = np.arange(keys.shape[1]) > first + np.arange(queries.shape[1])[:, None]
    scores = np.where(hidden, -np.inf, scores)
    weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
    if kv == "bf16":
        weights = round_to_bf16(weights)
    totals = weights.sum(axis=-1, keepdims=True)
    if kv == "i8":  # a value's scale is part of its weight
        scales = np.abs(values).max(axis=-1)[:, None]
        scaled = weights * scales
        for begin in range(0, keys.shape[1], segment_tokens):
            part = scaled[..., begin : begin + segment_tokens]
            part[:] = round_to_bytes(part, 255)
        weights = np.divide(scaled, scales, out=np.zeros_like(scaled), where=scales > 0)
    return weights @ values / totals


def make_hadamard(width: int) -> Numbers:
    """Turns as many numbers together as the largest power of two that divides the width; orthogonal."""
    together = width & -width
    turn = np.ones((1, 1))
    while len(turn) < together:
        turn = np.block([[turn, turn], [turn, -turn]])
    return np.kron(np.eye(width // together), turn / np.sqrt(together))
