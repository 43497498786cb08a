"""A decoder of the Llama family with its layers' small steps taken together: ten kernels a layer where there were 45.

It computes what the network of transformers computes, with the same weights, from which it takes two products where
there were five: queries, keys and values are one, gate and up another. What lies between the products are the steps of
`Steps`: here in torch, which states what they do, and in `fused_kernels.py` for CUDA; tests compare them.

Which networks those are is decided by what their modules are, not by a name: see `fuse`.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn.functional import linear, silu

from inferd_torch.attention import PagedAttention
from inferd_torch.packed.linear import PackedLinear, merge_packed
from inferd_torch.packed.rounded import RoundedLinear, merge_rounded
from inferd_torch.scoring import Scoring

FAMILIES = {  # whose layers are: norm, attention with rotated halves, sum, norm, gated network, sum
    ("llama", "LlamaForCausalLM"),
    ("mistral", "MistralForCausalLM"),
    ("qwen2", "Qwen2ForCausalLM"),
    ("qwen3", "Qwen3ForCausalLM"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Rotation:
    """How a layer makes queries, keys and values of what it has projected.

    Attributes:
        heads: Of queries.
        shared: Heads of keys, and of values.
        width: Of a head.
        cosines: Of each position, for half a head, shape (C, width / 2), float32; `sines` alike.
        sines: See `cosines`.
        slots: Where each token's key and value go, counted in tokens of the pool; shape (T,).
        positions: Of the tokens, shape (T,).
        query_norm: Weight of the norm over a query's head, shape (width,), or None.
        key_norm: The same of a key.
        epsilon: Of these norms.
    """

    heads: int
    shared: int
    width: int
    cosines: Tensor
    sines: Tensor
    slots: Tensor
    positions: Tensor
    query_norm: Tensor | None
    key_norm: Tensor | None
    epsilon: float


class Steps(Protocol):
    """What lies between the products of a layer."""

    def norm(self, hidden: Tensor, added: Tensor | None, weight: Tensor, epsilon: float) -> Tensor:
        """Add to the hidden states (T, W), in place, and give their RMS norm."""
        ...

    def rotate(self, projected: Tensor, rotation: Rotation, keys: Tensor, values: Tensor) -> Tensor:
        """Give the queries (T, H, D) of what was projected (T, (H + 2G) D), and write keys and values into the pool."""
        ...

    def gate(self, projected: Tensor) -> Tensor:
        """The product of the gates, through SiLU, and what they let pass: (T, 2I) -> (T, I)."""
        ...


class TorchSteps:
    """`Steps` in torch."""

    def norm(self, hidden: Tensor, added: Tensor | None, weight: Tensor, epsilon: float) -> Tensor:
        """As transformers: the sum is rounded before it is squared, the norm before it is weighed."""
        if added is not None:
            hidden.add_(added)
        return weight * _normed(hidden, epsilon)

    def rotate(self, projected: Tensor, rotation: Rotation, keys: Tensor, values: Tensor) -> Tensor:
        """As transformers, but that a rotation is rounded once."""
        r, count = rotation, len(projected)
        heads = projected.view(count, r.heads + 2 * r.shared, r.width)
        queries, own_keys, own_values = torch.split(heads, [r.heads, r.shared, r.shared], dim=1)
        if r.query_norm is not None and r.key_norm is not None:
            queries = r.query_norm * _normed(queries, r.epsilon)
            own_keys = r.key_norm * _normed(own_keys, r.epsilon)
        cosines, sines = r.cosines[r.positions][:, None], r.sines[r.positions][:, None]
        keys.flatten(0, 1)[r.slots] = _turned(own_keys, cosines, sines).to(keys.dtype)
        values.flatten(0, 1)[r.slots] = own_values.to(values.dtype)
        return _turned(queries, cosines, sines)

    def gate(self, projected: Tensor) -> Tensor:
        """As transformers."""
        gates, passed = projected.chunk(2, dim=-1)
        return silu(gates) * passed


def _normed(numbers: Tensor, epsilon: float) -> Tensor:
    wide = numbers.float()
    return (wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + epsilon)).to(numbers.dtype)


def _turned(heads: Tensor, cosines: Tensor, sines: Tensor) -> Tensor:
    left, right = heads.float().chunk(2, dim=-1)
    return torch.cat((left * cosines - right * sines, right * cosines + left * sines), dim=-1).to(heads.dtype)


Product = Callable[[Tensor], Tensor]
LINEAR = frozenset({nn.Linear, PackedLinear, RoundedLinear})


@dataclass(frozen=True, slots=True)
class _Layer:
    first_norm: Tensor
    projection: Product
    query_norm: Tensor | None
    key_norm: Tensor | None
    output: Product
    second_norm: Tensor
    gates: Product
    down: Product
    scoring: Scoring


class FusedDecoder:
    """The network, for one row of tokens and a paged pool.

    Args:
        network: Of transformers; its weights become views of the merged ones, so that it still computes.
        windows: The sliding window of each layer, or None.
        context_tokens: Positions that it will be asked for.
        steps: What computes what is between its products.
        freed: Is called when the weights of a layer were merged, and theirs are nobody's.
    """

    def __init__(
        self,
        network: Any,
        *,
        windows: Mapping[int, int | None],
        context_tokens: int,
        steps: Steps,
        freed: Callable[[], object],
    ) -> None:
        base = network.model
        self._steps = steps
        self._embed, self._head = base.embed_tokens, network.lm_head
        self._norm, self._epsilon = base.norm.weight, base.norm.variance_epsilon
        attention = base.layers[0].self_attn
        self._width = attention.head_dim
        self._heads = attention.q_proj.out_features // self._width
        self._shared = attention.k_proj.out_features // self._width
        with torch.no_grad():
            self._cosines, self._sines = rotation_tables(base.rotary_emb, context_tokens, self._norm.device)
            self._layers: list[_Layer] = []
            for number, layer in enumerate(base.layers):
                self._layers.append(_take(layer, windows[number]))
                freed()

    def __call__(self, attention: PagedAttention) -> Tensor:
        """The hidden states (T, W) behind the last norm, of the step that `attention` has under way."""
        plan = attention.current
        hidden, added = self._embed(plan.token_ids), None
        for number, layer in enumerate(self._layers):
            normed = self._steps.norm(hidden, added, layer.first_norm, self._epsilon)
            rotation = Rotation(
                heads=self._heads,
                shared=self._shared,
                width=self._width,
                cosines=self._cosines,
                sines=self._sines,
                slots=plan.slots,
                positions=plan.positions,
                query_norm=layer.query_norm,
                key_norm=layer.key_norm,
                epsilon=self._epsilon,
            )
            projected = layer.projection(normed)
            queries = self._steps.rotate(projected, rotation, *attention.pool.layers[number])
            mixed = attention.attend(number, queries, scoring=layer.scoring)
            normed = self._steps.norm(hidden, layer.output(mixed.flatten(1)), layer.second_norm, self._epsilon)
            added = layer.down(self._steps.gate(layer.gates(normed)))
        return self._steps.norm(hidden, added, self._norm, self._epsilon)

    def logits(self, hidden: Tensor) -> Tensor:
        """Logits (R, V) of hidden states (R, W)."""
        found: Tensor = self._head(hidden)
        return found


def fuse(
    network: Any,
    *,
    windows: Mapping[int, int | None],
    context_tokens: int,
    steps: Callable[[], Steps],
    freed: Callable[[], object] = lambda: None,
) -> FusedDecoder | None:
    """The network with its small steps taken together, see `FusedDecoder`; None where it is made of other modules."""
    kind = type(network)
    if (kind.__module__.split(".")[-2], kind.__name__) not in FAMILIES or not _is_plain(network):
        return None
    return FusedDecoder(network, windows=windows, context_tokens=context_tokens, steps=steps(), freed=freed)


def _is_plain(network: Any) -> bool:
    """Whether nothing in it is of another kind than what `FusedDecoder` computes."""
    base, config = network.model, network.config
    width = base.layers[0].self_attn.head_dim
    norms = {float(layer.input_layernorm.variance_epsilon) for layer in base.layers}
    probe = torch.zeros((1, 1), dtype=torch.long, device=base.norm.weight.device)
    cosines, _ = base.rotary_emb(base.norm.weight.new_zeros(1, dtype=torch.float32), probe)
    return (
        config.hidden_act in {"silu", "swish"}
        and norms == {float(base.norm.variance_epsilon)}
        and cosines.shape[-1] == width  # rotated as a whole
        and width % 2 == 0
        and all(type(each) in LINEAR for layer in base.layers for each in _products(layer))
        and type(network.lm_head) in LINEAR
    )


def _products(layer: Any) -> Sequence[Any]:
    attention, gated = layer.self_attn, layer.mlp
    return (
        *(attention.q_proj, attention.k_proj, attention.v_proj, attention.o_proj),
        *(gated.gate_proj, gated.up_proj, gated.down_proj),
    )


def _take(layer: Any, window: int | None) -> _Layer:
    query, key, value, output, gate, up, down = _products(layer)
    attention = layer.self_attn
    return _Layer(
        first_norm=layer.input_layernorm.weight,
        projection=_merge(query, key, value),
        query_norm=attention.q_norm.weight if hasattr(attention, "q_norm") else None,
        key_norm=attention.k_norm.weight if hasattr(attention, "k_norm") else None,
        output=output,
        second_norm=layer.post_attention_layernorm.weight,
        gates=_merge(gate, up),
        down=down,
        scoring=Scoring(scaling=attention.scaling, window=window),
    )


def _merge(*products: Any) -> Product:
    """Their weights as one, of which theirs are parts from now on: nothing is held twice.

    Packed ones that cannot be one, and those of several kinds, are computed one after the other.
    """
    if all(type(product) is RoundedLinear for product in products):
        return merge_rounded(products)
    if any(type(product) is not nn.Linear for product in products):
        together = merge_packed(products) if all(type(each) is PackedLinear for each in products) else None
        return together or (lambda rows: torch.cat([product(rows) for product in products], dim=-1))
    merged: list[Tensor | None] = []
    for name in ("weight", "bias"):
        parts = [getattr(product, name) for product in products]
        if parts[0] is None:
            merged.append(None)
            continue
        whole = torch.cat([part.data for part in parts])
        for part, view in zip(parts, torch.split(whole, [len(part) for part in parts]), strict=True):
            part.data = view
        merged.append(whole)
    weight, bias = merged
    if weight is None:
        raise TypeError("a product has no weights")
    return partial(linear, weight=weight, bias=bias)


def rotation_tables(rotary: Any, context_tokens: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Cosines and sines of positions for half a head, shape (C, D / 2), float32, as the network's module has them."""
    positions = torch.arange(context_tokens, device=device)[None]
    found = rotary(torch.zeros(1, dtype=torch.float32, device=device), positions)
    half = found[0].shape[-1] // 2
    cosines, sines = (each[0, :, :half].float().contiguous() for each in found)
    return cosines, sines
