"""What evaluations have models and functions do: work that workers open."""

from __future__ import annotations

import json
from dataclasses import dataclass
from secrets import token_hex
from typing import TYPE_CHECKING, Any, Final

from google.protobuf import descriptor_pool, message_factory
from google.protobuf.message import DecodeError

from inferd.core.demand import Demand
from inferd.core.function import FUNCTION
from inferd.core.ids import ModelName, TaskId, Tenant
from inferd.core.priority import Priority
from inferd.core.task import EVALUATION_LABEL, TaskSpec
from inferd.sampling import choose_text, score_sampling, trial_sampling
from inferd_api.worker.v1 import task_pb2 as wp

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from inferd.core.task_events import TensorOutput

CHARACTERS_PER_TOKEN: Final = 4
ID_BYTES: Final = 4  # of a token's id
MESSAGE_BYTES: Final = 512  # of memory, that work takes besides what it is given
TASK_ID_BYTES: Final = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Given:
    """What a model is given: a text, or a conversation, pairs of a role and what is said."""

    prompt: str = ""
    messages: tuple[tuple[str, str], ...] = ()

    @property
    def characters(self) -> int:
        """How many it has."""
        return len(self.prompt) + sum(len(role) + len(said) for role, said in self.messages)

    def write(self, into: wp.Input, ending: str | None = None) -> None:
        """Write it into an input; behind it, where there is an `ending`, that as a part of the text or the answer."""
        if not self.messages:
            into.prompt = self.prompt + (ending or "")
            return
        said = self.messages if ending is None else (*self.messages, ("assistant", ending))
        for role, content in said:
            into.chat.messages.add(role=role, content=content)
        into.chat.continue_final_message = ending is not None


@dataclass(frozen=True, slots=True, kw_only=True)
class Whose:
    """Whose task it is.

    Attributes:
        tenant: Whose.
        evaluation_id: Of which evaluation; "" for none.
        priority: Its class.
    """

    tenant: Tenant
    evaluation_id: str = ""
    priority: Priority = Priority.LOW


def question(given: Given, ending: str | None = None) -> wp.Input:
    """What is to become tokens."""
    written = wp.Input()
    given.write(written, ending)
    return written


def reading_task(whose: Whose, model: ModelName, token_ids: Sequence[int], *, last: int) -> TaskSpec:
    """Read tokens, and tell how likely the last so many are, each behind those before it."""
    work = wp.Work(prefix_cache=True)
    work.input.tokens.ids.extend(token_ids)
    for name, value in score_sampling(last, alternatives=None).items():
        setattr(work.generate.sampling, name, value)
    return _task(whose, model, work, prompt_tokens=len(token_ids), most_output=1, more_bytes=ID_BYTES * len(token_ids))


def writing_task(whose: Whose, model: ModelName, given: Given, *, most_tokens: int, ends: Sequence[str]) -> TaskSpec:
    """Write the likeliest text, so many tokens at most, until one of some strings."""
    work = wp.Work(prefix_cache=True)
    given.write(work.input)
    written = work.generate.sampling
    written.MergeFrom(type(written)(**trial_sampling(most_tokens, ends=ends)))
    return _task(whose, model, work, prompt_tokens=given.characters // CHARACTERS_PER_TOKEN, most_output=most_tokens)


def choosing_task(whose: Whose, model: ModelName, given: Given, texts: Sequence[str], *, most_tokens: int) -> TaskSpec:
    """Write one of some texts, and nothing else."""
    work = wp.Work(prefix_cache=True)
    given.write(work.input)
    choose_text(work.generate.sampling, texts, most_tokens=most_tokens)
    return _task(whose, model, work, prompt_tokens=given.characters // CHARACTERS_PER_TOKEN, most_output=most_tokens)


def calling_task(whose: Whose, function: str, given: Mapping[str, Any]) -> TaskSpec:
    """Call a function."""
    written = json.dumps(given, ensure_ascii=False, separators=(",", ":"))
    work = wp.Work(call=wp.Call(name=function, input=written))
    return _task(
        whose, ModelName(FUNCTION + function), work, most_output=1, more_bytes=len(written.encode()), operation="call"
    )


def _task(
    whose: Whose,
    model: ModelName,
    work: wp.Work,
    *,
    prompt_tokens: int = 0,
    most_output: int,
    more_bytes: int = 0,
    operation: str = "text_completion",
) -> TaskSpec:
    return TaskSpec(
        task_id=TaskId(token_hex(TASK_ID_BYTES)),
        tenant=whose.tenant,
        model=model,
        demand=Demand(
            prompt_tokens=prompt_tokens,
            most_output=most_output,
            memory_bytes=MESSAGE_BYTES + work.ByteSize() + more_bytes,
        ),
        work=work,
        priority=whose.priority,
        labels={EVALUATION_LABEL: whose.evaluation_id},
        operation=operation,
    )


def read_piece(output: TensorOutput) -> Any:
    """A piece of what a function gave.

    Raises:
        ValueError: It is no JSON.
    """
    kind = descriptor_pool.Default().FindMessageTypeByName("inferd.v1.CallOutput")
    message: Any = message_factory.GetMessageClass(kind)()
    try:
        message.ParseFromString(output.written)
    except DecodeError as error:
        raise ValueError(str(error)) from None
    return json.loads(message.json)
