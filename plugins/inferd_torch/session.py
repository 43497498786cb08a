"""The forward pass: all tokens of a step as one row through the network, attention over the paged pool."""

import gc
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from inferd.plugin import (
    Attribution,
    AttributionPass,
    KvLayout,
    ReadAdapter,
    StepResult,
    TokenBatch,
    TokenLimits,
)
from inferd_torch.adapters import Adapting
from inferd_torch.attention import AttendRows, AttendSpans, PagedAttention, install
from inferd_torch.attributing import DenseAttention, attributions_of, by_attention, by_gradients, layers_computed_again
from inferd_torch.faults import guard
from inferd_torch.fused import FusedDecoder
from inferd_torch.last_tokens import LastTokens
from inferd_torch.plan import Plan, check_batch, make_plan
from inferd_torch.pool import LayerShape, Pool
from inferd_torch.sampling import NO_TOKEN, Draw, choose, draw_sorted
from inferd_torch.sending import send
from inferd_torch.spans import attend_spans
from inferd_torch.split import attend_split
from inferd_torch.survey import watch_hidden
from inferd_torch.vision.tower import Tower

SIZES = frozenset(
    {
        "picture_tokens",
        "picture_cache_tokens",
        "kv_tokens",
        "max_sequences",
        "max_step_tokens",
        "cuda_graphs",
        "ahead",
        "pre_tokenizer",
    }
)
"""Settings that change no byte of a KV block."""


class TorchSession:
    """A loaded network and its pool of KV blocks.

    Args:
        network: A causal language model of transformers.
        shapes: Of keys and values, by layer.
        limits: What was derived for it.
        device: Where it is.
        dtype: Of keys and values.
        attend: How rows attend by block tables, single ones and spans; None to gather their keys.
        draw: How tokens are chosen.
        fused: The network with its small steps taken together; None to let the network itself compute.
        graphs: Record decode steps as CUDA graphs.
        tower: What sees pictures; None where nothing does.
    """

    def __init__(
        self,
        network: Any,
        *,
        shapes: Sequence[LayerShape],
        limits: TokenLimits,
        device: torch.device,
        dtype: torch.dtype,
        attend: tuple[AttendRows, AttendSpans] | None = None,
        draw: Draw = draw_sorted,
        fused: FusedDecoder | None = None,
        graphs: bool = False,
        tower: Tower | None = None,
    ) -> None:
        self._network = network
        self._limits = limits
        self._device = device
        self._dtype = dtype
        self._by_tables = attend is not None
        self._draw = draw
        self._fused = fused
        self._tower = tower
        self._guard = guard(device)
        self._adapting = Adapting(network, device)
        with torch.inference_mode():
            self._tokens = LastTokens(limits.max_step_tokens, device)
            self._pool = Pool(
                shapes, blocks=limits.blocks, block_tokens=limits.block_tokens, device=device, dtype=dtype
            )
        self._attention = PagedAttention(self._pool, *(attend or (attend_split, attend_spans)))
        install(network, self._attention)
        self._hidden: Tensor | None = None
        watch_hidden(network, self._keep_hidden)
        self._graphs = self._record() if graphs else None

    @property
    def limits(self) -> TokenLimits:
        """What it can do."""
        return self._limits

    def step(self, batch: TokenBatch) -> StepResult:
        """Compute one step.

        Raises:
            ValueError: The batch is not what `TokenBatch` promises, or exceeds the limits. Nothing has changed.
        """
        check_batch(batch, self._limits)
        return self.compute(batch)

    def launch(self, batch: TokenBatch) -> Callable[[], StepResult]:
        """Begin a step with `sampling`, and neither `shown`, `hidden_rows` nor pictures; what waits for its tokens.

        Raises:
            ValueError: As `step`.
        """
        check_batch(batch, self._limits)
        with self._guard(), torch.inference_mode():
            self._choose(*self._run(batch), batch)
            self._hidden = None
            fetched = self._tokens.fetch(len(batch.logit_rows))

        def wait() -> StepResult:
            with self._guard():
                return StepResult(token_ids=fetched())

        return wait

    def compute(self, batch: TokenBatch) -> StepResult:
        """Compute a step that was checked."""
        tower = self._tower
        before = (tower.computed, tower.kept) if tower is not None else (0, 0)
        with self._guard(), torch.inference_mode():
            logits, chosen = self._run(batch)
            hidden = None
            if batch.hidden_rows is not None and self._hidden is not None:
                hidden = _fetch(self._hidden[send(batch.hidden_rows.astype(np.int64), self._device)])
            self._hidden = None
            if batch.sampling is None:
                result = StepResult(logits=_fetch(logits), hidden=hidden)
            else:
                self._choose(logits, chosen, batch)
                fetched = self._tokens.fetch(len(logits))
                shown = None if batch.shown is None else _fetch(logits[send(batch.shown, self._device).long()])
                result = StepResult(token_ids=fetched(), logits=shown, hidden=hidden)
        if tower is None or (tower.computed, tower.kept) == before:
            return result
        return replace(result, pictures_computed=tower.computed - before[0], pictures_kept=tower.kept - before[1])

    def follow(self, batch: TokenBatch) -> None:
        """Compute of a step that was checked what others need of it: neither logits nor tokens."""
        with self._guard(), torch.inference_mode():
            self._run(batch, follows=True)
            self._hidden = None

    def read_adapter(self, path: Path) -> ReadAdapter:
        """Read an adapter, beside the steps.

        Raises:
            LoadError: It cannot be read, is for another model, or changes more than linear modules of layers.
        """
        return self._adapting.read(path)

    def add_adapter(self, slot: int, adapter: ReadAdapter) -> None:
        """Have sequences of this slot computed with it from the next step on.

        Raises:
            MemoryError: The device has none.
        """
        self._adapting.add(slot, adapter)

    def remove_adapter(self, slot: int) -> None:
        """No sequence has it any more."""
        self._adapting.remove(slot)

    @property
    def attributions(self) -> frozenset[Attribution]:
        """By what it tells what tokens are worth."""
        return attributions_of(self._network)

    def attribute(self, asked: AttributionPass) -> Any:
        """What each token of a prompt is worth for the tokens behind it, shape (T - told,), float32."""
        network, attention = self._network, DenseAttention(asked.advance)
        self._adapting.rows = []  # of a step before
        install(network, attention)
        try:
            with self._guard():
                if asked.method is Attribution.ATTENTION:
                    return by_attention(network, asked, attention, device=self._device)
                network.requires_grad_(False)
                with layers_computed_again(network, len(self._pool.layers)):
                    return by_gradients(network, asked, device=self._device)
        finally:
            install(network, self._attention)
            self._hidden = None

    def copy_blocks(self, pairs: Sequence[tuple[int, int]]) -> None:
        """Copy KV blocks, each pair from its first to its second; in order.

        Raises:
            ValueError: A block is outside the pool. Nothing has changed.
        """
        with self._guard(), torch.inference_mode():
            self._pool.copy(pairs)

    @property
    def kv_layout(self) -> KvLayout:
        """What a block is outside of the session."""
        form = f"{self._dtype} on {self._device.type}, torch {torch.__version__}"
        return KvLayout(form=form, block_bytes=self._pool.block_bytes, sizes=SIZES)

    def export_block(self, block: int) -> memoryview:
        """The bytes of a block, on the host.

        Raises:
            ValueError: It is outside the pool.
        """
        with self._guard(), torch.inference_mode():
            return self._pool.read(block).numpy().data

    def import_block(self, block: int, data: bytes) -> None:
        """Have a block hold the bytes of another.

        Raises:
            ValueError: It is outside the pool, or there are not as many bytes as it has. Nothing has changed.
        """
        with self._guard(), torch.inference_mode():
            self._pool.write(block, data)

    def close(self) -> None:
        """Give the memory back."""
        del self._network, self._fused, self._tower, self._pool, self._attention, self._graphs
        del self._hidden, self._adapting
        gc.collect()  # networks are full of cycles
        if self._device.type == "cuda":
            torch.cuda.empty_cache()
            torch.cuda.set_per_process_memory_fraction(1.0, self._device)

    def _run(self, batch: TokenBatch, *, follows: bool = False) -> tuple[Tensor, bool]:
        """The logits that a batch wants, none where it `follows`, and whether its tokens are chosen already.

        What is recorded is played for others as well.
        """
        single = len(batch.token_ids) == len(batch.lengths) == len(batch.logit_rows)
        self._adapting.rows = []  # while pictures are computed: no row of theirs is one of the step
        seen = self._tower is not None and self._tower.changes(batch)
        plan = self._plan(batch) if seen else None
        self._adapting.begin(batch)
        plain = batch.hidden_rows is None and not seen and not self._adapting.rows
        if self._graphs is not None and single and plain:
            return self._graphs.run(batch), True
        if self._graphs is not None and plain and (filled := self._graphs.run_filled(batch)) is not None:
            return filled, True
        if plan is None:
            plan = self._join(make_plan(batch, self._limits, self._device, by_tables=self._by_tables), batch)
        wanted = batch.logit_rows[:0] if follows else batch.logit_rows
        return self._forward(plan, send(wanted.astype(np.int64), self._device)), False

    def _choose(self, logits: Tensor, chosen: bool, batch: TokenBatch) -> None:  # noqa: FBT001 - what `_run` gave
        """Choose the tokens that a batch asks for, unless they are."""
        if batch.sampling is not None and not chosen:
            choose(logits, batch.sampling, self._draw, self._tokens.cells[: len(logits)])

    def _join(self, plan: Plan, batch: TokenBatch) -> Plan:
        """The plan with those tokens that nobody has read."""
        if batch.origins is None:
            return plan
        origins = np.where(batch.origins < 0, self._tokens.nowhere, batch.origins).astype(np.int64)
        known = np.where(batch.origins < 0, batch.token_ids, NO_TOKEN).astype(np.int64)
        token_ids = self._tokens.join(send(known, self._device), send(origins, self._device))
        return replace(plan, token_ids=token_ids)

    def _plan(self, batch: TokenBatch) -> Plan:
        """The plan of a step in which something hangs on pictures."""
        tower, device = self._tower, self._device
        if tower is None:
            raise ValueError("the model sees no pictures")
        reach, turned = tower.reach(batch), tower.rotate(batch)
        plan = make_plan(batch, self._limits, device, by_tables=self._by_tables, reach=reach)
        return replace(
            plan,
            turned=None if turned is None else torch.from_numpy(turned).to(device),
            embedded=tower.embed(batch, plan.token_ids),
        )

    def _forward(self, plan: Plan, logit_rows: Tensor | int = 0) -> Tensor:
        """Logits (R, V) of the given rows, or of all."""
        self._attention.plan = plan
        try:
            if self._fused is not None and not self._adapting.rows:  # what is taken together has no modules
                self._hidden = hidden = self._fused(self._attention)
                return self._fused.logits(hidden if isinstance(logit_rows, int) else hidden[logit_rows])
            embedded = plan.embedded is not None
            output = self._network(
                input_ids=None if embedded else plan.token_ids[None],
                inputs_embeds=plan.embedded[None] if plan.embedded is not None else None,
                position_ids=plan.positions[None] if plan.turned is None else plan.turned[:, None],
                use_cache=False,
                logits_to_keep=logit_rows,
            )
        finally:
            self._attention.plan = None
        logits: Tensor = output.logits[0]
        return logits

    def _keep_hidden(self, states: Tensor) -> None:
        self._hidden = states[0]

    def _record(self) -> Any:
        from inferd_torch.cuda_graphs import CudaGraphs  # noqa: PLC0415 - on CUDA only

        with torch.inference_mode():
            given: Any = {"limits": self._limits, "pool": self._pool, "device": self._device}
            graphs = CudaGraphs(self._forward, self._draw, self._tokens, **given)
        self._hidden = None
        return graphs


def _fetch(tensor: Tensor) -> Any:
    return tensor.float().cpu().numpy()
