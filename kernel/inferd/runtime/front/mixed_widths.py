"""What the weights of a model take with narrow and with wide layers, before any of it is loaded."""

from collections.abc import Awaitable, Callable

from inferd.core.mixed_widths import (
    EXTRA_TRIALS,
    MOST_PARTS,
    NARROW,
    QUANTIZATION,
    WIDE_LAYERS,
    MixedWidths,
    Sizes,
    narrow_settings,
)
from inferd.core.optimization import ORIGINAL, SearchLimits, Settings
from inferd.errors import InvalidFieldError
from inferd.plugin import BackendSpec

FIELD = "most_weights_bytes"
Weigh = Callable[[Settings], Awaitable[int]]


def check_widths(backend: BackendSpec | None, limits: SearchLimits) -> None:
    """That a backend knows narrow and wide layers, and that there may be trials enough.

    Raises:
        InvalidFieldError: Not so.
    """
    settings = {each.name: each for each in backend.settings} if backend is not None else {}
    if WIDE_LAYERS not in settings or NARROW not in settings[QUANTIZATION].choices:
        name = backend.name if backend is not None else "that the model has"
        message = f"backend {name!r} has no setting {WIDE_LAYERS!r}, by which some layers stay wide; 'cpu' has it"
        raise InvalidFieldError(message, field=FIELD)
    if limits.trials <= EXTRA_TRIALS:
        message = f"optimize.trials is {limits.trials}; mixed widths take at least {EXTRA_TRIALS + 1}"
        raise InvalidFieldError(message, field=FIELD)


async def plan_widths(weigh: Weigh, *, budget: int, limits: SearchLimits) -> MixedWidths:
    """What is tried for weights within a budget.

    Args:
        weigh: Bytes of the weights with settings, as a plan tells them.
        budget: Most bytes.
        limits: Of the search.

    Raises:
        InvalidFieldError: The budget is less than the narrowest weights take, or what they take as they are is within.
    """
    parts = min(MOST_PARTS, limits.trials - EXTRA_TRIALS)
    wide, narrow = await weigh(ORIGINAL), await weigh(narrow_settings((), parts))
    if budget < narrow:
        message = f"{FIELD} is {budget}; with all layers narrow the weights take {narrow} bytes"
        raise InvalidFieldError(message, field=FIELD)
    if budget >= wide:
        message = f"{FIELD} is {budget}; as they are the weights take {wide} bytes, which is within that"
        raise InvalidFieldError(message, field=FIELD)
    grown = [await weigh(narrow_settings((part,), parts)) - narrow for part in range(parts)]
    return MixedWidths(sizes=Sizes(narrow=narrow, parts=tuple(grown), budget=budget), final_rounds=limits.final_rounds)
