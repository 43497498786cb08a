"""Asking a model what it makes of a text, by an ordinary task; work that its worker opens."""

from __future__ import annotations

from math import isfinite
from secrets import token_hex
from struct import unpack
from typing import TYPE_CHECKING, Any, Final

from google.protobuf import descriptor_pool, message_factory

from inferd.core.demand import Demand
from inferd.core.ids import ModelName, TaskId, Tenant
from inferd.core.priority import Priority
from inferd.core.task import TaskSpec
from inferd.sampling import choose_text
from inferd_api.worker.v1 import task_pb2 as wp

if TYPE_CHECKING:
    from collections.abc import Mapping

    from inferd.core.task_events import TensorOutput
    from inferd.moderation.rules import Classifier

TENANT: Final = Tenant("inferd:moderation")
"""Whose tasks those of classifiers are: no client's tenant has a colon, and no rule is about it."""

NONE: Final = "none"
"""What a model that writes text answers where it finds nothing."""

SCORE: Final = "_score"
_STRING: Final = 8  # of `inferd.v1.ElementType`, as the next one
_FLOAT: Final = 1
_TASK_ID_BYTES: Final = 16
_CHARS_PER_TOKEN: Final = 4
_MOST_ANSWER_TOKENS: Final = 64


def classifying_task(asked: Classifier, text: str, *, input_name: str, deadline: float) -> TaskSpec:
    """The task by which a classifier is asked.

    Args:
        asked: Who.
        text: About what.
        input_name: The input of a model with a recipe that takes texts; "" for a model that writes text.
        deadline: On the kernel's clock.
    """
    work = wp.Work(prefix_cache=True)
    if input_name:
        tensor = work.infer.inputs.add(name=input_name, element_type=_STRING, shape=[1])
        tensor.strings.values.append(text)
    else:
        work.input.chat.messages.add(role="user", content=asked.prompt.replace("{text}", text))
        choose_text(work.generate.sampling, list(dict.fromkeys((*asked.labels, NONE))), most_tokens=_MOST_ANSWER_TOKENS)
    return TaskSpec(
        task_id=TaskId(token_hex(_TASK_ID_BYTES)),
        tenant=TENANT,
        model=ModelName(asked.model),
        demand=Demand(
            prompt_tokens=0 if input_name else (len(asked.prompt) + len(text)) // _CHARS_PER_TOKEN,
            most_output=1 if input_name else _MOST_ANSWER_TOKENS,
            memory_bytes=2 * work.ByteSize(),
        ),
        work=work,
        priority=Priority.HIGH,
        deadline=deadline,
    )


def _message(name: str) -> Any:
    """A message that what is sent to workers has in it."""
    return message_factory.GetMessageClass(descriptor_pool.Default().FindMessageTypeByName(f"inferd.v1.{name}"))()


def text_input(signature: bytes) -> str:
    """The name of the only input of a model with a recipe.

    Raises:
        ValueError: It takes something else than one input of texts.
    """
    read = _message("ModelSignature")
    read.ParseFromString(signature)
    names = [each.name for each in read.inputs if each.element_type == _STRING]
    if len(names) != 1 or len(read.inputs) != 1:
        raise ValueError(f"it takes {len(read.inputs)} inputs, {len(names)} of them texts; a classifier takes one text")
    return str(names[0])


def read_labels(told: TensorOutput) -> dict[str, float | None]:
    """The labels of a text, and their scores, the greatest of equal labels; None for one that has no score.

    Raises:
        ValueError: What was told has no labels, or scores that are no numbers.
    """
    read = _message("InferOutput")
    read.ParseFromString(told.written)
    labels: dict[str, float | None] = {}
    scores = {each.name: each for each in read.outputs if each.element_type == _FLOAT}
    for each in read.outputs:
        if each.element_type != _STRING:
            continue
        values = list(each.strings.values)
        given = scores.get(each.name + SCORE)
        if given is None:
            labels.update(dict.fromkeys(values))
            continue
        numbers = unpack(f"<{len(given.data) // 4}f", given.data)
        if len(numbers) != len(values):
            raise ValueError(f"it gave {len(values)} labels and {len(numbers)} scores")
        for label, number in zip(values, numbers, strict=True):
            if not isfinite(number):
                raise ValueError(f"it gave label {label[:80]!r} the score {number}, which is no number to go by")
            known = labels.get(label, number)
            labels[label] = None if known is None else max(known, number)
    if not labels:
        raise ValueError("it gave no labels; its recipe must have an output as labels")
    return labels


def finds(asked: Classifier, labels: Mapping[str, float | None]) -> bool:
    """Whether one of the labels asked for was told, with a score that counts; one without a score always does.

    Raises:
        ValueError: One asked for has no score though others have: nobody knows what it would be.
    """
    told = {label: labels[label] for label in asked.labels if label in labels}
    if any(score is None or score >= asked.least_score for score in told.values()):
        return True
    unknown = [label for label in asked.labels if label not in labels]
    if unknown and any(score is not None for score in labels.values()):
        raise ValueError(
            f"it gave {len(labels)} labels and none of them is {unknown[0][:80]!r}; name labels that it has, and let "
            "its recipe tell all of them: top is how many"
        )
    return False
