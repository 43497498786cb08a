"""What towers make of a tile beside their blocks: patches become rows, and hidden states vectors of a decoder."""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from inferd_cpu.feeds import activate
from inferd_cpu.norms import multiply, normalize
from inferd_cpu.vision.layers import Advance, Layers, Layout
from inferd_cpu.vision.shape import COLOURS, GRID, TowerShape

Floats = NDArray[np.float32]
_BASE = 10000.0  # of the frequencies by which rows and columns rotate


class Eye:
    """Sees a tile.

    Args:
        shape: Sizes.
        weights: Those around its blocks, by their names in the file.
        layers: Its blocks.
    """

    def __init__(self, shape: TowerShape, weights: Mapping[str, Floats], layers: Layers) -> None:
        self._shape = shape
        self._weights = dict(weights)
        self._layers = layers
        patch = self._weights.pop("v.patch_embd.weight").reshape(shape.width, -1)
        if shape.kind == GRID:  # a picture is two equal moments of a film
            patch = patch + self._weights.pop("v.patch_embd.weight.1").reshape(shape.width, -1)
        self._patch = patch

    def count(self, tile: Floats) -> int:
        """How many vectors a tile gets, by its shape (3, H, W)."""
        high, wide = tile.shape[1:]
        return int(high // self._shape.cell * (wide // self._shape.cell))

    def see(self, tile: Floats, advance: Advance) -> Floats:
        """The vectors of a tile of shape (3, H, W): (`count`, width of the decoder)."""
        if self._shape.kind == GRID:
            return self._see_grid(tile, advance)
        shape, weights = self._shape, self._weights
        side, patch, factor = shape.side, shape.patch_size, shape.scale_factor
        patches = tile.reshape(COLOURS, side, patch, side, patch).transpose(1, 3, 0, 2, 4).reshape(shape.patches, -1)
        hidden = self._embed(patches, weights["v.patch_embd.bias"])
        hidden += weights["v.position_embd.weight"]
        self._encode(hidden, Layout.plain(len(hidden)), advance)
        cells = side // factor
        parted = hidden.reshape(cells, factor, cells, factor, -1)
        if shape.kind == "gemma3":
            pooled = np.ascontiguousarray(parted.mean(axis=(1, 3)).reshape(cells * cells, -1))
            scale = weights["mm.soft_emb_norm.weight"]
            rows = normalize(pooled, scale, kind="rms", epsilon=shape.epsilon, out=pooled)
            return self._project(rows, weights["mm.input_projection.weight"].T)
        # So many patches of rows and columns become one vector (pixel shuffle).
        rows = np.ascontiguousarray(parted.transpose(0, 2, 1, 3, 4).reshape(cells * cells, -1))
        return self._project(rows, weights["mm.model.fc.weight"])

    def close(self) -> None:
        """Give the memory back."""
        self._layers.close()
        self._weights.clear()

    def _see_grid(self, tile: Floats, advance: Advance) -> Floats:
        """Of a picture near its own size (arXiv:2502.13923): patches of a vector lie together, and so do windows."""
        shape, weights = self._shape, self._weights
        merge, patch = shape.scale_factor, shape.patch_size
        rows, columns = tile.shape[1] // shape.cell, tile.shape[2] // shape.cell
        order, windows = order_cells(rows, columns, shape.window)
        cells = tile.reshape(COLOURS, rows, merge, patch, columns, merge, patch).transpose(1, 4, 2, 5, 0, 3, 6)
        patches = cells.reshape(rows * columns, merge**2, -1)[order].reshape(len(order) * merge**2, -1)
        hidden = self._embed(patches)
        cosines, sines = _turn(order, columns, shape)
        self._encode(hidden, Layout(windows * np.int32(merge**2), cosines, sines), advance)
        together = hidden.reshape(len(order), -1)
        inner = self._project(together, weights["mm.0.weight"], weights["mm.0.bias"])
        inner = activate("gelu", inner, None, out=np.empty_like(inner))
        vectors = np.empty((len(order), shape.out_width), np.float32)
        vectors[order] = self._project(inner, weights["mm.2.weight"], weights["mm.2.bias"])
        return vectors

    def _embed(self, patches: Floats, bias: Floats | None = None) -> Floats:
        return self._project(np.ascontiguousarray(patches), self._patch, bias)

    def _encode(self, hidden: Floats, layout: Layout, advance: Advance) -> None:
        """All blocks, and the norm behind them."""
        shape, weights = self._shape, self._weights
        self._layers.encode(hidden, layout, advance)
        weight, bias = weights["v.post_ln.weight"], weights.get("v.post_ln.bias")
        normalize(hidden, weight, bias, kind=shape.norm, epsilon=shape.epsilon, out=hidden)

    @staticmethod
    def _project(rows: Floats, matrix: Floats, bias: Floats | None = None) -> Floats:
        return multiply(rows, matrix, bias, out=np.empty((len(rows), len(matrix)), np.float32))


def order_cells(rows: int, columns: int, window: int) -> tuple[NDArray[np.intp], NDArray[np.int32]]:
    """The cells of a grid by windows, and where each window begins.

    Args:
        rows: Of the grid.
        columns: Of the grid.
        window: Rows and columns of a window; those at the far edges are smaller. 0: one for all.

    Returns:
        Numbers of cells, row by row, in the order of windows, shape (N,); and starts, shape (windows + 1,).
    """
    numbers = np.arange(rows * columns).reshape(rows, columns)
    step = window or max(rows, columns)
    parts = [
        numbers[row : row + step, column : column + step].reshape(-1)
        for row in range(0, rows, step)
        for column in range(0, columns, step)
    ]
    return np.concatenate(parts), np.cumsum([0, *map(len, parts)]).astype(np.int32)


def _turn(order: NDArray[np.intp], columns: int, shape: TowerShape) -> tuple[Floats, Floats]:
    """Cosines and sines of the patches of cells: half of the pairs of a head go by rows, the others by columns."""
    merge, pairs = shape.scale_factor, shape.rotated // 2
    within = np.arange(merge)
    row = np.repeat(order // columns * merge, merge**2).reshape(-1, merge, merge) + within[:, None]
    column = np.repeat(order % columns * merge, merge**2).reshape(-1, merge, merge) + within
    frequencies = (1.0 / np.float32(_BASE) ** (np.arange(pairs, dtype=np.float32) / np.float32(pairs))).astype(
        np.float32
    )
    angles = np.concatenate(
        [at.reshape(-1, 1).astype(np.float32) * frequencies for at in (row, column)], axis=1, dtype=np.float32
    )
    return np.cos(angles), np.sin(angles)
