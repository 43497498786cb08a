"""How many vectors pictures of sizes of their own get, beside how many their tower has room for."""

import pytest

from inferd_cpu.vision.qwen25 import MOST_RATIO, GridReader
from inferd_cpu.vision.shape import GRID, TowerShape

CELL = 28 * 28


def make_shape(*, least_cells: float, most_cells: int) -> TowerShape:
    return TowerShape(
        kind=GRID,
        image_size=0,
        patch_size=14,
        width=64,
        feed_width=64,
        heads=4,
        layers=2,
        epsilon=1e-6,
        activation="silu",
        scale_factor=2,
        mean=(0.0, 0.0, 0.0),
        deviation=(1.0, 1.0, 1.0),
        out_width=64,
        window=4,
        whole_every=2,
        least_pixels=max(1, int(least_cells * CELL)),
        most_pixels=most_cells * CELL,
    )


@pytest.mark.parametrize(
    ("least", "most"), [(0.0, 1), (1, 1), (4, 4), (4, 10), (10, 10), (2.5, 37), (4, 100), (4, 256)]
)
def test_a_tower_has_room_for_every_picture_that_its_file_allows(least: float, most: int) -> None:
    """Long pictures, and small ones that are made larger, get more vectors than a file's bound of pixels says."""
    reader = GridReader(make_shape(least_cells=least, most_cells=most), 1, 1 << 14)
    sides = [(side, max(1, side * ratio // 7 - 1)) for side in range(1, 61) for ratio in (7, 30, 200, 7 * MOST_RATIO)]
    given = max(reader.outline(*each).tokens for high, wide in sides for each in ((high, wide), (wide, high)))
    assert given * reader.shape.merged <= reader.most_patches
    assert reader.most_patches <= 20 * max(most, 1) * reader.shape.merged
