"""The session of rank 0: what it is told, it tells the others first."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from inferd.plugin import KvLayout, StepResult, TokenBatch, TokenLimits
from inferd.plugin.ranks import RankLostError, Ranks
from inferd_torch.plan import check_batch
from inferd_torch.session import TorchSession
from inferd_torch.spanning.group import Group
from inferd_torch.spanning.messages import write_batch


class SpanningSession:
    """A network over several ranks, each with its part of the pool of KV blocks.

    Args:
        own: The part of rank 0.
        ranks: The others.
        group: What they sum by.
        folder: Where they found each other.
        silence_s: A rank that takes no part for so long is lost.
    """

    def __init__(
        self,
        own: TorchSession,
        ranks: Ranks,
        group: Group,
        folder: TemporaryDirectory[str],
        *,
        silence_s: float,
    ) -> None:
        self._own = own
        self._ranks = ranks
        self._group = group
        self._folder = folder
        self._silence_s = silence_s

    @property
    def limits(self) -> TokenLimits:
        """What it can do."""
        return self._own.limits

    def step(self, batch: TokenBatch) -> StepResult:
        """Compute one step.

        Raises:
            ValueError: The batch is not what `TokenBatch` promises, or exceeds the limits. Nothing has changed.
            RankLostError: A rank is lost; outside of a worker, which ends with it.
        """
        check_batch(batch, self.limits)
        with self._together():
            self._tell(*write_batch(batch))
            return self._own.compute(batch)

    def copy_blocks(self, pairs: Sequence[tuple[int, int]]) -> None:
        """Copy KV blocks, each pair from its first to its second; in order.

        Raises:
            ValueError: A block is outside the pool. Nothing has changed.
        """
        self._own.copy_blocks(pairs)
        with self._together():
            self._tell({"do": "copy", "pairs": [[int(one), int(other)] for one, other in pairs]})

    @property
    def kv_layout(self) -> KvLayout:
        """What a block is outside of the session: those of all ranks, one after the other."""
        layout = self._own.kv_layout
        return replace(
            layout, form=f"{layout.form}, {self._ranks.size} ranks", block_bytes=layout.block_bytes * self._ranks.size
        )

    def export_block(self, block: int) -> memoryview:
        """The bytes of a block, on the host.

        Raises:
            ValueError: It is outside the pool.
        """
        parts = [self._own.export_block(block)]
        with self._together():
            self._tell({"do": "export", "block": int(block)})
            parts += [memoryview(self._hear(rank)[1]) for rank in self._ranks.others]
        return memoryview(b"".join(parts))

    def import_block(self, block: int, data: bytes) -> None:
        """Have a block hold the bytes of another.

        Raises:
            ValueError: It is outside the pool, or there are not as many bytes as it has. Nothing has changed.
        """
        size = self._own.kv_layout.block_bytes
        if len(data) != size * self._ranks.size:
            raise ValueError(f"block {block} has {size * self._ranks.size} bytes, and {len(data)} were given")
        parts = np.frombuffer(data, np.uint8).reshape(self._ranks.size, size)
        self._own.import_block(block, parts[0].tobytes())
        with self._together():
            for rank in self._ranks.others:
                message = {"do": "import", "block": int(block)}
                rank.channel.send(message, parts[rank.number].tobytes(), timeout_s=self._silence_s)

    def close(self) -> None:
        """Give the memory back, of all ranks."""
        self._ranks.close()
        self._group.close()
        self._own.close()
        self._folder.cleanup()

    @contextmanager
    def _together(self) -> Iterator[None]:
        """What is in this, all ranks do: it cannot fail in one alone."""
        with self._ranks.taking_part(self._silence_s):
            try:
                yield
            except RankLostError:
                raise
            except Exception as error:  # noqa: BLE001 - whatever it is: the others are further, or not as far
                self._ranks.give_up(error)

    def _tell(self, message: dict[str, Any], data: bytes = b"") -> None:
        for rank in self._ranks.others:
            rank.channel.send(message, data, timeout_s=self._silence_s)

    def _hear(self, rank: Any) -> tuple[Any, bytes]:
        heard: tuple[Any, bytes] = rank.channel.receive(timeout_s=self._silence_s)
        return heard
