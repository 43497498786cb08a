"""What the tokens of a prompt are worth for what follows them: by gradients, and by attention.

Gradients: one point of the straight way from a sequence with other embeddings to the sequence itself (Sundararajan et
al., 2017); the mean over points is the integral. Attention: rollout (Abnar and Zuidema, 2020): layer by layer, the mean
over heads of what each token attends to, and itself with the same weight.

Both compute the whole sequence at once, beside the pool of KV blocks, by the modules of the network. Of gradients a
layer keeps what comes into it and computes the rest again: memory is that of one layer, and of what lies between them.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention
from torch.utils.checkpoint import checkpoint

from inferd.plugin import Attribution, AttributionPass
from inferd_torch.capacity import SCORED_NUMBERS
from inferd_torch.scoring import Scoring

PACKED = "inferd_torch.packed"  # modules whose products have no gradient


def attributions_of(network: nn.Module) -> frozenset[Attribution]:
    """What a network can be attributed by: gradients need weights that are plain numbers."""
    packed = any(type(module).__module__.startswith(PACKED) for module in network.modules())
    return frozenset({Attribution.ATTENTION} if packed else Attribution)


class DenseAttention:
    """Attention of one whole sequence, of which gradients can be taken. See `inferd_torch.attention.Attend`.

    Attributes:
        advance: Called with each layer.
        rollout: Shape (T, T): how much of each token there is in each so far; None to leave it.
    """

    def __init__(self, advance: Callable[[], None], rollout: Tensor | None = None) -> None:
        self.advance = advance
        self.rollout = rollout

    def __call__(self, layer: int, queries: Tensor, keys: Tensor, values: Tensor, *, scoring: Scoring) -> Tensor:  # noqa: ARG002 - all are alike
        """Attention of queries (T, H, D) over keys (T, G, D) and values (T, G, E) -> (T, H, E)."""
        self.advance()
        seen = causal(len(queries), scoring.window, queries.device)
        if scoring.plain and self.rollout is None:
            mixed = scaled_dot_product_attention(
                queries.transpose(0, 1)[None],
                keys.transpose(0, 1)[None],
                values.transpose(0, 1)[None],
                attn_mask=seen,
                scale=scoring.scaling,
                enable_gqa=queries.shape[1] != keys.shape[1],
            )
            return mixed[0].transpose(0, 1)
        rows = max(1, SCORED_NUMBERS // (len(keys) * queries.shape[1]))
        parts: list[Tensor] = []
        rolled: list[Tensor] = []
        for begin in range(0, len(queries), rows):
            some, own = queries[begin : begin + rows], seen[begin : begin + rows]
            shares = _shares(some, keys, own, scoring)
            parts.append(torch.einsum("grnl,lge->ngre", shares, values.float()).flatten(1, 2).to(values.dtype))
            if self.rollout is not None:
                mean = shares.flatten(0, 1).mean(0)
                rolled.append(mean / mean.sum(-1, keepdim=True) @ self.rollout)
        if self.rollout is not None:
            self.rollout = (torch.cat(rolled) + self.rollout) / 2
        return torch.cat(parts)


def causal(tokens: int, window: int | None, device: torch.device) -> Tensor:
    """Which tokens see which, shape (T, T)."""
    places = torch.arange(tokens, device=device)
    seen = places[None] <= places[:, None]
    return seen if window is None else seen & (places[None] > places[:, None] - window)


def _shares(queries: Tensor, keys: Tensor, seen: Tensor, scoring: Scoring) -> Tensor:
    """What queries (N, H, D) attend to of keys (L, G, D), shape (G, R, N, L)."""
    grouped = queries.reshape(len(queries), keys.shape[1], -1, queries.shape[-1])
    scores = torch.einsum("ngrd,lgd->grnl", grouped.float(), keys.float()) * scoring.scaling
    if scoring.softcap is not None:
        scores = (scores / scoring.softcap).tanh() * scoring.softcap
    scores = scores.masked_fill(~seen, float("-inf"))
    if scoring.sinks is None:
        return scores.softmax(dim=-1)
    sinks = scoring.sinks.float().reshape(*scores.shape[:2], 1, 1)
    return torch.cat((scores, sinks.expand(*scores.shape[:3], 1)), dim=-1).softmax(dim=-1)[..., :-1]


@contextmanager
def layers_computed_again(network: nn.Module, layers: int) -> Iterator[None]:
    """In this, layers keep of a forward pass what comes into them alone, and are computed again for their gradients."""
    found = [
        list(module)
        for module in network.modules()
        if isinstance(module, nn.ModuleList) and len(module) == layers and _attends(module)
    ]
    wrapped: list[Any] = found[0] if found else []
    for layer in wrapped:
        layer.forward = partial(checkpoint, layer.forward, use_reentrant=False, preserve_rng_state=False)
    try:
        yield
    finally:
        for layer in wrapped:
            del layer.forward


def _attends(layers: nn.ModuleList) -> bool:
    return all(any(hasattr(module, "layer_idx") for module in layer.modules()) for layer in layers)


def by_gradients(network: Any, asked: AttributionPass, *, device: torch.device) -> Any:
    """The gradient at one point of the way, times the way, of each token: shape (T - told,), float32, in nats.

    Args:
        network: Whose layers attend by a `DenseAttention`.
        asked: What is asked.
        device: Where the network is.
    """
    ids = torch.from_numpy(asked.token_ids).to(device, torch.int64)
    places = torch.from_numpy(asked.places).to(device, torch.int64)
    embed = network.get_input_embeddings()
    with torch.no_grad():
        own = embed(ids[None])[0]
        other = embed(torch.full((1, 1), asked.baseline_id, device=device))[0, 0]
        way = torch.zeros_like(own)
        way[places] = own[places] - other
        at = own - (1.0 - asked.at) * way
    with torch.enable_grad():
        at.requires_grad_()
        worth = _worth(network, at, ids, asked.told)
        (gradient,) = torch.autograd.grad(worth, at)
    return (gradient.float() * way.float()).sum(-1)[: len(ids) - asked.told].cpu().numpy()


def _worth(network: Any, embedded: Tensor, ids: Tensor, told: int) -> Tensor:
    """The logarithm of the probability of the last tokens, in nats."""
    rows = torch.arange(len(ids) - told - 1, len(ids) - 1, device=ids.device)
    output = network(
        inputs_embeds=embedded[None],
        position_ids=torch.arange(len(ids), device=ids.device)[None],
        use_cache=False,
        logits_to_keep=rows,
    )
    logprobs: Tensor = output.logits[0].float().log_softmax(-1)
    return logprobs.gather(-1, ids[-told:, None]).sum()


def by_attention(network: Any, asked: AttributionPass, attention: DenseAttention, *, device: torch.device) -> Any:
    """How much of each token there is, in the mean, where the last ones are chosen: shape (T - told,), float32."""
    ids = torch.from_numpy(asked.token_ids).to(device, torch.int64)
    count = len(ids)
    attention.rollout = torch.eye(count, device=device)
    with torch.inference_mode():
        network(
            input_ids=ids[None],
            position_ids=torch.arange(count, device=device)[None],
            use_cache=False,
            logits_to_keep=ids[:0],
        )
        rolled = attention.rollout[count - asked.told - 1 : count - 1].mean(0)
    return np.ascontiguousarray(rolled[: count - asked.told].cpu().numpy())
