"""The learning rate of each step."""

import math
from collections.abc import Callable, Mapping
from typing import Final

from inferd.plugin import TrainError, TrainingRecipe

FALLS: Final[Mapping[str, Callable[[float], float]]] = {
    "cosine": lambda done: (1 + math.cos(math.pi * done)) / 2,
    "linear": lambda done: 1 - done,
    "constant": lambda _: 1.0,
}
"""What is left of the highest rate, by the share of the steps behind the warm-up that is done."""
RATES: Final[Mapping[str, float]] = {
    "lora": 5e-4,
    "full": 3e-5,
    "embed": 2e-5,
    "distil": 3e-4,
    "classify": 5e-5,
    "classify full": 5e-5,
    "classify lora": 5e-4,
    "classify head": 1e-3,
}
"""The highest rates where a recipe names none, by method, and by what of it is trained."""


def rate_at(recipe: TrainingRecipe, step: int, steps: int) -> float:
    """The learning rate of a step; the first one is 1."""
    highest = recipe.learning_rate or RATES[recipe.method.name.lower() + (f" {recipe.tune}" if recipe.tune else "")]
    warm = math.ceil(recipe.warmup * steps)
    if step <= warm:
        return highest * step / warm
    return highest * FALLS[recipe.schedule]((step - 1 - warm) / (steps - warm))


def check_recipe(recipe: TrainingRecipe) -> None:
    """Check what a recipe says of steps.

    Raises:
        TrainError: A field has a value that it cannot have; both are named.
    """
    wants: tuple[tuple[str, bool, str], ...] = (
        ("epochs", 0 < recipe.epochs < math.inf, "above 0"),
        ("batch", recipe.batch >= 1, "at least 1"),
        ("accumulate", 1 <= recipe.accumulate <= recipe.batch, f"from 1 to 'batch', which is {recipe.batch}"),
        ("learning_rate", 0 <= recipe.learning_rate < math.inf, "0, for the method's own, or above it"),
        ("schedule", recipe.schedule in FALLS, f"one of {', '.join(FALLS)}"),
        ("warmup", 0 <= recipe.warmup <= 1, "from 0 to 1"),
        ("weight_decay", 0 <= recipe.weight_decay < math.inf, "at least 0"),
        ("clip", 0 <= recipe.clip < math.inf, "at least 0"),
        ("seed", recipe.seed >= 0, "at least 0"),
        ("most_tokens", recipe.most_tokens >= 2, "at least 2"),  # noqa: PLR2004 - one is told, one is learnt
        ("rank", 1 <= recipe.rank <= 512, "from 1 to 512"),  # noqa: PLR2004 - as adapters may have
        ("alpha", 0 < recipe.alpha < math.inf, "above 0"),
        ("dropout", 0 <= recipe.dropout < 1, "from 0 to below 1"),
        ("keep", recipe.keep in {"", "even", "needed"}, "even or needed"),
        ("precision", recipe.precision in {"", "float32", "bfloat16"}, "float32 or bfloat16"),
    )
    for name, sound, wanted in wants:
        if not sound:
            raise TrainError(f"the recipe's {name!r} is {getattr(recipe, name)!r}; it must be {wanted}")
