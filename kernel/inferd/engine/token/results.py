"""What a session gave, held against what it was asked for: the edge where the arrays of a plugin come in.

Other floating-point numbers than float32 become float32, at the cost of a copy; a number beyond its range becomes
infinite there, which fails the task that it belongs to. Whatever is no array of such numbers is an error that names
the method, what it gave and what it must give.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from inferd.engine.token.sampler import BAD_ROW
from inferd.plugin import StepResult

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from inferd.engine.token.sampler import Ids
    from inferd.plugin import AheadSession, TokenBatch, TokenSession
    from inferd.plugin.session import Float32Array

_log = logging.getLogger(__name__)
_FLOAT32: Final = np.dtype(np.float32)


class Results:
    """Takes the results of one session. One writer: the thread of the steps.

    Attributes:
        refused: The session raised a ValueError for the last batch.
        pictures: How many pictures the last step computed, and how many it found kept.
    """

    def __init__(self) -> None:
        self.refused = False
        self.pictures = (0, 0)
        self._told: set[str] = set()  # what was converted and logged

    def step(self, session: TokenSession, batch: TokenBatch) -> StepResult:
        """Compute a step.

        Raises:
            Exception: The session raised.
            TypeError: It gave no `StepResult`.
        """
        try:
            result = session.step(batch)
        except ValueError:
            self.refused = True
            raise
        return self._take(result)

    def launch(self, session: AheadSession, batch: TokenBatch) -> Callable[[], StepResult]:
        """Begin a step; what waits for its result, which raises what the session raises, or a TypeError as `step`.

        Raises:
            Exception: The session raised.
        """
        try:
            wait = session.launch(batch)
        except ValueError:
            self.refused = True
            raise
        return lambda: self._take(wait())

    def _take(self, result: Any) -> StepResult:
        if not isinstance(result, StepResult):
            raise TypeError(f"TokenSession.step gave {_kind(result)}; it must give a StepResult")
        self.pictures = result.pictures_computed, result.pictures_kept
        return result

    def floats(self, name: str, values: Any, shape: tuple[int, int]) -> Float32Array:
        """The field `name` of a result, of this shape, as float32 that may be written to.

        Raises:
            TypeError, ValueError: It is something else.
        """
        array = check_array(name, values, shape, "float32")
        if array.dtype == _FLOAT32 and array.flags.writeable:
            right: Float32Array = array
            return right
        if array.dtype.kind != "f":
            raise TypeError(f"TokenSession.step gave {name} of {array.dtype}; they must be float32")
        if array.dtype != _FLOAT32 and name not in self._told:
            self._told.add(name)
            _log.warning("TokenSession.step gives %s of %s; each step they are made float32", name, array.dtype)
        with np.errstate(over="ignore"):
            converted: Float32Array = array.astype(np.float32)
        return converted

    def token_ids(self, values: Any, *, count: int, vocabulary_size: int) -> Ids:
        """The tokens that a session sampled.

        Raises:
            TypeError, ValueError: They are something else.
        """
        ids = check_array("token_ids", values, (count,), "integers")
        if ids.dtype.kind not in "iu":
            raise TypeError(f"TokenSession.step gave token_ids of {ids.dtype}; they must be int32")
        if ids.size and (ids.min() < BAD_ROW or ids.max() >= vocabulary_size):
            told = f"from {ids.min()} to {ids.max()}"
            raise ValueError(f"TokenSession.step gave token_ids {told}; the vocabulary has {vocabulary_size}")
        sampled: Ids = ids.astype(np.intp)
        return sampled


def check_array(name: str, values: Any, shape: tuple[int, ...], of: str) -> NDArray[Any]:
    """The field `name` of a result, which must be an array of this shape.

    Raises:
        TypeError, ValueError: It is not.
    """
    if not isinstance(values, np.ndarray):
        raise TypeError(f"TokenSession.step gave {name} as {_kind(values)}; it must be a numpy array of {of}")
    if values.shape != shape:
        raise ValueError(f"TokenSession.step gave {name} of shape {values.shape}; it must be {shape}")
    return values


def _kind(value: Any) -> str:
    return "None" if value is None else f"{type(value).__module__}.{type(value).__qualname__}"
