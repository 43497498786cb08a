"""What explanations have a model do: work that its worker opens, and inputs with parts of their texts taken out."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import groupby
from secrets import token_hex
from typing import TYPE_CHECKING, Final, TypeAlias

from inferd.core.demand import Demand
from inferd.core.explained_spans import without
from inferd.core.ids import TaskId
from inferd.core.task import EXPLANATION_LABEL, TaskSpec
from inferd.errors import UnsupportedInputError
from inferd.sampling import greedy, score_sampling
from inferd_api.worker.v1 import task_pb2 as wp

if TYPE_CHECKING:
    from array import array
    from collections.abc import Iterator, Sequence

    from inferd.core.explained_spans import Span
    from inferd.core.ids import LeaseId, ModelName, Tenant
    from inferd.core.priority import Priority

Input: TypeAlias = wp.Input
Answer: TypeAlias = wp.Answer

ID_BYTES: Final = 4  # of a token's id
TASK_ID_BYTES: Final = 16
STRING: Final = 8  # of `inferd.v1.ElementType`


@dataclass(frozen=True, slots=True)
class Text:
    """A text of an input: of which message, which of its parts, who says it; 0, 0 and "" of a prompt."""

    message: int
    part: int
    role: str
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Asker:
    """For whom tasks are made, and how they run.

    Attributes:
        name: Of the explanation, which its tasks have as a label, and share a cache of their own by.
        adapter: Name of the adapter; "" for none.
    """

    name: str
    tenant: Tenant
    model: ModelName
    adapter: str
    priority: Priority
    lease_id: LeaseId
    deadline: float | None


def texts_of(given: wp.Input) -> list[Text]:
    """The texts of an input, in their order.

    Raises:
        UnsupportedInputError: There are pictures in it.
    """
    if given.WhichOneof("kind") == "prompt":
        return [Text(0, 0, "", given.prompt)]
    if given.chat.pictures:
        raise UnsupportedInputError(
            "conversations with images are not explained: their tokens are more than numbers; leave the images out",
            field="spec.chat",
        )
    found = []
    for number, message in enumerate(given.chat.messages):
        texts = message.parts or [message.content]
        found += [Text(number, part, message.role, text) for part, text in enumerate(texts)]
    return found


def reduced(given: wp.Input, texts: Sequence[Text], spans: Sequence[Span]) -> wp.Input:
    """An input without some spans, which are in their order; its other texts and all around them stay."""
    left = wp.Input()
    left.CopyFrom(given)
    for number, group in groupby(spans, key=lambda span: span.text):
        text = texts[number]
        what = without(text.text, list(group))
        if given.WhichOneof("kind") == "prompt":
            left.prompt = what
        elif (message := left.chat.messages[text.message]).parts:
            message.parts[text.part] = what
        else:
            message.content = what
    return left


def bare_text(text: str) -> wp.Input:
    """A text that is to become tokens as it stands, without those that a model wants around one."""
    return wp.Input(prompt=text, bare=True)


def whole_text(text: str) -> wp.Input:
    """A text that is to become tokens with those that a model wants around one."""
    return wp.Input(prompt=text)


def pieces_of(token_ids: Sequence[int]) -> wp.Input:
    """Tokens of which each is to be told by itself."""
    return wp.Input(tokens=wp.Tokens(ids=token_ids, with_pieces=True))


def rooms(token_ids: Sequence[int], most: int) -> Iterator[Sequence[int]]:
    """Tokens in portions of at most so many."""
    for at in range(0, len(token_ids), most):
        yield token_ids[at : at + most]


def answer_task(asker: Asker, given: wp.Input, *, prompt_tokens: int, most_tokens: int) -> TaskSpec:
    """The model's own answer to an input, with the likeliest token always."""
    work = wp.Work(prefix_cache=True)
    work.input.CopyFrom(given)
    _sample(work, greedy(most_tokens))
    return _task(asker, work, prompt_tokens=prompt_tokens, output_tokens=most_tokens)


def score_task(asker: Asker, token_ids: array[int], *, told: int, alternatives: int | None) -> TaskSpec:
    """How likely the last tokens of a sequence are.

    Args:
        asker: For whom.
        token_ids: All of it.
        told: How many of its last tokens are told of.
        alternatives: How many others are told in the place of each, and the entropy there; None for neither.
    """
    work = wp.Work(prefix_cache=True, prefix_scope=asker.name)
    work.input.tokens.ids.extend(token_ids)
    _sample(work, score_sampling(told, alternatives=alternatives))
    return _task(asker, work, prompt_tokens=len(token_ids), output_tokens=1)


def methods_of() -> wp.Input:
    """What is asked to learn by what a model tells what tokens are worth."""
    return wp.Input(tokens=wp.Tokens(with_attributions=True))


def attribute_task(
    asker: Asker,
    token_ids: array[int],
    *,
    method: int,
    told: int,
    places: Sequence[int] = (),
    baseline_id: int = 0,
    at: float = 1.0,
) -> TaskSpec:
    """What the tokens of a sequence are worth for its last ones; see `inferd.plugin.AttributionPass`."""
    asked = wp.Attribute(method=method, told=told, places=places, baseline_id=baseline_id, at=at)
    work = wp.Work(attribute=asked)
    work.input.tokens.ids.extend(token_ids)
    return _task(asker, work, prompt_tokens=len(token_ids), output_tokens=1)


def label_task(asker: Asker, text: str, *, input_name: str) -> TaskSpec:
    """What a classifier makes of a text, by the input of that name."""
    work = wp.Work()
    tensor = work.infer.inputs.add(name=input_name, element_type=STRING, shape=[1])
    tensor.strings.values.append(text)
    return _task(asker, work, prompt_tokens=0, output_tokens=1)


def _sample(work: wp.Work, values: object) -> None:
    for name, value in dict(values).items():  # type: ignore[call-overload] # a mapping
        setattr(work.generate.sampling, name, value)


def _task(asker: Asker, work: wp.Work, *, prompt_tokens: int, output_tokens: int) -> TaskSpec:
    if asker.adapter:
        work.adapter.name = asker.adapter
    return TaskSpec(
        task_id=TaskId(token_hex(TASK_ID_BYTES)),
        tenant=asker.tenant,
        model=asker.model,
        demand=Demand(
            prompt_tokens=prompt_tokens,
            most_output=output_tokens,
            memory_bytes=work.ByteSize() + ID_BYTES * prompt_tokens,
            affinity=asker.name.encode(),
        ),
        work=work,
        priority=asker.priority,
        lease_id=asker.lease_id,
        deadline=asker.deadline,
        labels={EXPLANATION_LABEL: asker.name},
        operation="explain",
    )
