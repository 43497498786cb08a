"""When something is due in a training: pure."""

import math


def epoch_ends(steps: int, epochs: float) -> frozenset[int]:
    """The steps behind which an epoch has ended, the last of all among them."""
    whole = math.floor(epochs)
    return frozenset({steps} | {max(1, round(steps * number / epochs)) for number in range(1, whole + 1)})


def is_told(step: int, steps: int, most: int) -> bool:
    """Whether a step is one of the curve, which has at most so many (and the first and the last), evenly spread."""
    return step in {1, steps} or step % -(-steps // most) == 0
