"""What a layer of the network calls in place of attention, through transformers' `AttentionInterface`."""

from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor, cat, nn, stack
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface

from inferd_torch.capacity import SCORED_NUMBERS
from inferd_torch.plan import Group, Plan
from inferd_torch.pool import Pool
from inferd_torch.scoring import Scoring
from inferd_torch.spans import Spans, attend_seen

NAME = "inferd_paged"
ATTRIBUTE = "inferd_attend"
# What changes nothing here: tokens lie in one row, in their order, and nothing is dropped. All else that architectures
# ask for, biases, chosen blocks, would give wrong answers in silence if it was ignored.
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
        self, layer: int, queries: Tensor, keys: Tensor, values: Tensor, *, scoring: Scoring
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
        scoring: Scoring,
    ) -> Tensor: ...


class AttendSpans(Protocol):
    """Paged attention of spans of rows: queries (T, H, D), pool as for `AttendRows` -> (T, H, E); other rows: any."""

    def __call__(  # noqa: D102 - said above
        self, queries: Tensor, keys: Tensor, values: Tensor, spans: Spans, *, scoring: Scoring
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
    softcap: float | None = None,
    s_aux: Tensor | None = None,
    **others: Any,
) -> tuple[Tensor, None]:
    """What transformers calls: of one row of T tokens, query (1, H, T, D), key and value (1, G, T, …).

    Raises:
        NotImplementedError: The architecture needs more than causal attention with an optional window, cap and sinks.
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
        scoring=Scoring(
            scaling=query.shape[-1] ** -0.5 if scaling is None else scaling,
            window=sliding_window,
            softcap=softcap,
            sinks=s_aux,
        ),
    )
    return mixed[None], None


@dataclass(slots=True)
class PagedAttention:
    """Writes keys and values of a step into the pool and attends over what its sequences have there.

    Attributes:
        pool: The KV blocks of all layers.
        attend_rows: How single rows attend where the plan has `rows`.
        attend_spans: How several rows of a sequence attend where the plan has `spans`.
        plan: Of the step that is under way; set by the session.
    """

    pool: Pool
    attend_rows: AttendRows
    attend_spans: AttendSpans
    plan: Plan | None = None

    def __call__(self, layer: int, queries: Tensor, keys: Tensor, values: Tensor, *, scoring: Scoring) -> Tensor:
        """See `Attend`."""
        slots = self.current.slots
        pool_keys, pool_values = self.pool.layers[layer]
        pool_keys.flatten(0, 1)[slots] = keys
        pool_values.flatten(0, 1)[slots] = values
        return self.attend(layer, queries, scoring=scoring)

    @property
    def current(self) -> Plan:
        """The plan of the step that is under way.

        Raises:
            RuntimeError: There is none.
        """
        if self.plan is None:
            raise RuntimeError("a layer computes outside of a step")
        return self.plan

    def attend(self, layer: int, queries: Tensor, *, scoring: Scoring) -> Tensor:
        """Attend over what is in the pool, the keys and values of this step among it."""
        plan, (keys, values) = self.current, self.pool.layers[layer]
        at = plan.rows
        if at is not None:
            single = queries if at.index is None else queries[at.index]
            given = self.attend_rows(single, keys, values, at.tables, at.lengths, scoring=scoring)
            if at.index is None:
                return given
        if plan.spans is not None:
            mixed = self.attend_spans(queries, keys, values, plan.spans, scoring=scoring)
        else:
            mixed = queries.new_empty((*queries.shape[:2], values.shape[-1]))
        if at is not None:
            mixed[at.index] = given
        for group in plan.groups:
            own_keys, own_values = (each.flatten(0, 1)[group.slots] for each in (keys, values))
            mixed[group.rows] = attend_group(queries[group.rows], own_keys, own_values, group, scoring=scoring)
        return mixed


def attend_group(queries: Tensor, keys: Tensor, values: Tensor, group: Group, *, scoring: Scoring) -> Tensor:
    """Attention of queries (S, N, H, D) over gathered keys (S, L, G, D) and values (S, L, G, E) -> (S, N, H, E)."""
    if not scoring.plain:
        return _attend_scored(queries, keys, values, group, scoring=scoring)
    mixed = scaled_dot_product_attention(
        queries.transpose(1, 2),
        keys.transpose(1, 2),
        values.transpose(1, 2),
        attn_mask=group.mask(scoring.window),
        scale=scoring.scaling,
        enable_gqa=queries.shape[2] != keys.shape[2],
    )
    return mixed.transpose(1, 2)


def _attend_scored(queries: Tensor, keys: Tensor, values: Tensor, group: Group, *, scoring: Scoring) -> Tensor:
    """As `attend_group`, with caps and sinks, a bounded number of scores at a time."""
    mask, shared = group.mask(scoring.window)[:, 0], keys.shape[2]
    most = max(1, SCORED_NUMBERS // (keys.shape[1] * queries.shape[2]))
    return stack(
        [
            cat(
                [
                    attend_seen(
                        some.reshape(len(some), shared, -1, some.shape[-1]), own_keys, own_values, seen, scoring=scoring
                    )
                    for some, seen in zip(own.split(most), own_mask.split(most), strict=True)
                ]
            )
            for own, own_keys, own_values, own_mask in zip(queries, keys, values, mask, strict=True)
        ]
    )
