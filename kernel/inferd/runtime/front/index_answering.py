"""Questions that are answered from the documents of an index."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from inferd.core.citations import AnswerReader, Citation, cite
from inferd.core.task import FinishReason
from inferd.core.task_events import Finished, Output
from inferd.errors import PromptTooLongError, UnsupportedInputError
from inferd.runtime.front.index_searching import search
from inferd.runtime.front.room import patiently
from inferd.runtime.index_work import Asker, answering_task, conversation
from inferd.runtime.instances import answering

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from inferd.core.document_index import Found, Query
    from inferd.core.ids import ModelName
    from inferd.core.priority import Priority
    from inferd.core.task_events import TaskEvent
    from inferd.runtime.driver import Driver
    from inferd.runtime.front.caller import Caller
    from inferd.runtime.front.indexes import Indexes
    from inferd.runtime.index_work import Conversation
    from inferd.runtime.shelf import Shelf

SYSTEM: Final = (
    "You answer a question from numbered passages and from nothing else. Answer shortly, in the language of the"
    ' question, as JSON: "answered" says whether the passages have the answer, "answer" is it, and "quotes" are the'
    " sentences of the passages that it rests on, letter by letter."
)
MOST_QUOTES: Final = 4
MOST_SCHEMA_BYTES: Final = 32 << 10  # of sentences that the grammar names; of more, any text is a quotation
MOST_QUOTE: Final = 1000  # characters of such a one
MOST_ANSWER: Final = 4000  # characters
SHARE: Final = 2  # a model writes at most one part in so many of its context


@dataclass(frozen=True, slots=True)
class Passages:
    """What was found, and is given to the model."""

    found: Sequence[Found]
    left_out: int = 0


@dataclass(frozen=True, slots=True)
class Delta:
    """What the answer goes on with."""

    text: str = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """How it ended; see `inferd.v1.AnswerEnded`."""

    citations: Sequence[Citation] = ()
    dropped: int = 0
    no_answer: bool = False
    prompt_tokens: int = 0
    output_tokens: int = 0
    reason: FinishReason = FinishReason.UNSPECIFIED


Told: TypeAlias = Passages | Delta | Ended


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What is asked.

    Attributes:
        query: The question, and where its answer is looked for.
        model: Which answers.
        most_tokens: That it writes.
        priority: Class of the tasks.
    """

    query: Query
    model: ModelName
    most_tokens: int
    priority: Priority


class Answers:
    """Answers questions.

    Args:
        driver: Of the kernel.
        shelf: Where models are that were pulled.
        indexes: Where answers are looked for.
    """

    def __init__(self, driver: Driver, shelf: Shelf, indexes: Indexes) -> None:
        self._driver = driver
        self._shelf = shelf
        self._indexes = indexes

    async def answer(self, wanted: Wanted, caller: Caller, tell: Callable[[Told], Awaitable[None]]) -> None:
        """Answer a question, and `tell` of it: what was found, the answer, and how it ended.

        Raises:
            InferdError: There is no such index or model, or a task failed.
        """
        with self._indexes.place(caller):
            async with self._indexes.cut_short():
                await self._shelf.look_for(wanted.model)
                model = self._driver.views.model(wanted.model).spec.name
                found, _ = await search(self._indexes, caller, wanted.query, wanted.priority)
                if not found:
                    await tell(Passages(()))
                    await tell(Ended(no_answer=True))
                    return
                asker = Asker(caller, wanted.query.index, wanted.priority)
                await self._answer(asker, model, wanted, found, tell)

    async def _answer(
        self,
        asker: Asker,
        model: ModelName,
        wanted: Wanted,
        found: Sequence[Found],
        tell: Callable[[Told], Awaitable[None]],
    ) -> None:
        passages, said, prompt_tokens = await self._fit(asker, model, wanted, found)
        await tell(Passages(passages, len(found) - len(passages)))
        reader, ends = AnswerReader(), list[Finished]()

        async def hear(event: TaskEvent) -> None:
            if isinstance(event, Output):
                if text := reader.feed(event.text):
                    await tell(Delta(text))
            elif isinstance(event, Finished):
                ends.append(event)

        schema = json.dumps(schema_of(passages), ensure_ascii=False)
        await self._indexes.tasks.run(
            lambda: answering_task(
                asker, model, said, schema, prompt_tokens=prompt_tokens, most_tokens=wanted.most_tokens
            ),
            hear,
        )
        usage = ends[0].outcome.usage if ends else None
        await tell(
            _ended(
                reader.value(),
                passages,
                prompt_tokens=usage.prompt_tokens if usage else prompt_tokens,
                output_tokens=usage.output_tokens if usage else 0,
                reason=ends[0].outcome.reason if ends else FinishReason.UNSPECIFIED,
            )
        )

    async def _fit(
        self, asker: Asker, model: ModelName, wanted: Wanted, found: Sequence[Found]
    ) -> tuple[Sequence[Found], Conversation, int]:
        """As many of the best passages as the model's context has room for; the prompt, and its tokens."""
        passages = list(found)
        while True:
            said = prompt_of(wanted.query.text, passages)
            tokens = await self._tokens(asker, model, said)
            instance = answering(self._driver.views.model(model), asker.caller.lease_id)
            context = 0 if instance is None or instance.facts is None else instance.facts.context_tokens
            if not context or tokens + wanted.most_tokens <= context:
                return passages, said, tokens
            if len(passages) == 1:
                raise PromptTooLongError(
                    f"the question and its best passage have {tokens} tokens, the answer up to {wanted.most_tokens},"
                    f" and the context of model {model!r} has {context}; ask for fewer, or make the index"
                    " with smaller chunks",
                    metadata={"prompt_tokens": str(tokens), "limit_tokens": str(context)},
                )
            passages.pop()

    async def _tokens(self, asker: Asker, model: ModelName, said: Conversation) -> int:
        """How many tokens a conversation has."""
        ask = self._driver.questions.query
        given = conversation(said)
        try:
            answer = await patiently(
                lambda: ask(model, given, tenant=asker.caller.tenant, lease_id=asker.caller.lease_id)
            )
        except UnsupportedInputError as error:
            error.field = "model"
            raise
        return len(answer.token_ids)


def prompt_of(question: str, passages: Sequence[Found]) -> Conversation:
    """What a model is told."""
    told = [
        f"[{number}] {passage.title}\n{passage.text}" if passage.title else f"[{number}] {passage.text}"
        for number, passage in enumerate(passages, 1)
    ]
    asked = "\n\n".join([*told, f"Question: {question}"])
    return (("system", SYSTEM), ("user", asked))


def schema_of(passages: Sequence[Found]) -> dict[str, Any]:
    """What an answer looks like: its quotations are sentences of the passages, and no other text."""
    sentences = dict.fromkeys(
        passage.text[start:end] for passage in passages for start, end in passage.sentences if start < end
    )
    quote: dict[str, Any] = {"type": "string", "enum": [*sentences]}
    if not sentences or sum(len(each.encode()) for each in sentences) > MOST_SCHEMA_BYTES:
        quote = {"type": "string", "minLength": 1, "maxLength": MOST_QUOTE}
    answer = {"type": "string", "maxLength": MOST_ANSWER}
    return {
        "anyOf": [
            {
                "type": "object",
                "properties": {
                    "answered": {"const": True},
                    "answer": answer,
                    "quotes": {"type": "array", "items": quote, "minItems": 1, "maxItems": MOST_QUOTES},
                },
                "required": ["answered", "answer", "quotes"],
                "additionalProperties": False,
            },
            {
                "type": "object",
                "properties": {"answered": {"const": False}, "answer": answer},
                "required": ["answered", "answer"],
                "additionalProperties": False,
            },
        ]
    }


def _ended(
    value: Any, passages: Sequence[Found], *, prompt_tokens: int, output_tokens: int, reason: FinishReason
) -> Ended:
    quotes = value.get("quotes") if isinstance(value.get("quotes"), list) else []
    citations = [cite(str(quote), passages) for quote in dict.fromkeys(map(str, quotes))]
    return Ended(
        citations=[each for each in citations if each is not None],
        dropped=sum(each is None for each in citations),
        no_answer=value.get("answered") is False,
        prompt_tokens=prompt_tokens,
        output_tokens=output_tokens,
        reason=reason,
    )
