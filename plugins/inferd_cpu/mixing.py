"""How a block mixes tokens: attention, attention over latent keys and values, and short convolutions.

Each puts what it keeps of the step's tokens into the pool, and reads what earlier steps have put there.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from inferd_cpu.attention import attend, make_slopes
from inferd_cpu.delta import DeltaMixer
from inferd_cpu.norms import multiply, normalize
from inferd_cpu.plan import Plan
from inferd_cpu.shapes import Architecture, Latent, LayerShape
from inferd_cpu.weights import Layer, Weights
from inferd_cpu.workspace import Workspace

Floats = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Place:
    """What a layer keeps: keys (blocks, B, H, D) and values (blocks, B, H, E); what a convolution keeps is its keys.

    What a recurrent layer keeps of a sequence is its keys, too: of shape (blocks, numbers).

    `apart`: in blocks of the pool of layers with a window.
    """

    keys: Floats
    values: Floats
    apart: bool = False

    def put(self, plan: Plan, keys: Floats, values: Floats | None = None) -> None:
        """Put what belongs to the step's tokens where the plan says."""
        slots = plan.window_slots if self.apart else plan.slots
        flat = self.keys.reshape(-1, *self.keys.shape[2:])
        flat[slots] = keys
        if values is not None:
            self.values.reshape(-1, *self.values.shape[2:])[slots] = values


class Mixer:
    """Mixes the tokens of a step. T is the number of its rows.

    Args:
        architecture: Of the model.
        workspace: Its queries, keys, values and scores are overwritten.
    """

    def __init__(self, architecture: Architecture, workspace: Workspace) -> None:
        self._architecture = architecture
        self._work = workspace
        self._plan: Plan
        self._turns: list[tuple[Floats, Floats]] = []
        self._temperatures: Floats | None = None
        self._delta: DeltaMixer | None = None
        if (delta := architecture.delta) is not None:
            tiled = architecture.family.delta == "tiled"
            self._delta = DeltaMixer(delta, tiled=tiled, epsilon=architecture.epsilon)

    def begin(self, plan: Plan, weights: Weights, *, turned: NDArray[np.int64] | None = None) -> None:
        """Work out what all layers of a step share; `turned`: positions in time, rows and columns, shape (3, T)."""
        a, self._plan = self._architecture, plan
        positions = plan.positions.astype(np.float32)[:, None]
        if turned is not None:
            positions = turned.astype(np.float32).T[:, a.ropes[0].axes]
        self._turns = []
        longer = weights.long_frequencies or weights.frequencies
        for rope, each, other in zip(a.ropes, weights.frequencies, longer, strict=True):
            chosen = each if plan.beyond is None else np.where(plan.beyond[:, None], other, each)
            angles, size = positions * chosen, np.float32(rope.magnitude)
            self._turns.append((np.cos(angles)[:, None] * size, np.sin(angles)[:, None] * size))
        self._temperatures = None
        if a.temperature_scale:
            grown = np.log1p(plan.positions // a.temperature_tokens)
            self._temperatures = (1 + np.float32(a.temperature_scale) * grown)[:, None, None].astype(np.float32)

    def mix(self, index: int, layer: Layer, place: Place, normed: Floats, *, out: Floats) -> None:
        """Set `out` to what the block's mixing makes of `normed`, both of shape (T, width)."""
        shape = self._architecture.layers[index]
        if shape.recurrent and self._delta:
            self._delta.mix(self._plan, layer, place.keys, normed, apart=place.apart, out=out)
        elif shape.convolves:
            self._convolve(layer, place, normed, out=out)
        elif self._architecture.latent:
            self._attend_latent(self._architecture.latent, shape, layer, place, normed, out=out)
        else:
            self._attend(shape, layer, place, normed, out=out)

    def _attend(self, shape: LayerShape, layer: Layer, place: Place, normed: Floats, *, out: Floats) -> None:
        rows, a = len(normed), self._architecture
        qkv = self._work.qkv[: rows * shape.qkv_width].reshape(rows, shape.qkv_width)
        multiply(normed, layer["qkv"], layer.get("qkv_bias"), out=qkv)
        if a.clamp:
            np.clip(qkv, -a.clamp, a.clamp, out=qkv)
        heads = qkv[:, : shape.qk_width].reshape(rows, -1, shape.key_width)  # of queries, then of keys; a view
        queries, keys = heads[:, : shape.heads], heads[:, shape.heads :]
        if not a.family.head_norms_after:
            self._normalize_heads(layer, queries, keys)
        if shape.rope >= 0:
            self._rotate(heads, shape.rope)
        if a.family.head_norms_after:
            self._normalize_heads(layer, queries, keys)
        queries *= np.float32(a.attention_scale)
        if self._temperatures is not None:
            queries *= self._temperatures
        if shape.shares < 0:
            values = qkv[:, shape.qk_width :].reshape(rows, shape.kv_heads, shape.value_width)
            if a.family.value_norm:
                normalize(values, None, kind="rms", epsilon=a.epsilon, out=values)
            place.put(self._plan, keys, values)
        mixed = self._over_keys(shape, layer, queries, place.keys, place.values)
        if "output_gate" in layer:
            gates = multiply(normed, layer["output_gate"], out=np.empty_like(mixed))
            mixed /= 1 + np.exp(-gates)
        multiply(mixed, layer["mix"], layer.get("mix_bias"), out=out)

    def _over_keys(
        self, shape: LayerShape, layer: Layer, queries: Floats, keys: Floats, values: Floats | None
    ) -> Floats:
        """What attention gives to each row: shape (T, heads * value width)."""
        rows, shared = len(queries), shape.heads // shape.kv_heads
        mixed = self._work.mixed[: rows * shape.mixed_width].reshape(rows, shape.mixed_width)
        grouped = queries.reshape(rows, shape.kv_heads, shared, shape.key_width)
        out = mixed.reshape(rows, shape.kv_heads, shared, shape.value_width)
        slopes = None
        if bias := self._architecture.slope_bias:
            slopes = make_slopes(shape.heads, bias).reshape(shape.kv_heads, shared)
        sinks = layer["sinks"].reshape(shape.kv_heads, shared) if "sinks" in layer else None
        for group in self._plan.groups[shape.window]:
            attend(
                grouped,
                keys,
                values,
                group=group,
                workspace=self._work,
                out=out,
                cap=self._architecture.attention_cap,
                sinks=sinks,
                slopes=slopes,
            )
        return mixed

    def _normalize_heads(self, layer: Layer, queries: Floats, keys: Floats) -> None:
        a = self._architecture
        for heads, weight in ((queries, layer.get("query_norm")), (keys, layer.get("key_norm"))):
            if weight is None:
                continue
            if a.family.head_norms == "row":
                flat = heads.reshape(len(heads), -1)
                heads[:] = normalize(flat, weight, kind=a.family.norm, epsilon=a.epsilon, out=flat).reshape(heads.shape)
            else:
                each = weight.reshape(-1, heads.shape[-1])  # of each head, or one for all
                normalize(heads, each, kind=a.family.norm, epsilon=a.epsilon, out=heads)

    def _rotate(self, heads: Floats, rope: int) -> None:
        """Rotate the pairs (i, i + half) of the first numbers of each head (arXiv:2104.09864)."""
        cosine, sine = self._turns[rope]
        half = cosine.shape[-1]
        first, second = heads[..., :half], heads[..., half : 2 * half]
        size = first.size
        across = self._work.rotated[:size].reshape(first.shape)
        back = self._work.rotated[size : 2 * size].reshape(first.shape)
        np.multiply(first, sine, out=across)
        np.multiply(second, sine, out=back)
        first *= cosine
        first -= back
        second *= cosine
        second += across

    def _attend_latent(
        self, latent: Latent, shape: LayerShape, layer: Layer, place: Place, normed: Floats, *, out: Floats
    ) -> None:
        """Attention over latent keys and values (arXiv:2405.04434), of which all heads read the same row."""
        a, rows = self._architecture, len(normed)
        key_up, value_up = _split_up(layer, shape.heads, latent.key_width)
        queries = self._make_latent_queries(layer, normed).reshape(rows, shape.heads, -1)
        plain, rotated = queries[..., : latent.key_width], queries[..., latent.key_width :]
        self._rotate(rotated, shape.rope)
        kept = multiply(normed, layer["kv_down"], out=np.empty((rows, shape.key_width), np.float32))
        ranked = kept[:, : latent.rank]
        normalize(ranked, layer["kv_norm"], layer.get("kv_norm_bias"), kind="rms", epsilon=a.epsilon, out=ranked)
        self._rotate(kept[:, None, latent.rank :], shape.rope)
        place.put(self._plan, kept[:, None])
        # Queries go up to the rank instead of all keys coming down from it.
        raised = np.empty((rows, shape.heads, shape.key_width), np.float32)
        np.einsum("thd,hrd->thr", plain, key_up, out=raised[..., : latent.rank])
        raised[..., latent.rank :] = rotated
        raised *= np.float32(a.attention_scale)
        mixed = self._over_keys(shape, layer, raised, place.keys, None).reshape(rows, shape.heads, -1)
        values = np.einsum("thr,hvr->thv", mixed, value_up).reshape(rows, -1)
        multiply(values, layer["mix"], layer.get("mix_bias"), out=out)

    def _make_latent_queries(self, layer: Layer, normed: Floats) -> Floats:
        rows = len(normed)
        if "query_down" in layer:
            out = np.empty((rows, len(layer["query_down"])), np.float32)
            down = multiply(normed, layer["query_down"], layer.get("query_down_bias"), out=out)
            normed = normalize(down, layer["query_rank_norm"], kind="rms", epsilon=self._architecture.epsilon, out=down)
        return multiply(normed, layer["query_up"], out=np.empty((rows, len(layer["query_up"])), np.float32))

    def _convolve(self, layer: Layer, place: Place, normed: Floats, *, out: Floats) -> None:
        """A short gated convolution over a token and those before it; the pool keeps what it is applied to."""
        rows, width = normed.shape
        three = multiply(
            normed,
            layer["convolution_in"],
            layer.get("convolution_in_bias"),
            out=np.empty((rows, 3 * width), np.float32),
        )
        given = three[:, :width] * three[:, 2 * width :]
        place.put(self._plan, given[:, None])
        kept, kernel = place.keys.reshape(-1, width), layer["convolution"].reshape(width, -1)
        length = kernel.shape[1]
        mixed = np.zeros((rows, width), np.float32)
        for back in range(length):
            slots, there = self._plan.slots_before(back)
            mixed += np.where(there[:, None], kept[slots], np.float32(0)) * kernel[:, length - 1 - back]
        if "convolution_bias" in layer:
            mixed += layer["convolution_bias"]
        mixed *= three[:, width : 2 * width]
        multiply(mixed, layer["convolution_out"], layer.get("convolution_out_bias"), out=out)


def _split_up(layer: Layer, heads: int, key_width: int) -> tuple[Floats, Floats]:
    """What makes keys and values of the latent row: (heads, rank, key width) and (heads, value width, rank)."""
    if "kv_up" not in layer:
        return layer["key_up"], layer["value_up"]
    both = layer["kv_up"].reshape(heads, -1, layer["kv_up"].shape[-1])
    return both[:, :key_width].transpose(0, 2, 1), both[:, key_width:]
