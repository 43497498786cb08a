"""What texts consist of for a classifier, and what each part counts."""

import re
import unicodedata
from collections import Counter as Bag
from itertools import pairwise

import numpy as np
import pytest
from sklearn.feature_extraction.text import TfidfTransformer

from inferd_heads.columns import Columns, Counter, most_columns
from inferd_heads.hashing import MOST_CHARACTERS, find_features
from inferd_heads.sparse import MOST_PRODUCTS, Row, Rows, gradients, multiply

TEXTS = ["The cat sat.", "the CAT, and the dog", "a dog", "ﬁne cats — naïve ones", "猫が好き 猫", "", "?!"]


def parts(text: str) -> Bag[str]:
    """The features of a text as it is described, spelled out."""
    words = re.findall(r"[^\W_]+", unicodedata.normalize("NFKC", text).casefold())
    line = f" {' '.join(words)} "
    found = Bag(words) + Bag(f"{one} {other}" for one, other in pairwise(words))
    runs = [line[at : at + 4] for at in range(len(line) - 3)]
    found += Bag(f"run {run}" for run in runs if " " not in run[1:-1])
    found += Bag(f"pair {line[at : at + 2]}" for at in range(len(line) - 1) if line[at] >= "\u2e80")
    return found if words else Bag()


@pytest.mark.parametrize("text", TEXTS)
def test_features_are_words_pairs_and_runs(text: str) -> None:
    """A text has as many features, as often, as a plain description of them gives."""
    found = find_features(text, 100)
    assert sorted(found.counts.tolist()) == sorted(parts(text).values())


def test_the_same_feature_has_the_same_number_wherever_it_stands() -> None:
    """Texts share the numbers of just those features that they share."""
    one, other = (find_features(text, 100) for text in ("red fish swim", "a red fish"))
    shared = parts("red fish swim").keys() & parts("a red fish").keys()
    assert len(np.intersect1d(one.numbers, other.numbers)) == len(shared)


def test_words_beyond_the_bound_are_cut_and_counted() -> None:
    """Only the first words are read, and the rest is counted."""
    cut, whole = find_features("one two three four", 2), find_features("one two", 9)
    assert (cut.words, cut.cut) == (2, 2)
    assert (whole.words, whole.cut) == (2, 0)
    assert np.array_equal(cut.numbers, whole.numbers)


def test_a_text_of_too_many_characters_is_refused() -> None:
    """The message has both numbers."""
    with pytest.raises(ValueError, match=f"{MOST_CHARACTERS + 1} characters in 1 words; at most {MOST_CHARACTERS}"):
        find_features("x" * (MOST_CHARACTERS - 1), 9)


def test_values_are_those_of_scikit_learn() -> None:
    """TF-IDF with smooth, sublinear counts and rows of length 1 is scikit-learn's, of the same counts."""
    found = [find_features(text, 100) for text in TEXTS]
    counter = Counter()
    for each in found:
        counter.add(each)
    columns = counter.choose(2)
    counts = np.zeros((len(TEXTS), len(columns.numbers)))
    ours = np.zeros_like(counts)
    for number, each in enumerate(found):
        places, times = columns.find(each)
        row = columns.row(each)
        counts[number, places], ours[number, row.columns] = times, row.values
    theirs = TfidfTransformer(sublinear_tf=True).fit_transform(counts).toarray()
    np.testing.assert_allclose(ours, theirs, atol=1e-6)


def test_rare_features_are_left_out_of_many_texts() -> None:
    """Of many texts a model has only features that two have, and of too many features those that most texts have."""
    counter = Counter()
    for number in range(100):
        counter.add(find_features(f"common word{number} twin{number // 2}", 9))
    columns = counter.choose(2)
    assert np.isin(find_features("twin7", 9).numbers, columns.numbers).any()
    alone = np.setdiff1d(find_features("word7", 9).numbers, find_features("word word70", 9).numbers)
    assert not np.isin(alone, columns.numbers).any()
    assert most_columns(2) == 1 << 18
    assert most_columns(1000) * 1000 <= 1 << 24


def test_unknown_words_are_left_out() -> None:
    """A text without any feature of the model is a row without numbers; so is any for a model that has none."""
    columns = Columns(find_features("cat", 9).numbers, np.ones(3, np.float32))
    assert len(columns.row(find_features("dog", 9)).columns) == 0
    none = Columns(np.zeros(0, np.uint32), np.zeros(0, np.float32))
    assert len(none.row(find_features("dog", 9)).columns) == 0


def test_products_and_gradients_are_those_of_matrices() -> None:
    """Rows with few numbers, empty ones among them, give what a matrix of all numbers gives; in parts, too."""
    random = np.random.default_rng(1)
    labels = 700
    dense = random.normal(size=(9, 1000)) * (random.random((9, 1000)) < 0.4)
    dense[[0, 4, 8]] = 0
    rows = [Row(np.flatnonzero(each), each[each != 0].astype(np.float32)) for each in dense]
    assert sum(len(row.columns) for row in rows) > MOST_PRODUCTS // labels / 2
    weights, bias = random.normal(size=(1000, labels)).astype("f4"), random.normal(size=labels).astype("f4")
    np.testing.assert_allclose(multiply(rows, weights, bias), dense @ weights + bias, atol=1e-3)
    slopes = random.normal(size=(9, labels)).astype("f4")
    columns, found = gradients(Rows.join(rows), slopes)
    assert columns.tolist() == np.flatnonzero(dense.any(0)).tolist()
    np.testing.assert_allclose(found, (dense.T @ slopes)[columns], atol=1e-4)
    assert multiply([rows[0]], weights, bias).tolist() == [bias.tolist()]
    assert len(gradients(Rows.join([rows[0]]), slopes[:1])[0]) == 0
