"""The vectors of pictures and sounds: computed once by the tower and projector of a network, and kept by their keys."""

from __future__ import annotations

from collections import OrderedDict
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import torch

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from torch import Tensor

    from inferd.plugin import TokenBatch
    from inferd.plugin.pictures import Picture, PlacedPicture
    from inferd.plugin.session import Int64Array
    from inferd_torch.vision.hearing import Qwen2Audio, Voxtral
    from inferd_torch.vision.kinds import Kind


TEXT: Final = frozenset({"language_model", "text_model"})  # modules whose layers are none of the tower's


class Tower:
    """Of one network. One writer: the thread of the steps.

    Args:
        network: With the modules that see.
        kind: Of it.
        kept_tokens: Vectors that are kept, over all pictures; those of one picture at least.

    Attributes:
        computed: Pictures computed so far.
        kept: How often the first vector of a picture was asked for that had been kept.
    """

    def __init__(self, network: Any, kind: Kind | Qwen2Audio | Voxtral, *, kept_tokens: int) -> None:
        self.computed = self.kept = 0
        self._network = network
        self._kind = kind
        self._kept_tokens = kept_tokens
        self._kept: OrderedDict[bytes, Tensor] = OrderedDict()
        self._held = 0

    def changes(self, batch: TokenBatch) -> bool:
        """Whether anything of a step hangs on pictures."""
        return batch.pictures is not None and (self._kind.rotates or bool(_find(batch)))

    def embed(self, batch: TokenBatch, token_ids: Tensor) -> Tensor | None:
        """What goes into the first layer, shape (T, width); None where no token of the step is one of a picture.

        Raises:
            ValueError: A picture gives another number of vectors than its outline said.
        """
        parts = []
        for placed, rows, which in _find(batch):
            self.kept += placed.picture.key in self._kept and which[0] == 0
            vectors = self.vectors(placed.picture, batch.advance)
            parts.append((rows, vectors[torch.from_numpy(which).to(token_ids.device)]))
        if not parts:
            return None
        places = torch.from_numpy(np.concatenate([rows for rows, _ in parts])).to(token_ids.device)
        plain = token_ids.clone()
        plain[places] = 0  # there may be no row for the token of pictures
        embedded: Tensor = self._network.get_input_embeddings()(plain)
        embedded[places] = torch.cat([vectors for _, vectors in parts]).to(embedded.dtype)
        return embedded

    def vectors(self, picture: Picture, advance: Callable[[], None]) -> Tensor:
        """Of a picture, on the device.

        Args:
            picture: It.
            advance: Called with each layer of the tower.

        Raises:
            ValueError: As `embed`.
        """
        if (kept := self._kept.get(picture.key)) is not None:
            self._kept.move_to_end(picture.key)
            return kept
        device = self._network.device
        read = picture.values()
        advance()
        values = {name: torch.from_numpy(np.ascontiguousarray(x)).to(device) for name, x in read.items()}
        with _watched(self._network, advance):
            given = self._kind.vectors(self._network, values).contiguous()
        advance()
        self.computed += 1
        if len(given) != picture.outline.tokens:
            raise ValueError(f"a picture gives {len(given)} vectors, and {picture.outline.tokens} were expected")
        self._kept[picture.key] = given
        self._held += len(given)
        while self._held > self._kept_tokens and len(self._kept) > 1:
            _, gone = self._kept.popitem(last=False)
            self._held -= len(gone)
        return given

    def rotate(self, batch: TokenBatch) -> Int64Array | None:
        """Positions in time, rows and columns, shape (3, T); None where they are the tokens' own."""
        if not self._kind.rotates or batch.pictures is None:
            return None
        positions = np.tile(batch.positions.astype(np.int64), (3, 1))
        for sequence, pictures in enumerate(batch.pictures):
            if pictures:
                own = slice(batch.starts[sequence], batch.starts[sequence + 1])
                positions[:, own] = rotate(pictures, batch.positions[own].astype(np.int64))
        return positions

    def reach(self, batch: TokenBatch) -> Int64Array | None:
        """The last position that each token sees, shape (T,); None where that is its own."""
        if not self._kind.whole:
            return None
        reached = None
        for placed, rows, _ in _find(batch):
            reached = batch.positions.astype(np.int64) if reached is None else reached
            ends = _ends(placed.places)
            reached[rows] = ends[np.searchsorted(placed.places, batch.positions[rows])]
        return reached


@contextmanager
def _watched(network: Any, advance: Callable[[], None]) -> Iterator[None]:
    """Have each layer of the tower tell when it is computed: a tower may take a minute on a few cores."""
    lists = [
        module
        for name, module in network.named_modules()
        if isinstance(module, torch.nn.ModuleList) and TEXT.isdisjoint(name.split("."))
    ]
    hooks = [layer.register_forward_hook(lambda *_: advance()) for layers in lists for layer in layers]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _find(batch: TokenBatch) -> list[tuple[PlacedPicture, Int64Array, Int64Array]]:
    """Pictures of which a step has tokens, the rows of those, and which of the picture's they are."""
    found = []
    for sequence, pictures in enumerate(batch.pictures or ()):
        begin, end = int(batch.starts[sequence]), int(batch.starts[sequence + 1])
        first = int(batch.positions[begin])
        for placed in pictures:
            low, high = np.searchsorted(placed.places, (first, first + end - begin))
            if low < high:
                rows = placed.places[low:high].astype(np.int64) - first + begin
                found.append((placed, rows, np.arange(low, high)))
    return found


def _ends(places: Any) -> Int64Array:
    """For each place of a picture the last one of those that lie one behind the other with it."""
    breaks = np.flatnonzero(np.diff(places) != 1)
    lasts = np.append(breaks, len(places) - 1)
    ends: Int64Array = places[lasts[np.searchsorted(lasts, np.arange(len(places)))]].astype(np.int64)
    return ends


def rotate(pictures: Sequence[PlacedPicture], positions: Int64Array) -> Int64Array:
    """Positions in time, rows and columns (3, N) of tokens of a sequence, as `get_rope_index` of transformers has them.

    A picture of R rows and C columns takes as many positions as the larger of both: its tokens have the time of its
    beginning, and rows and columns from there on; what follows goes on behind that.
    """
    turned = np.tile(positions, (3, 1))
    for placed in pictures:
        begin, grid = int(placed.places[0]), placed.picture.outline.grid
        if grid is None:
            continue
        count = grid[0] * grid[1]
        behind = positions >= begin + count
        inside = (positions >= begin) & ~behind
        row, column = np.divmod(positions[inside] - begin, grid[1])
        start = turned[0, inside] - (positions[inside] - begin)
        turned[:, behind] -= count - max(grid)
        turned[:, inside] = np.stack([start, start + row, start + column])
    return turned
