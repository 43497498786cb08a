"""Summaries: the sentences that say most, or what a model writes, part by part where a text is long."""

from __future__ import annotations

import re
from collections import Counter
from typing import Annotated, Literal

from pydantic import BaseModel, Field

from inferd.plugin import Ask, ask, ask_all, function, progress
from inferd_language.needs import Needs, needs_for
from inferd_language.words import Lexicon, words_of

SENTENCE = re.compile(r"(?<=[.!?])[\"')\]]*\s+(?=[\"'(\[]*[A-Z0-9])|\n{2,}")
MOST_ROUNDS = 6
ROOM = 64  # tokens of what a model is told beside a part
INSTRUCTION = "Summarize the following text in a few sentences. Say nothing that it does not say."
WRITES = Needs(
    parameters=1_000_000_000,
    why="smaller ones write what a text does not say; the sentences that say most are picked in its place",
)


class Summary(BaseModel):
    """What a text says, in short.

    Attributes:
        summary: It.
        method: How it was made: "picked" sentences of the text, or "written" by the model.
        parts: Into how many parts the text was cut for the model; 0 where it was not asked.
        capable: Whether the model is large enough for what was asked.
        needs: What is needed where it is not; "" where it is.
    """

    summary: str
    method: Literal["picked", "written"]
    parts: int = 0
    capable: bool = True
    needs: str = ""


@function(asks=2000, timeout_s=600)
def summarise(
    *,
    text: str,
    model: str = "",
    most_tokens: Annotated[int, Field(ge=16, le=4096)] = 120,
    instruction: Annotated[str, Field(max_length=2000)] = INSTRUCTION,
    force: bool = False,
) -> Summary:
    """Say in short what a text says, however long that is.

    Without a model, and where the model is too small for it, the sentences are picked that say most. A model summarises
    parts that fit into its context, then what came of these, until one text is left.

    Args:
        text: What is summarised.
        model: A language model; "" for none.
        most_tokens: Most tokens of the summary; of picked sentences about as many, at four characters each.
        instruction: What the model is told.
        force: Have the model write whatever its size is.
    """
    if not text.strip():
        raise ValueError("text has nothing but white space; there is nothing to say of that")
    if not model:
        return Summary(summary=pick(text, most_tokens * 4), method="picked")
    facts = ask(Ask(model=model, do="count", texts=["x"]))
    needs = needs_for(WRITES, model, facts.parameters)
    if needs and not force:
        return Summary(summary=pick(text, most_tokens * 4), method="picked", capable=False, needs=needs)
    room = (
        facts.context_tokens - 2 * most_tokens - ROOM - ask(Ask(model=model, do="count", texts=[instruction])).counts[0]
    )
    if room < most_tokens:
        raise ValueError(
            f"model {model!r} has a context of {facts.context_tokens} tokens; ask for fewer than {most_tokens}"
        )
    first, now = 0, text
    for step in range(MOST_ROUNDS):
        parts = cut(model, now, room)
        first = first or len(parts)
        written = []
        for begin in range(0, len(parts), 8):
            written += [
                each.text.strip()
                for each in ask_all([_asked(model, p, instruction, most_tokens) for p in parts[begin : begin + 8]])
            ]
            progress((step + (begin + 8) / max(len(parts), 8)) / MOST_ROUNDS)
        now = "\n\n".join(written)
        if len(parts) == 1:
            break
    return Summary(summary=now, method="written", parts=first, capable=not needs, needs=needs)


def _asked(model: str, part: str, instruction: str, most_tokens: int) -> Ask:
    return Ask(model=model, messages=[{"role": "user", "content": f"{instruction}\n\n{part}"}], max_tokens=most_tokens)


def sentences_of(text: str) -> list[str]:
    """The sentences of a text."""
    return [each.strip() for each in SENTENCE.split(text) if each and each.strip()]


def cut(model: str, text: str, room: int) -> list[str]:
    """Parts of a text of at most so many tokens each, between sentences where that can be."""
    sentences = [each[n : n + 2 * room] for each in sentences_of(text) for n in range(0, len(each), 2 * room)]
    counts: list[int] = []
    for n in range(0, len(sentences), 60):
        counts += ask(Ask(model=model, do="count", texts=sentences[n : n + 60])).counts
    parts, now, used = list[str](), list[str](), 0
    for sentence, count in zip(sentences, counts, strict=True):
        if now and used + count + 1 > room:
            parts.append(" ".join(now))
            now, used = [], 0
        now.append(sentence)
        used += count + 1
    return [*parts, " ".join(now)]


def pick(text: str, most_characters: int) -> str:
    """The sentences that say most of a text, in its order: about what all of it is, early, not twice the same."""
    sentences = sentences_of(text)
    lexicon = Lexicon(sentences)
    whole = Counter(words_of(text))
    each_words = [Counter(words_of(each)) for each in sentences]
    values = [
        sum(lexicon.weight(word) * whole[word] for word in words) / (len(words) + 4) * (1 + 1 / (n + 1))
        for n, words in enumerate(each_words)
    ]
    chosen: list[int] = []
    size = 0
    for n in sorted(range(len(sentences)), key=lambda n: -values[n]):
        if chosen and size + len(sentences[n]) > most_characters:
            continue
        said = {word for other in chosen for word in each_words[other]}
        if chosen and len(said & set(each_words[n])) > 0.7 * len(each_words[n]):
            continue
        chosen.append(n)
        size += len(sentences[n]) + 1
    return " ".join(sentences[n] for n in sorted(chosen))[: max(most_characters, 1)]
