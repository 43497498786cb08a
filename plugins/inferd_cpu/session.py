"""The forward pass of a decoder, fp32, several ragged sequences in a step: the reference for all that is compiled."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from inferd.plugin import StepResult, TokenBatch, TokenLimits
from inferd_cpu.delta import check_states
from inferd_cpu.embedding import embed
from inferd_cpu.feeds import add_experts_beside, feed
from inferd_cpu.layer_inputs import make_layer_inputs
from inferd_cpu.mixing import Mixer, Place
from inferd_cpu.norms import multiply, normalize
from inferd_cpu.plan import check_pairs, make_plan
from inferd_cpu.shapes import Architecture
from inferd_cpu.streams import Streams
from inferd_cpu.vision.tower import Tower, Watch
from inferd_cpu.weights import Layer, Weights
from inferd_cpu.workspace import count_blocks, make_workspace

Floats = NDArray[np.float32]


class CpuSession:
    """A loaded model and its pool of KV blocks."""

    def __init__(
        self,
        *,
        architecture: Architecture,
        weights: Weights,
        limits: TokenLimits,
        separator: int = -1,
        tower: Tower | None = None,
    ) -> None:
        a = self._architecture = architecture
        self._weights = weights
        self._limits = limits
        self._separator = separator
        self._tower = tower
        self._workspace = make_workspace(a, limits)
        self._mixer = Mixer(a, self._workspace)
        self._windows = sorted({layer.window for layer in a.layers if not layer.recurrent})
        self._places: list[Place] = []
        for index, shape in enumerate(a.layers):
            self._places.append(self._places[shape.shares] if shape.shares >= 0 else self._make_place(index))
        self._streams = Streams(a, weights)
        self._state = next((p for p, each in zip(self._places, a.layers, strict=True) if each.recurrent), None)

    @property
    def limits(self) -> TokenLimits:
        """What it can do."""
        return self._limits

    def step(self, batch: TokenBatch) -> StepResult:
        """Compute one step.

        Raises:
            ValueError: The batch is not what `TokenBatch` promises, or exceeds the limits. Nothing has changed.
        """
        a, work, weights = self._architecture, self._workspace, self._weights
        watch = Watch(self._tower, batch)
        plan = make_plan(
            batch,
            self._limits,
            reach=watch.reach,
            gathered_blocks=count_blocks(self._limits),
            scores_per_head=len(work.scores) // max(layer.heads for layer in a.layers),
            windows=self._windows,
            causal=not a.family.encodes,
        )
        if (state := self._state) is not None:
            check_states(plan, state.keys, apart=state.apart)
        residual = work.residual[: len(plan.token_ids)]
        embed(a, weights, plan.token_ids, plan.positions, plan.starts, separator=self._separator, out=residual)
        if (found := watch.find()) is not None:
            rows, vectors = found
            residual[rows] = vectors
        self._mixer.begin(plan, weights, turned=watch.turn())
        with np.errstate(over="ignore"):  # exp of a large number is inf, and a gate divided by that is 0, as it should
            inputs = make_layer_inputs(a, weights, plan.token_ids, residual)
            hidden_states = self._streams.begin(residual)
            for index, layer in enumerate(weights.layers):
                active = self._streams.predict(layer, hidden_states)
                self._add_block(index, layer, active)
                self._streams.correct(layer, hidden_states, active)
                if inputs is not None:
                    self._streams.add_inputs(layer, hidden_states, inputs[index])
                if "output_scale" in layer:
                    active *= layer["output_scale"]
            residual = self._streams.end(hidden_states)
        hidden = None
        if batch.hidden_rows is not None:
            hidden = self._normalize(residual[batch.hidden_rows], weights.norm, weights.norm_bias)
        return watch.tell(StepResult(logits=self._compute_logits(residual[plan.logit_rows]), hidden=hidden))

    def copy_blocks(self, pairs: Sequence[tuple[int, int]]) -> None:
        """Copy KV blocks, each pair from its first to its second; in order.

        Raises:
            ValueError: A block is outside the pool. Nothing has changed.
        """
        check_pairs(pairs, self._limits)
        for source, target in pairs:
            apart = source >= self._limits.blocks
            back = self._limits.blocks if apart else 0
            for place in self._places:
                if place.apart == apart:
                    place.keys[target - back] = place.keys[source - back]
                    place.values[target - back] = place.values[source - back]

    def close(self) -> None:
        """Give the memory back."""
        if self._tower is not None:
            self._tower.close()
        del self._weights, self._workspace, self._mixer, self._places, self._state, self._streams

    def _make_place(self, index: int) -> Place:
        # Zeros, not leftovers: a row multiplies values that it must not see with 0, and 0 times NaN is not 0.
        a, limits = self._architecture, self._limits
        shape, heads = a.layers[index], max(a.layers[index].kv_heads, 1)
        keys, values = a.kept_widths(index)
        apart = limits.window_blocks > 0 and shape.window > 0
        if shape.recurrent and a.delta:
            count = limits.window_blocks if apart else limits.blocks
            return Place(
                np.zeros((count, a.delta.state_floats), np.float32), np.zeros((count, 0), np.float32), apart=apart
            )
        blocks = (limits.window_blocks if apart else limits.blocks, limits.block_tokens, heads)
        return Place(
            np.zeros((*blocks, keys // heads), np.float32),
            np.zeros((*blocks, values // heads if shape.kv_heads else 0), np.float32),
            apart=apart,
        )

    def _add_block(self, index: int, layer: Layer, residual: Floats) -> None:
        """Add what a block makes of `residual` to it."""
        a, rows = self._architecture, len(residual)
        normed, delta = self._workspace.normed[:rows], self._workspace.delta[:rows]
        self._prepare(residual, layer.get("attention_norm"), layer.get("attention_norm_bias"), out=normed)
        around = self._streams.go_around(layer, normed)
        self._mixer.mix(index, layer, self._places[index], normed, out=delta)
        if a.parallel and "feed_norm" in layer:
            self._prepare(residual, layer.get("feed_norm"), layer.get("feed_norm_bias"), out=normed)
        self._add(residual, delta, layer.get("attention_post_norm"), layer.get("attention_post_norm_bias"))
        if around is not None:
            residual += around
            residual *= np.float32(0.5**0.5)
        if not a.parallel:
            self._prepare(residual, layer.get("feed_norm"), layer.get("feed_norm_bias"), out=normed)
        feed(a, a.layers[index], layer, normed, self._workspace, out=delta)
        if a.routing and "expert_norm" in layer:
            add_experts_beside(a, a.routing, layer, residual, self._workspace, out=delta)
        self._add(residual, delta, layer.get("feed_post_norm"), layer.get("feed_post_norm_bias"))

    def _prepare(self, residual: Floats, weight: Floats | None, bias: Floats | None, *, out: Floats) -> None:
        """What a part of a block is given: the norm of the hidden states, or these themselves."""
        if weight is None:
            out[:] = residual
        else:
            self._normalize(residual, weight, bias, out=out)

    def _add(self, residual: Floats, delta: Floats, weight: Floats | None, bias: Floats | None) -> None:
        """Add what a part of a block gives, normalised and scaled where the architecture does so."""
        if self._architecture.family.sum_norms:
            residual += delta
            self._normalize(residual, weight, bias)
            return
        if weight is not None:
            self._normalize(delta, weight, bias, out=delta)
        if self._architecture.residual_scale != 1:
            delta *= np.float32(self._architecture.residual_scale)
        residual += delta

    def _compute_logits(self, residual: Floats) -> Floats:
        a, rows, work = self._architecture, len(residual), self._workspace
        # More rows than sequences are for tests and scoring; they pay for their own array.
        fits = rows <= len(work.logits)
        logits = work.logits[:rows] if fits else np.empty((rows, self._limits.vocabulary_size), np.float32)
        if a.family.encodes:  # it has no head, and nobody asks for a next token
            logits[:] = 0
            return logits
        normed = self._normalize(residual, self._weights.norm, self._weights.norm_bias)
        multiply(normed, self._weights.head, self._weights.head_bias, out=logits)
        if a.logit_scale != 1:
            logits *= np.float32(a.logit_scale)
        if a.logit_cap:
            logits /= np.float32(a.logit_cap)
            np.tanh(logits, out=logits)
            logits *= np.float32(a.logit_cap)
        return logits

    def _normalize(
        self, numbers: Floats, weight: Floats | None, bias: Floats | None = None, *, out: Floats | None = None
    ) -> Floats:
        a = self._architecture
        into = numbers if out is None else out
        if weight is None:
            return into
        return normalize(numbers, weight, bias, kind=a.family.norm, epsilon=a.epsilon, out=into)
