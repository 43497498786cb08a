"""The session of the fake backend: a token depends on what the paged KV cells really hold."""

from __future__ import annotations

import os
import signal
import time
from typing import TYPE_CHECKING, Final

import numpy as np

from inferd.plugin import Attribution, KvLayout, StepResult
from inferd.testing.fake_faults import BYTES, END, NOTHING, USER
from inferd.testing.hangs import hang

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from numpy.typing import NDArray

    from inferd.plugin import AttributionPass, TokenBatch, TokenLimits
    from inferd.plugin.session import Float32Array
    from inferd.testing.fake_faults import Faults

    Ints = NDArray[np.signedinteger[Any]]

PEAK: Final = 20.0
"""Logit of the token that is predicted; the others are 0."""

FLAT: Final = 6.0
"""The same where weights have 4 bits."""
SHARES: Final = {"auto": 1.0, "8bit": 2 / 3, "4bit": 0.5}
"""What a step takes of its time, by the bits of weights."""


class FakeSession:
    """Repeats what it finds in its cells.

    A cell holds, for one position of a sequence:

    - its token and the position itself, by which wrong tables are noticed;
    - `start`: where the words to repeat begin: behind the last `<|user|>`, else at 0;
    - `source`: the position whose token it predicts to come next. It goes on by one as long as the prediction comes
      true, and else begins again at `start`. Where it reaches a control token, the end is predicted.

    Cells of the pool of layers with a window hold tokens and positions, which are looked at when a token sees them.
    """

    def __init__(
        self, limits: TokenLimits, faults: Faults, *, attributed: bool = False, attribute_error: str = ""
    ) -> None:
        self.limits = limits
        self.attributions = frozenset(Attribution if attributed else ())
        self._faults = faults
        self._attribute_error = attribute_error
        self._acting = {faults.fail_on_token, faults.refuse_token, faults.die_on_token, faults.hang_on_token} - {
            NOTHING
        }
        self._steps = 0
        self._kept: list[bytes] = [b"\1" * faults.take_bytes]  # written, so that it is there
        size = limits.blocks * limits.block_tokens
        self._token, self._position, self._start, self._source = (np.full(size, NOTHING, np.int32) for _ in range(4))
        self._seen = np.full((limits.window_blocks * limits.block_tokens, 2), NOTHING, np.int32)

    def step(self, batch: TokenBatch) -> StepResult:
        """Compute one step.

        Raises:
            ValueError: A token is outside the vocabulary, or a block table leads to the wrong cells.
            RuntimeError: The model's file asks for it.
        """
        self._steps += 1
        if batch.token_ids.min() < 0 or batch.token_ids.max() >= self.limits.vocabulary_size:
            raise ValueError(f"a token id is outside the vocabulary of {self.limits.vocabulary_size}")
        self._fail(batch)
        counts = np.diff(batch.starts)
        owners = np.repeat(np.arange(len(counts)), counts)
        cells = self._cells(batch, owners, batch.positions)
        self._token[cells], self._position[cells] = batch.token_ids, batch.positions
        self._look_back(batch, owners)
        for place in range(int(counts.max())):  # the first token of every sequence, then the second, …
            some = batch.starts[:-1][counts > place] + place
            self._follow(batch, owners[some], batch.positions[some], cells[some])
        hidden = None
        if batch.hidden_rows is not None:
            columns = (batch.token_ids, batch.positions, np.ones_like(batch.positions))
            states = np.stack(columns, axis=1)[batch.hidden_rows]
            hidden = states[:, : self.limits.embedding_size].astype(np.float32)
        return StepResult(logits=self._logits(batch, owners, cells), hidden=hidden)

    def attribute(self, asked: AttributionPass) -> Float32Array:
        """As the model's file says; the mean over the way of a token is a hundredth of its number.

        Raises:
            RuntimeError: The model's file asks for it.
        """
        ids = asked.token_ids[: -asked.told]
        if self._attribute_error:
            raise RuntimeError(self._attribute_error)
        if asked.method is Attribution.ATTENTION:
            return np.full(len(ids), 1 / len(ids), np.float32)
        found = np.zeros(len(ids), np.float32)
        found[asked.places] = ids[asked.places] / 50 * asked.at
        return found

    def copy_blocks(self, pairs: Sequence[tuple[int, int]]) -> None:
        """Copy cells."""
        self._faults.hang("copy")
        for source, target in pairs:
            for given, taken in zip(self._cells_of(source), self._cells_of(target), strict=True):
                taken[:] = given

    @property
    def kv_layout(self) -> KvLayout:
        """Four numbers for each cell, two for one of a window."""
        cell_bytes = self.limits.block_tokens * self._token.itemsize
        return KvLayout(
            form="cells",
            block_bytes=4 * cell_bytes,
            window_block_bytes=2 * cell_bytes if self.limits.window_blocks else 0,
            sizes=frozenset({"context_tokens", "weights_bytes", "kv_bytes"}),
        )

    def export_block(self, block: int) -> bytes:
        """The cells of a block."""
        return b"".join(some.tobytes() for some in self._cells_of(block))

    def import_block(self, block: int, data: bytes) -> None:
        """Have a block hold the cells of another."""
        columns = self._cells_of(block)
        given = np.frombuffer(data, np.int32).reshape(len(columns), -1)
        for some, numbers in zip(columns, given, strict=True):
            some[...] = numbers.reshape(some.shape)

    def _cells_of(self, block: int) -> list[NDArray[np.int32]]:
        """What is kept of the cells of a block, by columns; or of one of a window."""
        if block >= self.limits.blocks:
            return [self._seen.reshape(self.limits.window_blocks, -1)[block - self.limits.blocks]]
        columns = (self._token, self._position, self._start, self._source)
        return [column.reshape(-1, self.limits.block_tokens)[block] for column in columns]

    def close(self) -> None:
        """Give the cells back."""
        self._faults.hang("close")
        self._token = self._position = self._start = self._source = np.empty(0, np.int32)

    def _follow(self, batch: TokenBatch, owners: Ints, positions: Ints, cells: Ints) -> None:
        """Find `start` and `source` of one token of each of some sequences from those of the token before."""
        first = positions == 0
        before = self._cells(batch, owners, np.maximum(positions - 1, 0))
        self._check(before, np.maximum(positions - 1, 0))
        token = self._token[cells]
        start = np.where(first, 0, self._start[before])
        start = np.where(token == USER, positions + 1, start)
        source = np.where(first, 0, self._source[before])
        true = ~first & (source < positions) & (token < BYTES) & (self._at(batch, owners, source, positions) == token)
        self._start[cells] = start
        self._source[cells] = np.where(true, source + 1, start)

    def _look_back(self, batch: TokenBatch, owners: Ints) -> None:
        """Put tokens into the cells of their window, and look at all that each sees."""
        tables, size = batch.window_tables, self.limits.block_tokens
        if (tables is None) != (self.limits.window_blocks == 0):
            raise ValueError("there must be tables of windows where there is a pool of them, and only there")
        if tables is None:
            return
        cells = tables[owners, batch.positions // size] * size + batch.positions % size
        self._seen[cells] = np.stack([batch.token_ids, batch.positions], axis=1)
        for back in range(self.limits.window_tokens):
            some = batch.positions >= back
            positions = batch.positions[some] - back
            blocks = tables[owners[some], positions // size]
            tokens = self._token[self._cells(batch, owners[some], positions)]
            held = self._seen[blocks * size + positions % size]
            if (blocks < 0).any() or not np.array_equal(held, np.stack([tokens, positions], axis=1)):
                raise ValueError("a table of windows leads to a cell of another token")

    def _logits(self, batch: TokenBatch, owners: Ints, cells: Ints) -> Float32Array:
        owners, cells, positions = (column[batch.logit_rows] for column in (owners, cells, batch.positions))
        source = self._source[cells]
        predicted = self._at(batch, owners, source, positions)
        ends = (source > positions) | (predicted >= BYTES) | self._faults.mute
        predicted = np.where(ends, END, predicted)
        logits = np.zeros((len(predicted), self.limits.vocabulary_size), np.float32)
        logits[np.arange(len(predicted)), predicted] = FLAT if self._faults.quantization == "4bit" else PEAK
        return logits

    def _at(self, batch: TokenBatch, owners: Ints, source: Ints, newest: Ints) -> Ints:
        """The token at a position of each sequence; at the newest one where that does not exist yet."""
        source = np.minimum(source, newest)
        cells = self._cells(batch, owners, source)
        self._check(cells, source)
        return self._token[cells]

    def _cells(self, batch: TokenBatch, owners: Ints, positions: Ints) -> Ints:
        size = self.limits.block_tokens
        blocks = batch.block_tables[owners, positions // size]
        if blocks.size and blocks.min() < 0:
            raise ValueError("a block table has no block for a position")
        return blocks * size + positions % size

    def _check(self, cells: Ints, positions: Ints) -> None:
        if not np.array_equal(self._position[cells], positions):
            raise ValueError("a block table leads to a cell of another position")

    def _fail(self, batch: TokenBatch) -> None:
        faults = self._faults
        faults.hang("step")
        self._kept.append(b"x" * faults.grow_bytes)
        if faults.step_s:
            time.sleep(faults.step_s * SHARES[faults.quantization])  # stands for the time that a device takes
        if self._steps == faults.fail_step:
            raise RuntimeError(f"step {self._steps} fails, as the model's file asks")
        if not self._acting.intersection(batch.token_ids.tolist()):
            return
        if faults.refuse_token in batch.token_ids:
            raise ValueError(f"bad batch: token {faults.refuse_token} is refused, as the model's file asks")
        if faults.fail_on_token in batch.token_ids:
            given = bytes(token for token in batch.token_ids.tolist() if token < BYTES)  # foreign code may say anything
            raise RuntimeError(f"token {faults.fail_on_token} of {given!r} fails, as the model's file asks")
        if faults.die_on_token in batch.token_ids:
            os.kill(os.getpid(), signal.SIGKILL)
        if faults.hang_on_token in batch.token_ids:
            hang(faults.hang_by)
