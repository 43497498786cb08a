"""A classifier that serves: texts, or vectors, to the probability of each label."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np

from inferd.plugin import ElementType, LabelOutput, PlainOutput, Recipe, Signature, Tensor, TensorInfo
from inferd_heads.hashing import find_features
from inferd_heads.model_folder import MARK, Classifier
from inferd_heads.sparse import Row, multiply

TEXT, VECTOR, SCORES, CUT, LABEL = "text", "vector", "scores", "cut", "label"
MOST_TOLD: Final = 20
"""Labels that are told of a text, where no setting says otherwise."""
_NAMED: Final = 20  # labels in a description


class ClassifierSession:
    """One loaded classifier.

    Args:
        model: What was read of its folder.
        most_batch: Most rows of several requests.
        refuse: Whether texts are refused that have more words than are read; else they are cut.
    """

    def __init__(self, model: Classifier, *, most_batch: int, refuse: bool) -> None:
        self._model = model
        self._refuse = refuse
        labels = model.about.labels
        more = f" and {len(labels) - _NAMED} more" if len(labels) > _NAMED else ""
        scores = TensorInfo(
            name=SCORES,
            element_type=ElementType.FLOAT,
            shape=("rows", len(labels)),
            description=f"the probability of each label: {', '.join(labels[:_NAMED])}{more}",
        )
        cut = TensorInfo(
            name=CUT, element_type=ElementType.INT32, shape=("rows",), description="words that were not read"
        )
        if model.columns:
            taken = TensorInfo(
                name=TEXT, element_type=ElementType.STRING, shape=("rows",), description="texts to classify"
            )
        else:
            taken = TensorInfo(name=VECTOR, element_type=ElementType.FLOAT, shape=("rows", len(model.weights)))
        outputs = (scores, cut) if model.columns else (scores,)
        self.signature = Signature(inputs=(taken,), outputs=outputs, most_batch=most_batch)

    def predict(self, inputs: Mapping[str, Tensor], outputs: Sequence[str]) -> Mapping[str, Tensor]:
        """The outputs that are wanted.

        Raises:
            ValueError: A text is too long, or a vector has a number that is none.
        """
        rows = self._read(inputs)
        made: dict[str, Tensor] = {}
        if SCORES in outputs:
            logits = multiply(rows, self._model.weights, self._model.bias).astype(np.float64)
            powers = np.exp(logits - logits.max(1, keepdims=True))
            made[SCORES] = _tensor(ElementType.FLOAT, (powers / powers.sum(1, keepdims=True)).astype("<f4"))
        if CUT in outputs:
            made[CUT] = _tensor(ElementType.INT32, np.array([row.cut for row in rows], "<i4"))
        return made

    def _read(self, inputs: Mapping[str, Tensor]) -> list[Row]:
        if self._model.columns is None:
            return [vector_row(vector) for vector in inputs[VECTOR].array]
        most = self._model.about.most_words
        rows = []
        for number, text in enumerate(inputs[TEXT].array.tolist(), 1):
            try:
                row = self._model.columns.row(find_features(text, most))
            except ValueError as error:
                raise ValueError(f"text {number} has {error}") from None
            if row.cut and self._refuse:
                raise ValueError(f"text {number} has {row.words + row.cut} words; the model reads {most}")
            rows.append(row)
        return rows

    def close(self) -> None:
        """Give the memory back."""
        del self._model


def vector_row(vector: Any) -> Row:
    """A vector as a row of length 1.

    Raises:
        ValueError: It has a number that is none.
    """
    length = float(np.sqrt(np.sum(np.square(vector, dtype=np.float64))))
    if not np.isfinite(length):
        raise ValueError("a vector has a number that is no finite one")
    return Row(np.arange(len(vector)), (vector / np.float32(length or 1.0)).astype(np.float32))


def make_recipe(model: Classifier, top: int | None) -> Recipe:
    """What clients are told: the likeliest labels, and the scores of all."""
    labels = model.about.labels
    told = min(top or MOST_TOLD, len(labels))
    outputs: list[LabelOutput | PlainOutput] = [
        LabelOutput(name=LABEL, takes=SCORES, labels=labels, top=told),
        PlainOutput(name=SCORES, takes=SCORES),
    ]
    if model.columns:
        outputs.append(PlainOutput(name=CUT, takes=CUT))
    return Recipe(where=MARK, outputs=tuple(outputs))


def _tensor(kind: ElementType, array: Any) -> Tensor:
    return Tensor(element_type=kind, shape=array.shape, array=array)
