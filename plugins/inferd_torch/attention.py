"""What a layer of the network calls in place of attention, through transformers' `AttentionInterface`."""

from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface

from inferd_torch.plan import Group, Plan
from inferd_torch.pool import Pool

NAME = "inferd_paged"
ATTRIBUTE = "inferd_attend"
# What changes nothing here: tokens lie in one row, in their order, and nothing is dropped. All else that architectures
# ask for, caps, sinks, biases, chosen blocks, would give wrong answers in silence if it was ignored.
HARMLESS = frozenset(
    {
        *("dropout", "deterministic", "use_cache", "cache_position", "position_ids", "return_dict", "logits_to_keep"),
        *("cu_seq_lens_q", "cu_seq_lens_k", "max_length_q", "max_length_k"),
        *("output_attentions", "output_hidden_states", "output_router_logits"),
    }
)


class Attend(Protocol):
    """Attention of one layer: queries (T, H, D), keys (T, G, D), values (T, G, E) -> (T, H, E)."""

    def __call__(  # noqa: D102 - said above
        self, layer: int, queries: Tensor, keys: Tensor, values: Tensor, *, scaling: float, window: int | None
    ) -> Tensor: ...


class AttendRows(Protocol):
    """Paged attention of single rows: queries (S, H, D), pool (blocks, B, G, D) and (blocks, B, G, E) -> (S, H, E)."""

    def __call__(  # noqa: D102 - said above
        self,
        queries: Tensor,
        keys: Tensor,
        values: Tensor,
        tables: Tensor,
        lengths: Tensor,
        *,
        scaling: float,
        window: int | None,
    ) -> Tensor: ...


def register() -> None:
    """Make `NAME` an implementation of attention that transformers knows."""
    AttentionInterface.register(NAME, dispatch)


def install(network: nn.Module, attend: Attend) -> None:
    """Have the layers of a network call `attend`. They find it as an attribute: not every one passes arguments on."""
    for module in network.modules():
        if hasattr(module, "layer_idx"):
            setattr(module, ATTRIBUTE, attend)


def dispatch(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    scaling: float | None = None,
    sliding_window: int | None = None,
    **others: Any,
) -> tuple[Tensor, None]:
    """What transformers calls: of one row of T tokens, query (1, H, T, D), key and value (1, G, T, …).

    Raises:
        NotImplementedError: The architecture needs more than causal attention with an optional window.
    """
    others["attention_mask"] = attention_mask
    causal = others.pop("is_causal", None)
    unknown = [name for name, value in others.items() if value is not None and name not in HARMLESS]
    if not (getattr(module, "is_causal", True) if causal is None else causal):
        unknown.append("is_causal=False")
    if unknown:
        raise NotImplementedError(f"{type(module).__name__} asks attention for {', '.join(unknown)}")
    mixed = getattr(module, ATTRIBUTE)(
        module.layer_idx,
        query[0].transpose(0, 1),
        key[0].transpose(0, 1),
        value[0].transpose(0, 1),
        scaling=query.shape[-1] ** -0.5 if scaling is None else scaling,
        window=sliding_window,
    )
    return mixed[None], None


@dataclass(slots=True)
class PagedAttention:
    """Writes keys and values of a step into the pool and attends over what its sequences have there.

    Attributes:
        pool: The KV blocks of all layers.
        attend_rows: How single rows attend where the plan has `rows`.
        plan: Of the step that is under way; set by the session.
    """

    pool: Pool
    attend_rows: AttendRows
    plan: Plan | None = None

    def __call__(
        self, layer: int, queries: Tensor, keys: Tensor, values: Tensor, *, scaling: float, window: int | None
    ) -> Tensor:
        """See `Attend`."""
        plan = self.plan
        if plan is None:
            raise RuntimeError("a layer computes outside of a step")
        pool_keys, pool_values = self.pool.layers[layer]
        flat_keys, flat_values = pool_keys.flatten(0, 1), pool_values.flatten(0, 1)
        flat_keys[plan.slots] = keys
        flat_values[plan.slots] = values
        at = plan.rows
        if at is not None:
            single = queries if at.index is None else queries[at.index]
            given = self.attend_rows(
                single, pool_keys, pool_values, at.tables, at.lengths, scaling=scaling, window=window
            )
            if at.index is None:
                return given
        mixed = queries.new_empty((*queries.shape[:2], values.shape[-1]))
        if at is not None:
            mixed[at.index] = given
        for group in plan.groups:
            mixed[group.rows] = attend_group(
                queries[group.rows],
                flat_keys[group.slots],
                flat_values[group.slots],
                group,
                scaling=scaling,
                window=window,
            )
        return mixed


def attend_group(
    queries: Tensor, keys: Tensor, values: Tensor, group: Group, *, scaling: float, window: int | None
) -> Tensor:
    """Attention of queries (S, N, H, D) over gathered keys (S, L, G, D) and values (S, L, G, E) -> (S, N, H, E)."""
    mixed = scaled_dot_product_attention(
        queries.transpose(1, 2),
        keys.transpose(1, 2),
        values.transpose(1, 2),
        attn_mask=group.mask(window),
        scale=scaling,
        enable_gqa=queries.shape[2] != keys.shape[2],
    )
    return mixed.transpose(1, 2)
