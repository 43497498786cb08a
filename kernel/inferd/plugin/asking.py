"""Asking models from within a function: the kernel has it done by ordinary tasks of whoever made the call."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

Asker: TypeAlias = "Callable[[list[dict[str, Any]]], list[dict[str, Any]]]"
"""Has several things asked at once; gives what came of each, in their order."""

GRAMMARS: Final = ("regex", "lark")


class AskError(Exception):
    """A model gave nothing. What a function does not catch its client is told, with the same reason.

    Attributes:
        reason: As errors of tasks name it, as "MODEL_NOT_FOUND" or "PROMPT_TOO_LONG".
        message: For people.
        metadata: Facts, by name.
    """

    def __init__(self, reason: str, message: str, metadata: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        self.reason, self.message, self.metadata = reason, message, dict(metadata or {})


@dataclass(frozen=True, slots=True, kw_only=True)
class Ask:
    """What is asked of a model.

    Attributes:
        model: Its name.
        prompt: A text that it goes on with, or whose vector it makes; None where there are `messages`.
        messages: A conversation in its place, each with "role" and "content".
        do: "write": it goes on. "score": it tells how likely each of `endings` is behind what it is given, and writes
            nothing. "embed": it makes a vector. "label": a classifier that reads texts tells labels. "count": how many
            tokens each of `texts` has, and how many the model can have.
        schema: JSON schema: it can write nothing else than JSON of that, which is `Answer.value`.
        choice: It can write one of these texts, and nothing else.
        regex: It can write what matches this, and nothing else.
        lark: Likewise by a grammar of llguidance.
        max_tokens: Most that it writes.
        temperature: 0 for the likeliest token each time, whatever the model's defaults are.
        stop: Texts that end what it writes.
        sampling: Other fields of `inferd.v1.SamplingParams`, by name.
        endings: What is scored; of a prompt as it stands behind it, of a conversation what the assistant says.
        texts: What is counted.
        pooling: How a vector is made: "mean", "cls", "last", or "rank" for the score of a pair; "" as the model says.
        query: The first text of a pair, of which `prompt` is the second.
    """

    model: str
    prompt: str | None = None
    messages: Sequence[Mapping[str, str]] = ()
    do: Literal["write", "score", "embed", "label", "count"] = "write"
    schema: Mapping[str, Any] | None = None
    choice: Sequence[str] = ()
    regex: str = ""
    lark: str = ""
    max_tokens: int | None = None
    temperature: float = 0.0
    stop: Sequence[str] = ()
    sampling: Mapping[str, Any] = field(default_factory=dict)
    endings: Sequence[str] = ()
    texts: Sequence[str] = ()
    pooling: Literal["", "mean", "cls", "last", "rank"] = ""
    query: str = ""

    def written(self) -> dict[str, Any]:
        """It, as the kernel reads it: a task as ProtoJSON has it, and what is no part of a task."""
        task: dict[str, Any] = {"model": self.model}
        if self.messages:
            task["chat"] = {"messages": [dict(each) for each in self.messages]}
        if self.prompt is not None:
            task["prompt"] = self.prompt
        if self.do == "write":
            task["sampling"] = self._sampling()
        if self.do == "embed":
            task["embedding"] = {"query": self.query}
            if self.pooling:
                task["embedding"]["pooling"] = f"POOLING_{self.pooling.upper()}"
        return {"do": self.do, "task": task, "endings": list(self.endings), "texts": list(self.texts)}

    def _sampling(self) -> dict[str, Any]:
        given = {"temperature": self.temperature, **self.sampling}
        if self.max_tokens is not None:
            given["max_tokens"] = self.max_tokens
        if self.stop:
            given["stop"] = list(self.stop)
        if self.schema is not None:
            given["grammar"] = {"json_schema": json.dumps(self.schema)}
        elif self.choice:
            given["grammar"] = {"choice": {"texts": list(self.choice)}}
        else:
            given.update([("grammar", {name: rule}) for name in GRAMMARS if (rule := getattr(self, name))])
        return given


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What a model gave.

    Attributes:
        text: What it wrote.
        value: The JSON value that it wrote, of an `Ask` with a schema.
        finish: Why it ended: "end", "stop" or "length".
        logprobs: Of each ending, the natural logarithm of its probability.
        embedding: The vector; of a pair its score alone.
        labels: Of a classifier, with their scores; None for a label without one.
        counts: Tokens of each text.
        context_tokens: Of one task of the model, prompt and output; where it was asked to count.
        parameters: Of the model; 0 where that is not known. Likewise.
        prompt_tokens, output_tokens: That it took.
    """

    text: str = ""
    value: Any = None
    finish: str = ""
    logprobs: tuple[float, ...] = ()
    embedding: tuple[float, ...] = ()
    labels: Mapping[str, float | None] = field(default_factory=dict)
    counts: tuple[int, ...] = ()
    context_tokens: int = 0
    parameters: int = 0
    prompt_tokens: int = 0
    output_tokens: int = 0


def ask(asked: Ask) -> Answer:
    """Ask a model, and wait for what it gives.

    Raises:
        AskError: It gave nothing.
    """
    return ask_all([asked])[0]


def ask_all(asked: Sequence[Ask]) -> list[Answer]:
    """Ask several things at once, and wait for all; the answers have the order of the questions.

    Raises:
        AskError: One of them was not answered; the first of these.
    """
    if not asked:
        return []
    answers = [
        _read(each, given) for each, given in zip(asked, _asker([each.written() for each in asked]), strict=True)
    ]
    return [_good(each) for each in answers]


def told(asked: Mapping[str, Any]) -> Mapping[str, Any]:
    """What the kernel says of a question that no model answers.

    Raises:
        AskError: Why it says nothing.
    """
    (given,) = _asker([dict(asked)])
    if (failed := given.get("error")) is not None:
        raise AskError(str(failed["reason"]), str(failed["message"]), failed["metadata"])
    return given


def progress(fraction: float) -> None:
    """Tell who watches the call how far it is, from 0 to 1."""
    _teller(min(1.0, max(0.0, float(fraction))))


def _read(asked: Ask, given: Mapping[str, Any]) -> Answer | AskError:
    if (failed := given.get("error")) is not None:
        return AskError(str(failed["reason"]), str(failed["message"]), failed["metadata"])
    said: dict[str, Any] = {name: tuple(v) if isinstance(v, list) else v for name, v in given.items()}
    if asked.do == "write" and asked.schema is not None:
        try:
            said["value"] = json.loads(said["text"])
        except ValueError:
            early = said.get("finish") == "length"
            fix = "it ended early: raise max_tokens, or bound the lengths in the schema" if early else "try again"
            return AskError("OUTPUT_INVALID", f"what model {asked.model!r} wrote is no whole JSON value; {fix}")
    return Answer(**said)


def _good(answer: Answer | AskError) -> Answer:
    if isinstance(answer, AskError):
        raise answer
    return answer


def _no_asker(_: list[dict[str, Any]]) -> list[dict[str, Any]]:
    raise AskError(
        "UNSUPPORTED_INPUT",
        "a function asks models while it is called by the kernel, and only if it says how often at most:"
        " @function(asks=…)",
    )


def _no_teller(_: float) -> None:
    """Nobody watches."""


_asker: Asker = _no_asker  # of this process, which calls one function
_teller: Callable[[float], None] = _no_teller


def offer_asking(asker: Asker | None, teller: Callable[[float], None] | None = None) -> None:
    """Have `ask` and `ask_all` ask by this, and `progress` tell it; None for nobody."""
    global _asker, _teller
    _asker, _teller = asker or _no_asker, teller or _no_teller
