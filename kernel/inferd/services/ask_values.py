"""What calls of functions ask of models, from the JSON that they write."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final

from google.protobuf import json_format

from inferd.core.ids import DEFAULT_TENANT, NO_LEASE
from inferd.errors import InvalidFieldError
from inferd.runtime.front.asking import KEEPING, Asked, Do
from inferd.sampling import trial_sampling
from inferd.services.extents import MOST_CHOICES
from inferd.services.run_requests import new_task_id
from inferd.services.task_values import read_spec
from inferd_api.v1 import sampling_pb2 as sp
from inferd_api.v1 import task_pb2 as tp

if TYPE_CHECKING:
    from inferd.core.task import TaskSpec

OUTPUT_TOKENS: Final = 512  # where a function does not say, as clients have it


class AskWire:
    """Reads what calls ask; see `inferd.runtime.front.asking.Wire`.

    Args:
        prompt_limit_bytes: `limits.prompt_bytes`.
    """

    def __init__(self, prompt_limit_bytes: int) -> None:
        self._prompt_limit_bytes = prompt_limit_bytes

    def read(self, written: bytes) -> Asked:
        """As `Wire.read`."""
        try:
            given = json.loads(written)
            json.dumps(given, ensure_ascii=False).encode()  # half a character is none, for models and for what is kept
            do = Do(given["do"])
            if do in KEEPING:
                return _kept(do, given)
            task = json_format.ParseDict(given["task"], tp.TaskSpec())
            endings, texts = _texts(given, "endings"), _texts(given, "texts")
        except (ValueError, KeyError, TypeError, RecursionError, json_format.ParseError) as error:
            raise InvalidFieldError(f"what the function asks cannot be read: {error}", field="ask") from None
        if not task.model:
            raise InvalidFieldError("what the function asks names no model; give Ask one", field="ask.model")
        kind = task.WhichOneof("input")
        if do is not Do.COUNT and kind not in ("prompt", "chat"):
            raise InvalidFieldError(
                f"a function asks with {kind or 'neither prompt nor messages'}; give Ask one of both",
                field="ask.prompt",
            )
        if task.labels or task.priority:
            raise InvalidFieldError("labels and the class of what a function asks are those of its call", field="ask")
        if do is Do.SCORE and not endings:
            raise InvalidFieldError("nothing is to be scored; give Ask endings", field="ask.endings")
        if len(task.prompt.encode()) > self._prompt_limit_bytes:
            self._make(task)  # says so
        return Asked(do=do, model=task.model, task=task, endings=endings, texts=texts)

    def task(self, asked: Asked) -> TaskSpec:
        """As `Wire.task`."""
        message = tp.TaskSpec()
        message.CopyFrom(asked.task)  # type: ignore[arg-type] # what `read` put there
        if asked.do is Do.WRITE:
            chosen = tp.TaskSpec()
            chosen.sampling.MergeFrom(sp.SamplingParams(**trial_sampling(OUTPUT_TOKENS, ends=())))
            chosen.MergeFrom(
                message
            )  # what it says goes before: it gives the same for the same, whatever a model's are
            message = chosen
        return self._make(message)

    def conversation(self, asked: Asked) -> tuple[str, tuple[tuple[str, str], ...]]:
        """As `Wire.conversation`."""
        task: Any = asked.task
        return task.prompt, tuple((each.role, each.content) for each in task.chat.messages)

    def _make(self, message: tp.TaskSpec) -> TaskSpec:
        return read_spec(
            message,
            task_id=new_task_id(),
            tenant=DEFAULT_TENANT,  # the call's takes its place
            deadline=None,
            request_id="",
            lease_id=NO_LEASE,
            prompt_limit_bytes=self._prompt_limit_bytes,
        )


def _kept(do: Do, given: Any) -> Asked:
    """What is asked of what functions keep."""
    name, kept, after = given.get("name", ""), given.get("kept", ""), given.get("after", 0)
    if not isinstance(name, str) or not isinstance(kept, str) or type(after) is not int:
        raise TypeError("name and kept must be texts, and after a whole number")
    json.loads(kept or "null")
    return Asked(do=do, name=name, kept=kept, after=after)


def _texts(given: Any, name: str) -> tuple[str, ...]:
    texts = given.get(name, [])
    if not isinstance(texts, list) or not all(isinstance(each, str) for each in texts):
        raise TypeError(f"{name} is no list of texts")
    if len(texts) > MOST_CHOICES:
        raise ValueError(f"{name} has {len(texts)} texts; at most {MOST_CHOICES} at once")
    return tuple(texts)
