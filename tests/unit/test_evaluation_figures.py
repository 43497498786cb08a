"""Figures of evaluations equal those of the libraries that everybody uses, on the same outputs."""

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sacrebleu
from hypothesis import given, settings
from hypothesis import strategies as st
from rouge_score import rouge_scorer
from sklearn.metrics import accuracy_score, precision_recall_fscore_support

from inferd_evaluation.figures import System, evaluation_report
from inferd_evaluation.items import ChoiceLine, evaluation_items
from inferd_evaluation.overlap import ROUGES, longest_common, rouge
from inferd_evaluation.rows import Answer, Row, choice_scores, evaluation_rows

WORDS = st.lists(
    st.sampled_from(["the", "cat", "sat", "on", "Mats", "naïve", "3.5", "don't", "—", "end."]), max_size=12
)
TEXTS = WORDS.map(" ".join) | st.text(max_size=40)
SOME = st.lists(TEXTS, min_size=1, max_size=3)
ROOT = Path(__file__).parents[2]
LABELS = ["good", "bad", "unsure"]
SAID = st.sampled_from([*LABELS, "else"])


def real_pairs() -> list[tuple[str, str]]:
    """Paragraphs of the documents, each with the one behind it: real texts that have some words in common."""
    texts = [(ROOT / "docs" / name).read_text(encoding="utf-8") for name in ("tasks.md", "functions.md", "security.md")]
    parts = [part for text in texts for part in text.split("\n\n") if part.strip()]
    return list(pairwise(parts))


def columns(rows: list[Row]) -> System:
    names = rows[0].scores
    return System(
        lines=list(range(1, len(rows) + 1)),
        scores={name: [row.scores[name] for row in rows] for name in names},
        bleu=[row.bleu for row in rows if row.bleu],
        expected=[row.expected for row in rows if row.expected is not None],
        predicted=[row.predicted for row in rows if row.predicted is not None],
    )


def figures(kind: Any, rows: list[Row], **more: Any) -> dict[str, float]:
    report = evaluation_report(kind=kind, systems=[columns(rows)], resamples=100, **more)
    return {each.name: each.value for each in report.systems[0].metrics}


def test_rouge_of_real_texts_is_that_of_rouge_score() -> None:
    """ROUGE-1, 2 and L of paragraphs of the documents are those of `rouge-score`."""
    theirs = rouge_scorer.RougeScorer(list(ROUGES))
    pairs = real_pairs()
    assert len(pairs) > 100
    for text, reference in pairs:
        expected = {name: score.fmeasure for name, score in theirs.score(reference, text).items()}
        assert rouge(text, [reference]) == pytest.approx(expected, abs=1e-12)


@given(text=TEXTS, references=SOME)
@settings(deadline=None, max_examples=60)
def test_rouge_of_any_texts_is_that_of_rouge_score(text: str, references: list[str]) -> None:
    """The same of whatever texts, and of several references the one that is best for each figure."""
    theirs = rouge_scorer.RougeScorer(list(ROUGES)).score_multi(references, text)
    mine = rouge(text, references)
    assert mine == pytest.approx({name: score.fmeasure for name, score in theirs.items()}, abs=1e-12)


@given(one=WORDS, two=WORDS)
@settings(deadline=None, max_examples=60)
def test_the_longest_common_sequence_is_that_of_the_usual_table(one: list[str], two: list[str]) -> None:
    """It is as long as the table of all beginnings says."""
    table = [[0] * (len(two) + 1) for _ in range(len(one) + 1)]
    for i, a in enumerate(one):
        for j, b in enumerate(two):
            table[i + 1][j + 1] = table[i][j] + 1 if a == b else max(table[i][j + 1], table[i + 1][j])
    assert longest_common(one, two) == table[-1][-1]


def written(pairs: list[tuple[str, list[str]]]) -> dict[str, float]:
    lines = [json.dumps({"prompt": "x", "references": references}) for _, references in pairs]
    rows = list(evaluation_rows("generation", lines, [Answer(text=text) for text, _ in pairs]))
    return figures("generation", rows)


def test_bleu_of_real_texts_is_that_of_sacrebleu() -> None:
    """BLEU of paragraphs of the documents, all together, is that of `sacrebleu`."""
    pairs = [(text.strip(), [reference]) for text, reference in real_pairs()]
    theirs = sacrebleu.corpus_bleu([text for text, _ in pairs], [[one for _, (one,) in pairs]])
    assert theirs.score > 1
    assert written(pairs)["bleu"] == pytest.approx(theirs.score, abs=1e-9)


@given(pairs=st.lists(st.tuples(TEXTS, SOME), min_size=1, max_size=5))
@settings(deadline=None, max_examples=15)
def test_bleu_of_any_texts_is_that_of_sacrebleu(pairs: list[tuple[str, list[str]]]) -> None:
    """The same of whatever texts, with any number of references each."""
    most = max(len(references) for _, references in pairs)
    by_place = [[dict(enumerate(references)).get(place) for _, references in pairs] for place in range(most)]
    theirs = sacrebleu.corpus_bleu([text.strip() for text, _ in pairs], by_place)
    assert written(pairs)["bleu"] == pytest.approx(theirs.score, abs=1e-9)


@given(pairs=st.lists(st.tuples(st.sampled_from(LABELS), SAID), min_size=1, max_size=30))
@settings(deadline=None, max_examples=15)
def test_figures_of_labels_are_those_of_scikit_learn(pairs: list[tuple[str, str]]) -> None:
    """Accuracy, and precision, recall and F1 of each label and as means over them, are those of scikit-learn."""
    lines = [json.dumps({"prompt": "x", "label": label}) for label, _ in pairs]
    rows = list(evaluation_rows("classification", lines, [Answer(text=said) for _, said in pairs], LABELS))
    report = evaluation_report(kind="classification", systems=[columns(rows)], labels=LABELS, resamples=100)
    expected, said = [label for label, _ in pairs], [said for _, said in pairs]
    theirs = precision_recall_fscore_support(expected, said, labels=LABELS, zero_division=0)
    mine = [(each.precision, each.recall, each.f1, each.support) for each in report.systems[0].labels]
    assert np.allclose(mine, np.transpose(theirs), atol=1e-12)
    macro = precision_recall_fscore_support(expected, said, labels=LABELS, average="macro", zero_division=0)[:3]
    found = {each.name: each.value for each in report.systems[0].metrics}
    assert [found["precision"], found["recall"], found["f1"]] == pytest.approx(list(macro), abs=1e-12)
    assert found["accuracy"] == pytest.approx(accuracy_score(expected, said))


def test_a_choice_counts_by_sum_and_by_character() -> None:
    """A long text is less likely in sum and may be likelier by character; equal ones go to the first."""
    line = ChoiceLine(prompt="x", choices=["ab", "abcdefgh"], answer="abcdefgh")
    scores = choice_scores(line, [-2.0, -4.0])
    assert (scores["accuracy"], scores["accuracy_norm"]) == (0.0, 1.0)
    assert scores["probability"] == pytest.approx(1 / (1 + np.exp(2)))
    assert choice_scores(ChoiceLine(prompt="x", choices=["a", "b"], answer=0), [-1.0, -1.0])["accuracy"] == 1.0


def test_intervals_hold_what_they_say_and_pairs_take_out_what_is_hard_for_both() -> None:
    """Of 40 intervals of a known mean about 38 hold it; a small difference of pairs is seen; a seed repeats all."""
    draw = np.random.default_rng(7)
    held = 0
    for number in range(40):
        values = (draw.random(60) < 0.7).astype(float).tolist()
        system = System(lines=list(range(60)), scores={"accuracy": values})
        (metric,) = evaluation_report(kind="choice", systems=[system], resamples=200, seed=number).systems[0].metrics
        held += metric.low <= 0.7 <= metric.high
    assert 33 <= held <= 40
    hard = draw.random(200)
    one = System(name="one", lines=list(range(200)), scores={"rating": hard.tolist()})
    two = System(name="two", lines=list(range(200)), scores={"rating": (hard + 0.02 + draw.random(200) / 100).tolist()})
    report = evaluation_report(kind="judge", systems=[one, two], seed=3)
    (difference,) = report.differences
    assert 0.02 < difference.low < difference.value < difference.high < 0.03
    assert difference.p_value < 0.01
    assert report.systems[0].metrics[0].high > report.systems[1].metrics[0].low  # alone nothing is told
    assert evaluation_report(kind="judge", systems=[one, two], seed=3) == report


def test_only_lines_that_both_have_answered_are_compared() -> None:
    """A line that one of both lacks is in no difference; none in common is refused."""
    one = System(name="one", lines=[1, 2, 3], scores={"accuracy": [1, 0, 1]})
    two = System(name="two", lines=[2, 3, 9], scores={"accuracy": [1, 1, 0]})
    (difference,) = evaluation_report(kind="choice", systems=[one, two]).differences
    assert (difference.lines, difference.value) == (2, 0.5)
    with pytest.raises(ValueError, match="no line both"):
        evaluation_report(kind="choice", systems=[one, System(name="two", lines=[4], scores={"accuracy": [1]})])


@pytest.mark.parametrize(
    ("kind", "line", "said"),
    [
        ("choice", {"prompt": "a", "choices": ["b"], "answer": 0}, "line 1: choices"),
        ("choice", {"prompt": "a", "choices": ["b", "b"], "answer": 0}, "two choices are the same"),
        ("choice", {"prompt": "a", "choices": ["b", "c"], "answer": "d"}, "none of the choices"),
        ("choice", {"prompt": "a", "choices": ["no", "yes"], "answer": True}, "line 1: answer: .*True is no place"),
        ("choice", {"prompt": "a", "choices": ["b", "c"], "answer": 1.0}, "1.0 is no place"),
        ("choice", {"prompt": "a", "messages": [], "choices": ["b", "c"], "answer": 0}, "line 1"),
        ("generation", {"prompt": "", "reference": "b"}, "prompt is empty"),
        ("generation", {"prompt": "a"}, "one of reference and references"),
        ("generation", {"prompt": "\ud800", "reference": "b"}, "line 1"),
        ("classification", {"prompt": "a", "label": "c"}, "the labels of the task are 'x', 'y'"),
        ("code", {"prompt": "a"}, "tests"),
        ("judge", {"messages": [{"role": "robot", "content": "a"}]}, "messages.0.role"),
        ("judge", [], "line 1"),
    ],
)
def test_a_wrong_line_is_told_with_its_number(kind: Any, line: Any, said: str) -> None:
    """Whatever is wrong with a line is said with the number of the line and the field."""
    with pytest.raises(ValueError, match=said):
        list(evaluation_items(kind, [json.dumps(line)], labels=["x", "y"]))
    with pytest.raises(ValueError, match=said):
        list(evaluation_items(kind, [json.dumps(line)], labels=["x", "y"], check=True))


def test_what_all_lines_have_in_common_is_not_told_with_each() -> None:
    """Labels are left out, lines come in pieces of bounded size, and those that are checked alone give nothing."""
    lines = [json.dumps({"prompt": "a", "label": "x"})] * 250
    pieces = list(evaluation_items("classification", lines, labels=["x"]))
    assert [len(each) for each in pieces] == [100, 100, 50]
    assert not any(said.choices for each in pieces for said in each)
    long = [json.dumps({"prompt": "a" * 50_000})] * 3
    assert [len(each) for each in evaluation_items("judge", long)] == [1, 1, 1]
    assert not list(evaluation_items("classification", lines, labels=["x"], check=True))
    with pytest.raises(ValueError, match="line 9: answer"):
        list(evaluation_items("choice", ['{"prompt": "a", "choices": ["b", "c"], "answer": null}'], numbers=[9]))
