"""The loss of a classifier of texts, and how well it finds labels."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from inferd.plugin import ExportKind, Judgement, TrainError, TrainingRecipe, judge_labels
from inferd_torch.classifying.networks import score
from inferd_torch.classifying.reading import TextReader
from inferd_torch.training.labels import read_label
from inferd_torch.training.rows import Row


@dataclass(frozen=True, slots=True)
class LabelledText:
    """Tokens of a text, and the place of its label."""

    ids: list[int]
    label: int
    cut: bool = False


class TextClassifier:
    """A network that learns which label a text has.

    Args:
        network: Of transformers, with a last layer of so many outputs as there are labels.
        reader: Makes tokens; None where only the size of its steps is asked for.
        names: Of the labels.
        recipe: With the fields of a row.
        device: Where it is.
        export: Writes what was trained.
    """

    def __init__(
        self,
        network: Any,
        reader: TextReader | None,
        *,
        names: Sequence[str],
        recipe: TrainingRecipe,
        device: torch.device,
        export: Callable[[Path], ExportKind],
    ) -> None:
        self.network: Any = network
        self._reader, self._names, self._recipe = reader, tuple(names), recipe
        self._places = {name: at for at, name in enumerate(names)}
        self._device, self.export = device, export

    def read(self, row: Row, name: str) -> LabelledText:
        """An example of a row.

        Raises:
            TrainError: It lacks a text or a label, or has one that is not known.
        """
        field, text = self._recipe.text, row.get(self._recipe.text)
        if not isinstance(text, str) or self._reader is None:
            kind = "is not there" if text is None else f"is a {type(text).__name__}"
            raise TrainError(f"{name}: field {field!r} {kind}: a row needs a text; it has {sorted(row)[:10]}")
        label = read_label(row, self._recipe.label, name)
        if label not in self._places:
            raise TrainError(f"{name}: no row that is trained on has the label {label!r}")
        try:
            ids, cut = self._reader.read(text)
        except ValueError as error:
            raise TrainError(f"{name}: field {field!r} {error}") from None
        return LabelledText(ids, self._places[label], cut > 0)

    def weight(self, example: LabelledText) -> int:
        """Rows count alike."""
        del example
        return 1

    def tokens(self, example: LabelledText) -> int:
        """That are read."""
        return len(example.ids)

    def loss(self, examples: Sequence[LabelledText]) -> Tensor:
        """The sum of the losses of some rows."""
        return self._lose(self._score(examples), examples)

    def judge(self, parts: Sequence[Sequence[LabelledText]]) -> Judgement:
        """The loss of rows that are held back, and how well each label is found among them."""
        total = 0.0
        labels: list[int] = []
        found: list[int] = []
        for part in parts:
            scores = self._score(part)
            total += self._lose(scores, part).item()
            labels += [each.label for each in part]
            found += scores.argmax(-1).tolist()
        return judge_labels(self._names, labels, found, total / len(labels))

    def _score(self, examples: Sequence[LabelledText]) -> Tensor:
        return score(self.network, [each.ids for each in examples], self._device)

    def _lose(self, scores: Tensor, examples: Sequence[LabelledText]) -> Tensor:
        labels = torch.tensor([each.label for each in examples], device=self._device)
        return cross_entropy(scores, labels, reduction="sum")
