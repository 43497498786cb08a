"""How many tokens a second the kernel puts out."""

from collections import deque

WINDOW_S = 5.0
SLICE_S = 0.25


class Rate:
    """Tokens over the last seconds, in slices, so that a step costs one addition. One writer: the driver."""

    def __init__(self) -> None:
        self._slices: deque[tuple[float, int]] = deque()  # when a slice began, and its tokens

    def add(self, tokens: int, now: float) -> None:
        """So many tokens were told."""
        if self._slices and now - self._slices[-1][0] < SLICE_S:
            begun, before = self._slices[-1]
            self._slices[-1] = begun, before + tokens
        else:
            self._slices.append((now, tokens))
            self._drop(now)

    def tokens_per_s(self, now: float) -> float:
        """Tokens a second over the last `WINDOW_S` seconds."""
        self._drop(now)
        return sum(tokens for _, tokens in self._slices) / WINDOW_S

    def _drop(self, now: float) -> None:
        while self._slices and now - self._slices[0][0] > WINDOW_S:
            self._slices.popleft()
