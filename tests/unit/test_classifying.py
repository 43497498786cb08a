"""What answers of classifiers count for."""

from __future__ import annotations

from math import inf, nan
from struct import pack

import pytest

from inferd.core.task_events import TensorOutput
from inferd.moderation.rules import Classifier
from inferd.runtime.classifying import finds, read_labels
from inferd_api.v1 import tensor_pb2

ASKED = Classifier(model="judge", labels=("toxic",), least_score=0.5)


def told(labels: list[str], scores: list[float] | None) -> TensorOutput:
    """What a recipe tells of a text."""
    output = tensor_pb2.InferOutput()
    output.outputs.add(name="kind", element_type=tensor_pb2.ELEMENT_TYPE_STRING).strings.values.extend(labels)
    if scores is not None:
        data = pack(f"<{len(scores)}f", *scores)
        output.outputs.add(name="kind_score", element_type=tensor_pb2.ELEMENT_TYPE_FLOAT, data=data)
    return TensorOutput(output.SerializeToString())


@pytest.mark.parametrize("score", [nan, inf, -inf])
def test_a_score_that_is_no_number_is_no_answer(score: float) -> None:
    """NaN is below no bound and above none: the text is not taken for cleared."""
    with pytest.raises(ValueError, match="'toxic' the score"):
        read_labels(told(["fine", "toxic"], [0.5, score]))


def test_no_score_for_a_label_asked_for_is_no_answer() -> None:
    """A misspelled label, or one that the recipe leaves out, is named with the fix; what another finds counts."""
    with pytest.raises(ValueError, match=r"none of them is 'toxic'.*top"):
        finds(ASKED, read_labels(told(["fine", "Toxic"], [0.1, 0.9])))
    two = Classifier(model="judge", labels=("toxic", "rude"), least_score=0.5)
    assert finds(two, read_labels(told(["rude"], [0.9])))
    assert not finds(ASKED, read_labels(told(["fine", "toxic"], [0.9, 0.1])))


def test_a_label_without_a_score_is_the_answer() -> None:
    """A model that names what it finds has named it or not."""
    assert finds(ASKED, read_labels(told(["toxic"], None)))
    assert not finds(ASKED, read_labels(told(["fine"], None)))


def test_the_greatest_score_of_equal_labels_counts() -> None:
    """One that comes last does not take away what was found."""
    assert read_labels(told(["toxic", "toxic"], [0.875, 0.125])) == {"toxic": 0.875}
