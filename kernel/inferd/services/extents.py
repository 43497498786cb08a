"""How many and how long the parts of a request may be: looked at in the message as it came, before anything is read.

Every list and every text of every request has a bound, those of fields that come later, too: one without an entry here
has the bound of all others.
"""

from collections.abc import Callable, Iterator
from functools import cached_property
from typing import Any, NamedTuple

from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message
from google.protobuf.struct_pb2 import Struct

from inferd.config import Limits
from inferd.core.host import MOST_BACKENDS, MOST_DEVICES, MOST_LABELS
from inferd.errors import InferdError, InvalidFieldError, LimitExceededError
from inferd.explanation_settings import MOST_SPANS
from inferd.sampling import PARAMETERS
from inferd.services.required import OUTPUT_ONLY, behaviours

MOST_ENTRIES = 16  # of a list
MOST_CHARACTERS = 1024  # of a text, also in a list: names and ids
MOST_PARTS = 1024  # of a message of a conversation
MOST_CHOICES = 1024  # of a grammar
MOST_MODEL_FILES = 1000
MOST_KEPT_ALIVE = 1000  # leases in one message

COUNTS = {
    "inferd.v1.TaskSpec.labels": (16, "labels"),
    "inferd.v1.LeaseSpec.labels": (16, "labels"),
    "inferd.v1.LeaseSpec.claims": (16, "claims"),
    "inferd.v1.Pipeline.steps": (1024, "steps"),
    "inferd.v1.KeepAliveLeasesRequest.lease_ids": (MOST_KEPT_ALIVE, "lease_ids in one message"),
    "inferd.v1.ChatMessage.parts": (MOST_PARTS, "parts"),
    **{f"inferd.v1.SamplingParams.{name}": (each.most, each.nouns) for name, each in PARAMETERS.items() if each.most},
    "inferd.v1.Choice.texts": (MOST_CHOICES, "texts"),
    "inferd.v1.EvaluationSpec.labels": (256, "labels"),
    "inferd.v1.ExplanationSpec.spans": (MOST_SPANS, "spans"),
    "inferd.v1.Model.settings": (64, "settings"),
    "inferd.v1.CreateDatasetRequest.columns": (10_000, "columns"),
    "inferd.v1.AppendDatasetRequest.parts": (100, "parts"),
    "inferd.v1.DatasetPart.statistics": (10_000, "statistics"),
    "inferd.v1.AddDocumentsRequest.documents": (10_000, "documents"),
    "inferd.v1.DeleteDocumentsRequest.document_ids": (10_000, "document_ids"),
    "inferd.v1.IndexSpec.fields": (32, "fields"),
    "inferd.v1.IndexQuery.filters": (32, "filters"),
    "inferd.v1.UploadModelStart.files": (MOST_MODEL_FILES, "files"),
    "inferd.v1.PlanLoadRequest.settings": (64, "settings"),
    "inferd.agent.v1.HostFacts.labels": (MOST_LABELS, "labels"),
    "inferd.agent.v1.HostFacts.backends": (MOST_BACKENDS, "backends"),
    "inferd.agent.v1.BackendFacts.device_ids": (MOST_DEVICES, "devices"),
    "inferd.v1.InferInput.inputs": (MOST_ENTRIES, "inputs"),  # from here on bounds of the configuration
    "inferd.v1.InferInput.outputs": (MOST_ENTRIES, "outputs"),
    "inferd.v1.Tensor.shape": (MOST_ENTRIES, "sizes"),
    "inferd.v1.StringElements.values": (MOST_ENTRIES, "texts"),
    "inference.ModelInferRequest.inputs": (MOST_ENTRIES, "inputs"),
    "inference.ModelInferRequest.outputs": (MOST_ENTRIES, "outputs"),
    "inference.ModelInferRequest.raw_input_contents": (MOST_ENTRIES, "raw contents"),
    "inference.ModelInferRequest.InferInputTensor.shape": (MOST_ENTRIES, "sizes"),
}
"""Most entries of lists, by the full name of the field, and what they are."""

READ_BY_NAME = frozenset(
    f"inferd.v1.{name}"
    for name in (
        *("TokenPrompt.token_ids", "DetokenizeRequest.token_ids"),  # from here on `limits.prompt_bytes`
        *("TaskSpec.prompt", "TokenizeRequest.prompt", "CountTokensRequest.prompt"),
        *("CreatePipelineRunRequest.json", "CreatePipelineRunRequest.labels"),
        *("CallInput.input", "DatasetLineage.parameters_json", "DatasetColumn.type", "EvaluationSpec.rubric"),
        *(f"ExplanationSpec.{name}" for name in ("prompt", "answer", "against")),
        *("OptimizeModelRequest.text", "ChatPrompt.tools_json", "ContentPart.text", "ImagePart.url"),
        *(f"ChatMessage.{name}" for name in ("role", "content", "name", "reasoning_content")),
        *("ChatMessage.tool_calls_json", "ChatMessage.tool_call_id"),
        *(f"SamplingParams.{name}" for name, each in PARAMETERS.items() if each.characters),  # from here on bounds
        *("IndexDocument.text", "IndexQuery.text", "IndexDocument.metadata_json", "IndexFilter.value_json"),
        "StringElements.values",  # as long as a message may be
        *("Choice.texts", "Grammar.json_schema", "Grammar.regex", "Grammar.lark"),
        *("TaskSpec.labels", "LeaseSpec.labels", "Model.settings", "PlanLoadRequest.settings"),
        *("Model.name", "Model.source", "Model.adapters", "RunTaskRequest.request_id", "CreateLeaseRequest.request_id"),
    )
) | frozenset(  # as many as a message has; the shape says how many there must be
    f"inference.InferTensorContents.{name}_contents"
    for name in ("bool", "int", "int64", "uint", "uint64", "fp32", "fp64", "bytes")
)
"""Fields whose lengths are checked where they are read, before they are kept or copied."""


SHAPES = ("inferd.v1.Tensor.shape", "inference.ModelInferRequest.InferInputTensor.shape")


class _Rule(NamedTuple):
    """What is looked at of a field."""

    name: str
    presence: bool  # whether it may be absent
    most: int | None  # entries
    noun: str
    bound: str  # of the configuration, else ""
    look: Callable[[str, Any], "_Excess | None"] | None  # at what it holds, by its name


class _Excess(NamedTuple):
    """What is too much."""

    path: str
    value: int
    most: int
    noun: str  # of an entry, else "characters"
    bound: str

    def under(self, way: str) -> "_Excess":
        return self._replace(path=f"{way}.{self.path}")


class Extents:
    """Refuses requests of which a part is too long.

    Args:
        limits: Of the kernel.
    """

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._rules: dict[Descriptor, tuple[_Rule, ...]] = {}

    @cached_property
    def _named(self) -> dict[str, tuple[str, int]]:
        """Bounds of the configuration by the field that they bound."""
        limits = self._limits
        return {
            "inferd.v1.ChatPrompt.messages": ("limits.chat_messages", limits.chat_messages),
            "inferd.v1.InferInput.inputs": ("limits.tensors", limits.tensors),
            "inferd.v1.InferInput.outputs": ("limits.tensors", limits.tensors),
            "inferd.v1.Tensor.shape": ("limits.tensor_rank", limits.tensor_rank),
            "inferd.v1.StringElements.values": ("limits.tensor_strings", limits.tensor_strings),
            "inference.ModelInferRequest.inputs": ("limits.tensors", limits.tensors),
            "inference.ModelInferRequest.outputs": ("limits.tensors", limits.tensors),
            "inference.ModelInferRequest.raw_input_contents": ("limits.tensors", limits.tensors),
            "inference.ModelInferRequest.InferInputTensor.shape": ("limits.tensor_rank", limits.tensor_rank),
        }

    def check(self, request: Message) -> None:
        """Refuse a request in which a list or a text is too long; its time depends on the bounds, not on the request.

        Raises:
            InvalidFieldError: One is; names it by its path, with both numbers.
            LimitExceededError: The same for what the configuration bounds.
        """
        excess = self._find(request)
        if excess is not None:
            raise _error(excess)

    def _find(self, message: Any) -> _Excess | None:
        kind = message.DESCRIPTOR
        for name, presence, most, noun, bound, look in self._rules.get(kind) or self._learn(kind):
            if presence and not message.HasField(name):
                continue
            value = getattr(message, name)
            if most is not None and len(value) > most:
                return _Excess(name, len(value), most, noun, bound)
            if look is not None and (excess := look(name, value)) is not None:
                return excess
        return None

    def _message(self, name: str, value: Any) -> _Excess | None:
        excess = self._find(value)
        return None if excess is None else excess.under(name)

    def _shape(self, name: str, value: Any) -> _Excess | None:
        """How many elements a shape says, where that is too many."""
        count, most = 1, self._limits.tensor_elements
        for size in value:
            if size > 0:
                count *= size
        return _Excess(name, count, most, "elements", "limits.tensor_elements") if count > most else None

    def _variables(self, name: str, value: Any) -> _Excess | None:
        """How many values variables hold, where that is too many."""
        most = self._limits.chat_values
        count = _count(value, most)
        return _Excess(name, count, most, "values or more", "limits.chat_values") if count > most else None

    def _entries(self, name: str, value: Any) -> _Excess | None:
        parts, most = 0, self._limits.chat_parts
        for number, entry in enumerate(value):
            if (excess := self._find(entry)) is not None:
                return excess.under(f"{name}[{number}]")
            if name == "messages":
                parts += len(entry.parts)
                if parts > most:
                    return _Excess(name, parts, most, "parts or more", "limits.chat_parts")
        return None

    def _learn(self, kind: Descriptor) -> tuple[_Rule, ...]:
        """What is looked at of a message: not at fields of bytes, which would be copied for that."""
        rules = [rule for field in kind.fields if (rule := self._rule(field)) is not None]
        found = self._rules[kind] = tuple(rules)
        return found

    def _rule(self, field: FieldDescriptor) -> _Rule | None:
        """What is looked at of a field; None for nothing."""
        if OUTPUT_ONLY in behaviours(field):
            return None
        nested, named = field.message_type, field.full_name in READ_BY_NAME
        most, noun = COUNTS.get(field.full_name, (MOST_ENTRIES, "entries"))
        bound, most = self._named.get(field.full_name, ("", most))
        counted = field.is_repeated and (field.full_name in COUNTS or not named)
        look: Callable[[str, Any], _Excess | None] | None = None
        if nested is not None and nested.full_name == Struct.DESCRIPTOR.full_name:
            look = self._variables
        elif field.full_name in SHAPES:
            look = self._shape
        elif nested is not None and not nested.GetOptions().map_entry:
            look = self._entries if field.is_repeated else self._message
        elif not named and any(
            each.type == FieldDescriptor.TYPE_STRING for each in (nested.fields if nested else [field])
        ):
            look = _long_of_all if field.is_repeated else _long
        if look is None and not counted:
            return None
        return _Rule(field.name, field.has_presence, most if counted else None, noun, bound, look)


def _error(excess: _Excess) -> InferdError:
    path, value, most, noun, bound = excess
    if bound:
        return LimitExceededError(
            f"{path} has {value} {noun} and {bound} is {most}",
            metadata={"bound": bound, "value": str(value), "limit": str(most)},
            field=path,
        )
    return InvalidFieldError(f"{path} has {value} {noun}; at most {most}", field=path)


def _long(name: str, text: str) -> _Excess | None:
    """A text, where it is too long."""
    return _Excess(name, len(text), MOST_CHARACTERS, "characters", "") if len(text) > MOST_CHARACTERS else None


def _long_of_all(name: str, texts: Any) -> _Excess | None:
    """The first text that is too long; of a map, also among its keys."""
    for number, text in enumerate(texts):
        held = [text, texts[text]] if hasattr(texts, "items") else [text]
        longest = max((len(each) for each in held if isinstance(each, str)), default=0)
        if longest > MOST_CHARACTERS:
            return _Excess(f"{name}[{number}]", longest, MOST_CHARACTERS, "characters", "")
    return None


def _count(variables: Struct, most: int) -> int:
    """How many values there are, at any depth; no more is counted than one beyond the most."""
    count, open_values = 0, [_inner(variables.fields)]
    while open_values:
        size, entries = open_values.pop()
        count += size
        if count > most:
            return count
        for value in entries:
            kind = value.WhichOneof("kind")
            if kind == "struct_value":
                open_values.append(_inner(value.struct_value.fields))
            elif kind == "list_value":
                listed = value.list_value.values
                open_values.append((len(listed), iter(listed)))
    return count


def _inner(fields: Any) -> tuple[int, Iterator[Any]]:
    return len(fields), (fields[name] for name in fields)
