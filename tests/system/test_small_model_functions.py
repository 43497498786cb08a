"""Functions that ask models, with SmolLM2 of 135M parameters and real texts: each is better than what is trivial."""

import json
import logging
import random
import re
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from package_texts import fetched

from inferd.testing.kernel import KernelProcess, kernel_process
from inferd_client import Client
from inferd_client.errors import InvalidFieldError

CASES = 60
log = logging.getLogger(__name__)  # figures: pytest --log-cli-level=info
LABELS = ["business", "entertainment", "politics", "sports", "tech"]
WORD = re.compile(r"\w{4,}")


@pytest.fixture(scope="module")
def news(news_folder: Path) -> list[tuple[str, str, str]]:
    """News: title, text and class, in an order that says nothing."""
    files = sorted(news_folder.glob("*/*.txt"))
    random.Random(0).shuffle(files)
    read = [(file.read_text(encoding="latin1").partition("\n"), file.parent.name) for file in files[:400]]
    return [(title.strip(), text.strip(), label) for (title, _, text), label in read]


@pytest.fixture(scope="module")
def kernel(tmp_path_factory: pytest.TempPathFactory, smollm2: Path) -> Iterator[KernelProcess]:
    """A kernel with the model."""
    environment = {
        "INFERD_FUNCTIONS__PACKAGES": '["language"]',
        "INFERD_PLUGIN_MODULES": '["inferd_cpu.plugin"]',
    }
    with (
        kernel_process(tmp_path_factory.mktemp("language"), environment=environment) as made,
        Client(made.address) as c,
    ):
        c.create_model("smollm2", str(smollm2))
        yield made


@pytest.fixture
def client(kernel: KernelProcess) -> Iterator[Client]:
    """A client of it."""
    with Client(kernel.address, timeout_s=600) as made:
        yield made


def share(good: Any, cases: Any) -> float:
    """Of how many cases something holds; two at a time."""
    with ThreadPoolExecutor(2) as pool:
        return sum(pool.map(good, cases)) / len(cases)


def test_news_are_classified(client: Client, news: list[tuple[str, str, str]]) -> None:
    """More than half of the news are of the class that the model finds; the commonest class has a quarter."""
    cases = news[:CASES]
    question = {"question": "This news article is about", "labels": LABELS, "model": "smollm2"}

    def right(case: tuple[str, str, str]) -> bool:
        return bool(client.call("classify", {"text": f"{case[0]}\n{case[1][:500]}", **question})["label"] == case[2])

    found = share(right, cases)
    trivial = Counter(label for *_, label in cases).most_common(1)[0][1] / CASES
    log.info("%s", f"classify {found:.2f}, the commonest class {trivial:.2f}")
    assert found > trivial + 0.2
    with pytest.raises(InvalidFieldError, match="labels"):
        client.call("classify", {"text": "x", "labels": ["one"], "model": "smollm2"})


def test_reviews_have_moods(client: Client) -> None:
    """Sentences of reviews of films that people found clearly good or bad."""
    text = fetched("vaderSentiment==0.5", "movieReviewSnippets_GroundTruth.txt").read_text("utf-8", "replace")
    rows = [line.split("\t") for line in text.splitlines()]
    cases = [(row[2], float(row[1])) for row in rows if abs(float(row[1])) >= 1]
    random.Random(0).shuffle(cases)
    cases = cases[: 2 * CASES]
    found = share(
        lambda each: (client.call("sentiment", {"text": each[0], "model": "smollm2"})["score"] > 0) == (each[1] > 0),
        cases,
    )
    good = sum(score > 0 for _, score in cases) / len(cases)
    log.info("%s", f"sentiment {found:.2f}, the commoner {max(good, 1 - good):.2f}")
    assert found > max(good, 1 - good) + 0.08


def test_values_are_extracted(client: Client) -> None:
    """Who has the copyright, and since when, of lines of licences of packages, with three examples."""
    cases = json.loads(Path(__file__).with_name("licence_lines.json").read_text(encoding="utf-8"))
    assert len(cases) >= 50
    examples = [
        {"text": "Copyright (c) 2012 Jane Doe.", "value": {"holder": "Jane Doe", "year": 2012}},
        {
            "text": "Copyright 2019-2021, The Foo Authors. All rights reserved",
            "value": {"holder": "The Foo Authors", "year": 2019},
        },
        {"text": "Copyright (C) 2004 by Bar Inc. <a@bar.com>", "value": {"holder": "Bar Inc.", "year": 2004}},
    ]
    year = {"type": "integer", "minimum": 1900, "maximum": 2100}
    asked = {
        "schema": {"properties": {"holder": {"type": "string"}, "year": year}},
        "model": "smollm2",
        "examples": examples,
    }
    values = [client.call("extract", {"text": each["line"], **asked})["value"] for each in cases]
    years = sum(value["year"] == case["year"] for value, case in zip(values, cases, strict=True)) / len(cases)
    holders = sum(
        value["holder"].strip(" .,") == case["holder"] for value, case in zip(values, cases, strict=True)
    ) / len(cases)
    trivial = Counter(each["year"] for each in cases).most_common(1)[0][1] / len(cases)
    log.info("%s", f"extract: years {years:.2f}, holders {holders:.2f}; the commonest year {trivial:.2f}")
    assert years > 0.8 > trivial
    assert holders > 0.7
    with pytest.raises(InvalidFieldError, match="no schema of an object"):
        client.call("extract", {"text": "x", "schema": {"type": "array"}, "model": "smollm2"})


def test_texts_are_ranked(client: Client, news: list[tuple[str, str, str]]) -> None:
    """Of twenty news that comes first whose title is asked for."""
    draw, right = random.Random(1), 0
    for number, case in enumerate(news[:CASES]):
        texts = [case, *draw.sample([each for n, each in enumerate(news) if n != number], 19)]
        draw.shuffle(texts)
        best = client.call("rank", {"query": case[0], "documents": [text for _, text, _ in texts], "limit": 1})[0]
        right += texts[best["index"]] is case
    log.info("%s", f"rank {right / CASES:.2f}, by chance 0.05")
    assert right / CASES > 0.85


def test_summaries_say_what_titles_say(client: Client, news: list[tuple[str, str, str]]) -> None:
    """Picked sentences have more of the words of the title than others; that the model is too small is told."""
    draw, picked, drawn = random.Random(1), 0.0, 0.0
    for title, text, _ in news[:CASES]:
        wanted = {*WORD.findall(title.lower())} or {"none"}
        summary = client.call("summarise", {"text": text, "most_tokens": 50})["summary"]
        picked += len(wanted & {*WORD.findall(summary.lower())}) / len(wanted)
        sentences = re.split(r"(?<=[.!?])\s+", text)
        some = [draw.choice(sentences) for _ in range(5)]
        drawn += sum(len(wanted & {*WORD.findall(each.lower())}) / len(wanted) for each in some) / 5
    log.info("%s", f"summarise {picked / CASES:.2f}, a sentence that is drawn {drawn / CASES:.2f}")
    assert picked > 2 * drawn
    small = client.call("summarise", {"text": news[0][1], "model": "smollm2"})
    assert (small["method"], small["capable"]) == ("picked", False)
    assert "135 million parameters, and this needs about 1 billion" in small["needs"]


def test_it_says_that_it_cannot_translate(client: Client) -> None:
    """A model of 135M parameters does not translate: the answer says which size is needed."""
    found = client.call("translate", {"text": "Good morning.", "into": "French", "model": "smollm2"})
    assert (found["translation"], found["capable"]) == ("", False)
    assert "3 billion" in found["needs"]


def test_words_are_found_however_they_are_written(client: Client, news: list[tuple[str, str, str]]) -> None:
    """Of sentences of news those are found that have a word, written with signs that look alike, and no others."""
    signs = str.maketrans({"e": "é", "i": "1"})
    right, plain = 0, 0
    for number, (_, text, _) in enumerate(news[:CASES]):
        said = re.sub("minister", "person", text[:300], flags=re.IGNORECASE)
        given = f"{said} {'minister'.translate(signs)}" if number % 2 else said
        found = client.call("moderate", {"text": given, "words": ["minister"]})["allowed"]
        right += found == (number % 2 == 0)
        plain += ("minister" not in given) == (number % 2 == 0)
    log.info("%s", f"moderate {right / CASES:.2f}, a search for the word {plain / CASES:.2f}")
    assert right == CASES > plain


def test_recommendations_find_what_was_hidden(client: Client, news: list[tuple[str, str, str]]) -> None:
    """Of the names that an article has one is hidden; it is found more often than by what most have."""
    draw = random.Random(1)
    names = [Counter(re.findall(r"(?<=[a-z,] )[A-Z][a-z]{3,}", text)) for _, text, _ in news]
    common = Counter(name for each in names for name in each)
    known = {name for name, number in common.items() if 8 <= number <= 120}
    taken, hidden = [], {}
    for number, each in enumerate(names):
        own = sorted(known & {*each})
        if len(own) >= 5 and len(hidden) < CASES:
            hidden[f"u{number}"] = draw.choice(own)
        kept = [name for name in own if name != hidden.get(f"u{number}")]
        taken += [{"user": f"u{number}", "item": name, "weight": each[name]} for name in kept]
    hits = {}
    for by in ("popular", "neighbours", "factors"):
        found = {user: client.call("recommend", {"user": user, "taken": taken, "by": by}) for user in hidden}
        hits[by] = sum(name in [each["item"] for each in found[user]] for user, name in hidden.items()) / len(hidden)
    log.info("%s", f"recommend, found among ten: {hits}")
    assert min(hits["neighbours"], hits["factors"]) > 1.5 * hits["popular"]
