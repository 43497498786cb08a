"""What figures have to be, told beside each of them."""

from collections.abc import Iterator, Mapping
from fnmatch import fnmatchcase
from math import inf
from typing import Final

from limits import Figure

BOUNDS: Final[Mapping[str, tuple[float, float]]] = {
    "fair.share.*": (0.9, 1.1),
    "fair.flood.ttft": (-inf, 1.5),
    "fair.long_prompt": (-inf, 1.0),
    "gap.long_prompt": (-inf, 200.0),
    "prefix.ttft": (-inf, 0.25),
    "prefix.kept_ratio": (-inf, 0.3),
    "speculation.cost": (0.97, inf),
    "speculation.gain": (1.0, inf),
    "native.perplexity": (-inf, 1.005),
    "native.perplexity.8bit": (-inf, 1.01),
    "native.perplexity.4bit": (-inf, 1.03),
    "perplexity.*.file*": (-inf, 1.005),
    "perplexity.*.8bit*": (-inf, 1.01),
    "perplexity.*.4bit*": (-inf, 1.03),
}
"""The least and the most that a figure may be, by its name, in its unit."""


def judged(figures: Iterator[Figure]) -> Iterator[Figure]:
    """The figures; of those that have a bound the detail ends with it, and with whether it is held."""
    for figure in figures:
        value = figure["value"]
        bound = next((bound for name, bound in BOUNDS.items() if fnmatchcase(figure["name"], name)), None)
        if bound is None or value is None:
            yield figure
            continue
        least, most = bound
        words = [f"at least {least:g}"] * (least > -inf) + [f"at most {most:g}"] * (most < inf)
        told = f"{figure['detail']}; bound: {' and '.join(words)}: {'held' if least <= value <= most else 'MISSED'}"
        yield Figure(name=figure["name"], value=value, unit=figure["unit"], detail=told)
