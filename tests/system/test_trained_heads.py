"""Classifiers of the backend `heads` beside scikit-learn's, on 2,225 published news texts and on many made up ones."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from classifier_rows import NEWS, ask, make_rows, read_news, write_rows
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import f1_score

from inferd_heads.backend import HeadsBackend
from inferd_heads.training import examine

MANY = 100_000  # in a process of its own, whose memory is looked at
LONG = """
import json, re, sys, time
from pathlib import Path
from classifier_rows import ask
from inferd_heads.backend import HeadsBackend
def most() -> int:
    return int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) << 10
request, backend = ask(Path(sys.argv[1]), batch=64), HeadsBackend()
before = most()
need = backend.measure_training(request).total_bytes
begun = time.monotonic()
training = backend.train(request, lambda _: None)
for _ in range(training.steps):
    training.step()
told = training.evaluate()
grown = most() - before
print(json.dumps([need, grown, time.monotonic() - begun, told.figures["macro_f1"]]))
"""


@pytest.mark.model
@pytest.mark.parametrize("seed", range(3))
def test_as_good_as_scikit_learn(packaged: Callable[[str, str], Path], tmp_path: Path, seed: int) -> None:
    """On the same split, one pass over the texts gives 0.95 of the macro F1 of scikit-learn's logistic regression."""
    news = read_news(packaged(*NEWS))
    assert len(news) == 2225
    asked = ask(write_rows(tmp_path / "rows.jsonl", news), held=0.2, seed=seed)
    training = HeadsBackend().train(asked, lambda _: None)
    for _ in range(training.steps):
        training.step()
    ours = training.evaluate()
    training.close()
    parts = examine(asked)
    texts, labels = [row["text"] for row in news], np.array([row["label"] for row in news])
    made = TfidfVectorizer()
    rows = made.fit_transform([texts[place] for place in parts.trained])
    theirs = LogisticRegression(max_iter=1000).fit(rows, labels[parts.trained])
    found = theirs.predict(made.transform([texts[place] for place in parts.judged]))
    expected = f1_score(labels[parts.judged], found, average="macro")
    print(json.dumps({"ours": ours.figures["macro_f1"], "scikit-learn": expected}))  # noqa: T201
    assert ours.figures["macro_f1"] >= 0.95 * expected
    assert ours.figures["majority_accuracy"] < 0.25


def test_many_rows_take_what_was_measured(tmp_path: Path) -> None:
    """A training on 100,000 texts of 300 words takes no more memory than it said, and no more than a GiB."""
    rows = write_rows(tmp_path / "rows.jsonl", make_rows(MANY, words=300))
    done = subprocess.run(
        [sys.executable, "-c", LONG, str(rows)],
        cwd=Path(__file__).parents[1] / "reference",
        stdout=subprocess.PIPE,
        check=True,
        text=True,
        timeout=600,
    )
    need, grown, seconds, macro_f1 = json.loads(done.stdout)
    print(f"{need >> 20} MiB measured, {grown >> 20} MiB taken, {seconds:.0f} s, macro F1 {macro_f1:.3f}")  # noqa: T201
    assert grown <= need <= 1 << 30
    assert macro_f1 > 0.9
