"""The session of an encoder and a decoder: what is heard is read once, and texts are written of it."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from inferd.plugin import TokenBatch
from inferd_onnx.decoder.plan import Run, split_alone, split_equal
from inferd_onnx.decoder.session import PooledSession, Wanted, put_logits
from inferd_onnx.speech.folder import BRANCH, FEATURES, STATES, SpeechFolder

Arrays = list[NDArray[Any]]


@dataclass(slots=True)
class Source:
    """What the encoder gave.

    Attributes:
        states: Of it, shape (1, columns, width).
        read: Keys and values that the decoder made of them, by layer; None before it began.
    """

    states: NDArray[Any]
    read: Arrays | None = None


class SpeechSession(PooledSession):
    """An encoder and a decoder, which is one graph or two: that which begins a text, and that which goes on.

    Args:
        encoder: Loaded.
        first: Loaded, as are these.
        next: The same as `first` where one graph does both.
        folder: What they are.
        others: As `PooledSession`.
    """

    def __init__(self, encoder: Any, first: Any, next: Any, *, folder: SpeechFolder, **others: Any) -> None:  # noqa: A002 - the opposite of first
        super().__init__(
            first,
            past=folder.layers("past_key_values", "decoder"),
            present=folder.layers("present", "decoder"),
            **others,
        )
        self._encoder, self._next = encoder, next
        self._merged = folder.merged
        self._folder = folder
        self._past_read = folder.layers("past_key_values", "encoder")
        self._present_read = folder.layers("present", "encoder")
        self._sources: dict[int, Source] = {}
        self._joined: tuple[tuple[int, ...], Arrays] = ((), [])  # keys and values of several, side by side
        kinds = {"tensor(float)": np.float32, "tensor(float16)": np.float16}
        self._feature_type = kinds.get(encoder.get_inputs()[0].type, np.float32)

    @property
    def source(self) -> tuple[str, tuple[int, ...]]:
        """What `read` takes: a spectrogram."""
        return FEATURES, (self._folder.mels, self._folder.frames)

    def read(self, number: int, array: NDArray[np.float32]) -> None:
        """Have the encoder read a spectrogram.

        Raises:
            Exception: The runtime does not compute it.
        """
        (states,) = self._encoder.run(None, {FEATURES: array.astype(self._feature_type)}, self._options)[:1]
        self._sources[number] = Source(states)

    def forget(self, number: int) -> None:
        """Keep it no longer."""
        self._sources.pop(number, None)
        if number in self._joined[0]:
            self._joined = ((), [])

    def close(self) -> None:
        """Give the memory back."""
        super().close()
        self._sources.clear()
        del self._encoder, self._next, self._joined

    def _split(self, batch: TokenBatch, *, most_tokens: int) -> Iterator[Run]:
        if any(file.mixing for file in (self._folder.first, self._folder.next)):
            return split_alone(batch)
        return split_equal(batch, most_tokens=most_tokens)

    def _compute(self, run: Run, first: int, batch: TokenBatch, wanted: Sequence[Wanted]) -> None:
        if batch.sources is None:
            raise ValueError("the batch does not say what its sequences are written of")
        numbers = tuple(int(number) for number in batch.sources[run.members])
        ids = batch.token_ids[run.rows].astype(np.int64)
        if not run.begins[0]:
            logits = self._begin(ids, first, numbers)
        else:  # the graph that goes on takes one token
            parts = [
                self._go_on(ids[:, place : place + 1], first, int(run.begins[0]) + place, numbers)
                for place in range(ids.shape[1])
            ]
            logits = parts[0] if len(parts) == 1 else np.concatenate(parts, axis=1)
        put_logits(run, logits, wanted)

    def _begin(self, ids: NDArray[np.int64], first: int, numbers: tuple[int, ...]) -> NDArray[np.float32]:
        """Read the beginnings of texts, and what they are written of."""
        sources = [self._sources[number] for number in numbers]
        feeds: dict[str, NDArray[Any]] = {"input_ids": ids, STATES: np.concatenate([each.states for each in sources])}
        if self._merged:
            shape = self._shape
            nothing = np.zeros((len(ids), shape.kv_heads, 0, shape.head_width), self._dtype)
            feeds |= dict.fromkeys([*self._past, *self._past_read], nothing)
            feeds[BRANCH] = np.array([False])
        names = ["logits", *self._present, *self._present_read]
        logits, *present = self._run(self._runtime, names, feeds, 0, ids.shape[1])
        own, read = present[: len(self._present)], present[len(self._present) :]
        for place, source in enumerate(sources):
            source.read = [np.ascontiguousarray(part[place : place + 1]) for part in read]
        self._keep(own, first, len(ids), 0, ids.shape[1])
        return np.asarray(logits, np.float32)

    def _go_on(self, ids: NDArray[np.int64], first: int, begin: int, numbers: tuple[int, ...]) -> NDArray[np.float32]:
        """Read the next token of texts that are equally long."""
        held = self._area.numbers[:, first : first + len(ids), :, :begin]
        feeds: dict[str, NDArray[Any]] = {"input_ids": ids}
        feeds |= {name: np.ascontiguousarray(held[part]) for part, name in enumerate(self._past)}
        feeds |= dict(zip(self._past_read, self._join(numbers), strict=True))
        if self._merged:
            feeds[BRANCH] = np.array([True])
        if self._takes_states:
            feeds[STATES] = np.concatenate([self._sources[number].states for number in numbers])
        logits, *own = self._run(self._next, ["logits", *self._present], feeds, begin, begin + 1)
        self._keep(own, first, len(ids), begin, begin + 1)
        return np.asarray(logits, np.float32)

    @property
    def _takes_states(self) -> bool:
        return STATES in self._folder.next.inputs

    def _run(self, graph: Any, names: Sequence[str], feeds: dict[str, NDArray[Any]], begin: int, end: int) -> Arrays:
        file = self._folder.first if graph is self._runtime else self._folder.next
        if "cache_position" in file.inputs:
            feeds["cache_position"] = np.arange(begin, end)
        given: Arrays = graph.run(names, feeds, self._options)
        return given

    def _keep(self, own: Arrays, first: int, count: int, begin: int, end: int) -> None:
        for part, value in enumerate(own):
            self._area.numbers[part, first : first + count, :, begin:end] = value[:, :, begin:end]

    def _join(self, numbers: tuple[int, ...]) -> Arrays:
        """Keys and values of what texts are written of, side by side; kept while the same are written together."""
        if len(numbers) == 1:
            return self._sources[numbers[0]].read or []
        if self._joined[0] != numbers:
            each = [self._sources[number].read or [] for number in numbers]
            self._joined = ((), [])  # before there are two
            self._joined = (numbers, [np.concatenate(parts) for parts in zip(*each, strict=True)])
        return self._joined[1]
