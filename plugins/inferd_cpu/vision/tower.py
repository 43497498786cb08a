"""The vectors of pictures: computed once by a tower, and kept by the picture's key."""

from collections import OrderedDict
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from inferd.plugin import StepResult, TokenBatch
from inferd.plugin.picture_rows import find_reach, find_rows, turn
from inferd.plugin.pictures import Picture
from inferd_cpu.vision.eyes import Eye
from inferd_cpu.vision.layers import Advance
from inferd_cpu.vision.shape import TowerShape

Floats = NDArray[np.float32]
Int64s = NDArray[np.int64]


@dataclass(frozen=True, slots=True, eq=False)
class _Seen:
    """Vectors of a picture, shape (tokens, width), and of which tiles they are known, shape (tiles,)."""

    vectors: Floats
    known: NDArray[np.bool_]


class Tower:
    """Of one model. One writer: the thread of the steps.

    Args:
        shape: Its sizes.
        eye: What sees.
        name: Of its file, for messages.
        kept_tokens: Vectors that are kept, over all pictures; those of one picture at least.

    Attributes:
        computed: Pictures of which something was computed so far.
        kept: How often the first vector of a picture was asked for that had been kept.
    """

    def __init__(self, shape: TowerShape, eye: Eye, *, name: str, kept_tokens: int) -> None:
        self.computed = self.kept = 0
        self._shape = shape
        self._eye = eye
        self._name = name
        self._kept_tokens = kept_tokens
        self._kept: OrderedDict[bytes, _Seen] = OrderedDict()
        self._held = 0

    def find(self, batch: TokenBatch) -> tuple[NDArray[np.intp], Floats] | None:
        """The rows of a step that are of pictures, and what goes there, shape (rows, width); None where there are none.

        Raises:
            ValueError: A picture gives another number of vectors than its outline said, or some that are no numbers.
        """
        rows, vectors = [], []
        for placed, some, which in find_rows(batch):
            low, high = int(which[0]), int(which[-1]) + 1
            self.kept += placed.picture.key in self._kept and low == 0
            rows.append(some.astype(np.intp))
            vectors.append(self.vectors(placed.picture, low, high, batch.advance))
        return (np.concatenate(rows), np.concatenate(vectors)) if rows else None

    @property
    def sized_by_tokens(self) -> bool:
        """See `TowerShape`."""
        return self._shape.sized_by_tokens

    def reach(self, batch: TokenBatch) -> Int64s | None:
        """See `find_reach`; None where the tokens of a picture do not see each other."""
        return find_reach(batch) if self._shape.whole else None

    def turn(self, batch: TokenBatch) -> Int64s | None:
        """See `turn` of inferd.plugin.picture_rows; None where positions do not go by pictures."""
        return turn(batch) if self._shape.turns else None

    def vectors(self, picture: Picture, low: int, high: int, advance: Advance) -> Floats:
        """Of a picture those from `low` to `high`, shape (high - low, width); `advance` is called now and then.

        Only the tiles that these are of are computed: where a prompt takes several steps, the others come with later
        ones, and what else is in the steps waits for few tiles at a time.

        Raises:
            ValueError: As `find`.
        """
        seen, tiles = self._kept.get(picture.key), None
        if seen is None:
            tiles = picture.values()["tiles"]
            seen = self._keep(picture, tiles)
        self._kept.move_to_end(picture.key)
        each = len(seen.vectors) // len(seen.known)
        for tile in range(low // each, -(-high // each)):
            if seen.known[tile]:
                continue
            if tiles is None:
                tiles = picture.values()["tiles"]
            with np.errstate(over="ignore", invalid="ignore"):  # told below
                given = self._eye.see(tiles[tile], advance)
            if not np.isfinite(given).all():
                raise ValueError(
                    f"{self._name}: gives vectors of a picture that are not finite numbers: its weights are too large"
                    " for it, the file is corrupt or no projector of this model; fetch it again"
                )
            seen.vectors[tile * each : (tile + 1) * each] = given
            seen.known[tile] = True
        return seen.vectors[low:high]

    def _keep(self, picture: Picture, tiles: Floats) -> _Seen:
        """Have room for the vectors of a picture of these tiles, perhaps in place of others."""
        tokens, given = picture.outline.tokens, len(tiles) * self._eye.count(tiles[0])
        if given != tokens:
            raise ValueError(f"a picture gives {given} vectors, and {tokens} were expected")
        seen = _Seen(np.empty((tokens, self._shape.out_width), np.float32), np.zeros(len(tiles), np.bool_))
        self.computed += 1
        self._kept[picture.key] = seen
        self._held += tokens
        while self._held > self._kept_tokens and len(self._kept) > 1:
            _, gone = self._kept.popitem(last=False)
            self._held -= len(gone.vectors)
        return seen

    def close(self) -> None:
        """Give the memory back."""
        self._eye.close()
        self._kept.clear()


class Watch:
    """What a step asks of a tower, and what it tells of that.

    Args:
        tower: None where the model sees nothing.
        batch: Of the step.
    """

    def __init__(self, tower: Tower | None, batch: TokenBatch) -> None:
        self._tower = tower if batch.pictures is not None else None
        self._batch = batch
        self._before = (tower.computed, tower.kept) if tower is not None else (0, 0)

    def find(self) -> tuple[NDArray[np.intp], Floats] | None:
        """See `Tower.find`."""
        return None if self._tower is None else self._tower.find(self._batch)

    def reach(self) -> Int64s | None:
        """See `Tower.reach`."""
        return None if self._tower is None else self._tower.reach(self._batch)

    def turn(self) -> Int64s | None:
        """See `Tower.turn`."""
        return None if self._tower is None else self._tower.turn(self._batch)

    def tell(self, result: StepResult) -> StepResult:
        """The result, with how many pictures were computed and how many were kept."""
        tower, (computed, kept) = self._tower, self._before
        if tower is None or (tower.computed, tower.kept) == self._before:
            return result
        return replace(result, pictures_computed=tower.computed - computed, pictures_kept=tower.kept - kept)
