"""Files of any kind: as numbers of their first and last bytes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from inferd.plugin.recipe import BytesInput


def read_bytes(step: BytesInput, content: bytes) -> NDArray[np.int64]:
    """The row of a file, shape (1, first + last)."""
    first = last = content
    if step.strip:
        long = len(content) > step.strip
        first = content[: step.strip].lstrip() if long else content.strip()
        last = content[-step.strip :].rstrip() if long else first
    row = np.full((1, step.first + step.last), step.padding, np.int64)
    begin, end = first[: step.first], last[len(last) - min(step.last, len(last)) :]
    row[0, : len(begin)] = np.frombuffer(begin, np.uint8)
    if end:
        row[0, len(row[0]) - len(end) :] = np.frombuffer(end, np.uint8)
    return row
