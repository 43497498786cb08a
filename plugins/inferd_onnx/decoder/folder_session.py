"""The session of a graph that somebody else has made: token ids and a mask in, logits of all rows out."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from inferd.plugin import TokenBatch
from inferd_onnx.decoder.genai import MERGED
from inferd_onnx.decoder.plan import Run, split_alone
from inferd_onnx.decoder.session import PooledSession, Wanted, put_logits


class FolderSession(PooledSession):
    """A decoder's graph.

    Args:
        runtime: The loaded graph.
        names: Of inputs and outputs, by what they are.
        in_place: Whether it writes keys and values in place (GroupQueryAttention), several sequences at once. Others
            join them to those before; there each sequence is computed alone.
        alone: Whether each sequence is computed alone, as others beside it would change what it gives.
        others: As `PooledSession`.
    """

    def __init__(self, runtime: Any, *, names: dict[str, str], in_place: bool, alone: bool, **others: Any) -> None:
        super().__init__(runtime, **others)
        self._names = names
        self._takes = {node.name for node in runtime.get_inputs()}
        self._in_place = in_place and MERGED not in self._takes  # its branches are of one sequence each
        self._joins = "first" if self._in_place else "none"
        self._alone = alone

    def _split(self, batch: TokenBatch, *, most_tokens: int) -> Iterator[Run]:
        return split_alone(batch) if self._alone else super()._split(batch, most_tokens=most_tokens)

    def _compute(self, run: Run, first: int, batch: TokenBatch, wanted: Sequence[Wanted]) -> None:
        if self._in_place:
            logits = self._run_in_place(run, first, batch)
        else:
            logits = np.concatenate([self._run_alone(run, row, first, batch) for row in range(len(run.lengths))])
        put_logits(run, logits, wanted)

    def _feeds(self, run: Run, batch: TokenBatch) -> dict[str, NDArray[Any]]:
        counts = run.rows.shape[1]
        longest = int(run.lengths.max())
        feeds = {
            "input_ids": batch.token_ids[run.rows].astype(np.int64),
            "attention_mask": (np.arange(longest) < run.lengths[:, None]).astype(np.int64),
            "position_ids": run.begins[:, None] + np.arange(counts),
        }
        given = {self._names[what]: value for what, value in feeds.items() if self._names[what] in self._takes}
        if MERGED in self._takes:
            given[MERGED] = np.array([run.begins.any()])
        return given

    def _run_in_place(self, run: Run, first: int, batch: TokenBatch) -> NDArray[Any]:
        binding = self._bind(first, len(run.lengths))
        for name, value in self._feeds(run, batch).items():
            binding.bind_cpu_input(name, value)
        binding.bind_output(self._names["logits"], "cpu")
        self._runtime.run_with_iobinding(binding, self._options)
        (logits,) = (value for value in binding.get_outputs()[-1:])
        return np.asarray(logits.numpy(), np.float32)

    def _run_alone(self, run: Run, row: int, first: int, batch: TokenBatch) -> NDArray[Any]:
        one = Run(
            members=run.members[row : row + 1],
            rows=run.rows[row : row + 1],
            tables=run.tables[row : row + 1],
            begins=run.begins[row : row + 1],
            lengths=run.lengths[row : row + 1],
        )
        begin, end = int(one.begins[0]), int(one.lengths[0])
        feeds = self._feeds(one, batch)
        numbers = self._area.numbers[:, first + row]
        feeds |= {name: np.ascontiguousarray(numbers[part][None, :, :begin]) for part, name in enumerate(self._past)}
        logits, *present = self._runtime.run([self._names["logits"], *self._present], feeds, self._options)
        for part, value in enumerate(present):
            numbers[part][:, begin:end] = value[0, :, begin:end]
        return np.asarray(logits, np.float32)
