"""What each option of the clients may be; a wrong value is told with its option, what it is and what it must be."""

from __future__ import annotations

import math
import operator
import os
import reprlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import wraps
from typing import Any, Final, ParamSpec, TypeAlias, TypeVar

from google.protobuf.descriptor import FieldDescriptor

from inferd_api.v1.auth_pb2 import Rule
from inferd_api.v1.dataset_pb2 import DatasetColumn, DatasetLineage, DatasetPart
from inferd_api.v1.explanation_pb2 import ExampleSource, TextSpan
from inferd_api.v1.federation_pb2 import FederationPlan
from inferd_api.v1.federation_service_pb2 import (
    ClientKeys,
    FederationClient,
    RoundComplaint,
    RoundOpenings,
    RoundPlace,
    RoundUpdate,
    SealedShares,
)
from inferd_api.v1.lease_pb2 import Claim, Lease
from inferd_api.v1.model_pb2 import PlacementRules
from inferd_api.v1.moderation_pb2 import ModerationRule
from inferd_api.v1.quota_pb2 import Quota
from inferd_api.v1.rollout_pb2 import Canary, Probe
from inferd_api.v1.sampling_pb2 import Grammar, SamplingDefaults, SamplingParams
from inferd_api.v1.task_pb2 import EmbeddingParams, TaskState
from inferd_api.v1.tensor_pb2 import InferSequence
from inferd_client.holding import HeldLease

MOST_32: Final = (1 << 32) - 1
MOST_64: Final = (1 << 64) - 1
LAST_MOMENT: Final = 253_402_300_800  # year 10000, from which on no timestamp is
TARGETS: Final = ("throughput", "latency", "memory")
CLASSES: Final = ("low", "normal", "high")
METHODS: Final = ("leave-one-out", "shapley", "gradients", "attention", "examples")
UNITS: Final = ("word", "sentence", "message")
SHOWN_TEXT: Final = 40  # characters of one that cannot be sent

_Given = ParamSpec("_Given")
_Made = TypeVar("_Made")


def with_texts(make: Callable[_Given, _Made]) -> Callable[_Given, _Made]:
    """Have what makes a request refuse texts that no UTF-8 has by a UnicodeError that tells which and where."""

    @wraps(make)
    def checked(*given: _Given.args, **named: _Given.kwargs) -> _Made:
        try:
            return make(*given, **named)
        except UnicodeEncodeError as error:
            half, begin = ascii(error.object[error.start]), ascii(error.object[:SHOWN_TEXT])
            message = f"a text that begins {begin} holds {half} at {error.start}: half a character, which no UTF-8 has"
            raise UnicodeError(f"{message}; read what it came from as UTF-8, or replace it") from None

    return checked


@dataclass(frozen=True, slots=True)
class Kind:
    """What a value must be.

    Attributes:
        what: In words, behind "it must be".
        fits: Whether a value is of this kind at all.
        holds: Whether a value of this kind is in its range.
        fix: How to write what was meant by a value that does not fit; "" where nobody can tell.
    """

    what: str
    fits: Callable[[Any], bool]
    holds: Callable[[Any], bool] = lambda _: True
    fix: Callable[[Any], str] = lambda _: ""

    def check(self, name: str, value: Any) -> None:
        """Refuse a value.

        Raises:
            TypeError: It is of another kind.
            ValueError: It is out of range.
        """
        if not self.fits(value):
            fix = self.fix(value)
            how = f"; {fix}" if fix else ""
            raise TypeError(f"{name} is {_shown(value)} of type {type(value).__name__}; it must be {self.what}{how}")
        if not self.holds(value):
            raise ValueError(f"{name} is {_shown(value)}; it must be {self.what}")


@dataclass(frozen=True, slots=True)
class Several:
    """A value that is a list of values, each of one kind."""

    each: Kind
    plural: str

    def check(self, name: str, value: Any) -> None:
        """Refuse a value as `Kind` does; a single one is told how to write a list of it."""
        if isinstance(value, (str, bytes, Mapping)) or not isinstance(value, Iterable):
            alone = self.each.fits(value) and not isinstance(value, (bytes, Mapping))
            how = f"; write [{_shown(value)}]" if alone else ""
            kind = type(value).__name__
            raise TypeError(f"{name} is {_shown(value)} of type {kind}; it must be a list of {self.plural}{how}")
        if isinstance(value, Sequence):  # what can be read once only is the caller's to read
            for index, one in enumerate(value):
                self.each.check(f"{name}[{index}]", one)


@dataclass(frozen=True, slots=True)
class Pairs:
    """A value that is a mapping."""

    key: Kind
    value: Kind
    example: str

    def check(self, name: str, value: Any) -> None:
        """Refuse a value as `Kind` does."""
        if not isinstance(value, Mapping):
            kind = type(value).__name__
            raise TypeError(f"{name} is {_shown(value)} of type {kind}; it must be a mapping, like {self.example}")
        for key, one in value.items():
            self.key.check(f"a key of {name}", key)
            self.value.check(f"{name}[{key!r}]", one)


def is_flag(value: Any) -> bool:
    """Whether it is true or false, numpy's too."""
    return isinstance(value, bool) or type(value).__name__ in ("bool_", "bool")


def is_whole(value: Any) -> bool:
    """Whether it is a whole number; true and false are none."""
    if is_flag(value):
        return False
    try:
        operator.index(value)
    except TypeError:
        return False
    return True


def is_number(value: Any) -> bool:
    """Whether it is a number; true and false are none."""
    if isinstance(value, (float, int)) and not isinstance(value, bool):
        return True
    return hasattr(type(value), "__float__") and not is_flag(value)


def _whole(most: int, *words: str) -> Kind:
    said = "".join(f', or "{word}"' for word in words)
    return Kind(
        f"a whole number from 0 to {most}{said}",
        lambda value: is_whole(value) or (isinstance(value, str) and value in words),
        lambda value: isinstance(value, str) or 0 <= operator.index(value) <= most,
    )


def _message(kind: type, how: str = "") -> Kind:
    said = f"; {how}" if how else ""
    return Kind(f"a message {kind.__name__}{said}", lambda value: isinstance(value, kind))


PARTS: Final = (ClientKeys, SealedShares, RoundUpdate, RoundOpenings, RoundComplaint)
"""What a client gives to a round of a federation."""
TEXT: Final = Kind("a text", lambda value: isinstance(value, str))
FLAG: Final = Kind("True or False", is_flag)
NUMBER: Final = Kind("a number", is_number)
WHOLE: Final = _whole(MOST_32)
LARGE: Final = _whole(MOST_64)
TOKEN: Final = _whole(MOST_32)
TEXTS: Final = Several(TEXT, "texts")
TOKENS: Final = Several(TOKEN, "token ids")
BIASES: Final = Pairs(TOKEN, NUMBER, "{1234: -5.0}")
LABELS: Final = Pairs(TEXT, TEXT, '{"team": "search"}')
ENDLESS: Final = Kind("a number of seconds, 0 or more", is_number, lambda value: value >= 0)  # NaN is not
SECONDS: Final = Kind(
    "a number of seconds, 0 or more, that has an end", is_number, lambda value: value >= 0 and math.isfinite(value)
)
MOMENT: Final = Kind("a Unix time, in seconds", is_number, lambda value: 0 <= value < LAST_MOMENT)
PATH: Final = Kind("a path", lambda value: isinstance(value, (str, os.PathLike)))
SETTING: Final = Kind(
    "a text, a number, True or False", lambda value: isinstance(value, str) or is_number(value) or is_flag(value)
)
ANYTHING: Final = Kind("anything", lambda _: True)
CLASS: Final = Kind(
    '"low", "normal" or "high"', lambda value: isinstance(value, str), lambda value: value.lower() in CLASSES
)
GRAMMAR: Final = _message(
    Grammar, 'write Grammar(regex="…"), Grammar(json_schema="…") or Grammar(choice=Choice(texts=["…"]))'
)
LEASE: Final = Kind("a lease or the id of one", lambda value: isinstance(value, (str, Lease, HeldLease)))
STATE: Final = Kind("a state", is_whole)
STATES: Final = Several(STATE, "states")
TOOLS: Final = Several(Kind("a mapping", lambda value: isinstance(value, Mapping)), "mappings, each a tool")


def _kind_of(field: FieldDescriptor) -> Kind | Several | Pairs:
    """What values of a field of `SamplingParams` may be."""
    if field.message_type is not None:
        return BIASES if field.message_type.GetOptions().map_entry else GRAMMAR
    one = _KINDS[field.type]
    if field.is_repeated:
        return TEXTS if one is TEXT else TOKENS
    return one


_KINDS: Final[Mapping[int, Kind]] = {
    FieldDescriptor.TYPE_FLOAT: NUMBER,
    FieldDescriptor.TYPE_UINT32: WHOLE,
    FieldDescriptor.TYPE_UINT64: LARGE,
    FieldDescriptor.TYPE_BOOL: FLAG,
    FieldDescriptor.TYPE_STRING: TEXT,
}

OPTIONS: Final[Mapping[str, Kind | Several | Pairs]] = {
    **{field.name: _kind_of(field) for field in SamplingParams.DESCRIPTOR.fields},
    **dict.fromkeys(("model", "name", "source", "backend", "device", "device_id", "adapter", "tools_json"), TEXT),
    **dict.fromkeys(("task_id", "lease_id", "instance_id", "request_id", "service", "address", "tenant"), TEXT),
    **dict.fromkeys(("host", "host_id", "function", "run_id", "step", "blob", "dataset", "form"), TEXT),
    **dict.fromkeys(
        ("query", "digest", "principal", "key_id", "rule_id", "quota_id", "flag_id", "note", "reason"), TEXT
    ),
    **dict.fromkeys(("path", "credential_file", "ca_file", "cert_file", "key_file"), PATH),
    **dict.fromkeys(("roles", "tenants"), TEXTS),
    "rule": _message(Rule),
    "moderation_rule": _message(ModerationRule),
    "quota": _message(Quota),
    "expire_time": MOMENT,
    "progress": Kind("a function", callable),
    "had_pieces": Kind("bytes", lambda value: isinstance(value, bytes)),
    "chunks": Kind("parts of bytes", lambda value: hasattr(value, "__iter__") and not isinstance(value, str | bytes)),
    **dict.fromkeys(("prefix_cache", "detach_on_disconnect", "wrapping", "forget", "follow"), FLAG),
    **dict.fromkeys(("add_generation_prompt", "continue_final_message", "parse_control_tokens"), FLAG),
    **dict.fromkeys(("wait", "force", "drain", "mean", "normalize", "replace", "pin", "warm", "trials_too"), FLAG),
    "revoke": FLAG,
    **dict.fromkeys(("min_instances", "max_instances", "sequences", "kv_tokens", "count", "version", "uses"), WHOLE),
    **dict.fromkeys(("after_sequence", "after_line", "size_bytes", "offset_bytes", "tail_bytes", "from_index"), LARGE),
    **dict.fromkeys(("timeout_s", "wait_timeout_s"), ENDLESS),
    **dict.fromkeys(("ttl_s", "output_interval_s", "interval_s", "overlap_s"), SECONDS),
    **dict.fromkeys(("lease_ids", "documents", "aliases", "add_aliases", "remove_aliases"), TEXTS),
    **dict.fromkeys(("token_ids",), TOKENS),
    "max_tokens": _whole(MOST_32, "all"),
    **dict.fromkeys(("labels", "selector"), LABELS),
    "settings": Pairs(TEXT, SETTING, '{"threads": 4}'),
    "template_variables": Pairs(TEXT, ANYTHING, '{"enable_thinking": False}'),
    "tools": TOOLS,
    **dict.fromkeys(("states", "flag_states"), STATES),
    "decision": STATE,
    "claims": Several(_message(Claim, "inferd_client.claims makes them"), "claims"),
    "priority": CLASS,
    "target": Kind(
        '"throughput", "latency" or "memory"', lambda value: isinstance(value, str), lambda value: value in TARGETS
    ),
    **dict.fromkeys(("most_loss", "least_agreement"), NUMBER),
    "most_weights_bytes": LARGE,
    **dict.fromkeys(("trials", "in_flight", "prompt_tokens", "output_tokens", "text_tokens"), WHOLE),
    "vary": TEXTS,
    **dict.fromkeys(("kind", "blob", "judge", "rubric", "separator", "title", "evaluation_id"), TEXT),
    **dict.fromkeys(("held_blob", "training_id"), TEXT),
    "recipe": Pairs(TEXT, ANYTHING, '{"method": "classify"}'),
    **dict.fromkeys(("class_labels", "evaluation_ids"), TEXTS),
    **dict.fromkeys(("chat", "page"), FLAG),
    **dict.fromkeys(("most_tokens", "resamples", "page_lines"), WHOLE),
    "confidence": NUMBER,
    **dict.fromkeys(("answer", "against"), TEXT),
    **dict.fromkeys(("max_answer_tokens", "samples", "random_orders", "alternatives", "steps"), WHOLE),
    "examples": _message(ExampleSource, 'write ExampleSource(index="…", count=5)'),
    "method": Kind(
        '"leave-one-out", "shapley", "gradients", "attention" or "examples"',
        lambda value: isinstance(value, str),
        lambda value: value in METHODS,
    ),
    "unit": Kind('"word", "sentence" or "message"', lambda value: isinstance(value, str), lambda value: value in UNITS),
    "spans": Several(
        Kind(
            "a pair (begin, end) of bytes, or a message TextSpan",
            lambda value: (
                isinstance(value, TextSpan)
                or (isinstance(value, tuple) and len(value) == len(("begin", "end")) and all(map(is_whole, value)))
            ),
            lambda value: isinstance(value, TextSpan) or all(0 <= operator.index(each) <= MOST_32 for each in value),
        ),
        "spans",
    ),
    "embedding": _message(EmbeddingParams),
    "inputs": Pairs(TEXT, ANYTHING, '{"x": array}'),
    "given": Pairs(TEXT, ANYTHING, '{"text": "…"}'),
    "rows": Several(Kind("a mapping", lambda value: isinstance(value, Mapping)), "mappings, each an input"),
    "columns": Several(_message(DatasetColumn), "columns"),
    "parts": Several(_message(DatasetPart), "parts"),
    "lineage": _message(DatasetLineage),
    "retention_s": SECONDS,
    **dict.fromkeys(("index", "embedding_model", "description", "document_id", "question"), TEXT),
    **dict.fromkeys(("chunk_size", "chunk_overlap", "start", "end"), WHOLE),
    "fields": Pairs(TEXT, TEXT, '{"year": "number"}'),
    "mode": Kind(
        '"vector", "lexical" or "hybrid"',
        lambda value: isinstance(value, str),
        lambda value: value in {"", "vector", "lexical", "hybrid"},
    ),
    "new_documents": Kind(
        "documents, as `inferd_client.indexes.document` makes them",
        lambda value: hasattr(value, "__iter__") and not isinstance(value, str | bytes),
    ),
    "filters": Several(
        Kind(
            'a condition, as ("year", ">=", 2020)',
            lambda value: isinstance(value, tuple) and len(value) == len(("field", "comparison", "value")),
        ),
        "conditions",
    ),
    "document_ids": TEXTS,
    "tell": Kind("a function", callable),
    "first_part": WHOLE,
    "outputs": TEXTS,
    "sequence": _message(InferSequence, 'write InferSequence(id="…", start=True)'),
    "sampling_defaults": _message(SamplingDefaults),
    "probe": _message(Probe),
    "canary": _message(Canary),
    "placement": _message(PlacementRules),
    "lease": LEASE,
    "federation_id": TEXT,
    "plan": _message(FederationPlan),
    "client": _message(FederationClient, "join_federation gives its number and token"),
    **dict.fromkeys(("seen", "place"), _message(RoundPlace, "poll_round gives it")),
    "part": Kind("a message that a round waits for", lambda value: isinstance(value, PARTS)),
    "weights": Kind("bytes", lambda value: isinstance(value, bytes)),
    "wait_s": SECONDS,
}
"""What each option is; those that stand in several methods mean the same in all of them."""


States: TypeAlias = "Iterable[TaskState.ValueType]"
"""Some states of tasks."""

Setting: TypeAlias = str | float | bool
"""A setting of a model; numbers, true and false are written as texts for its backend."""


def check_values(options: Mapping[str, Any]) -> None:
    """Refuse options of a wrong kind or out of range; None is the same as leaving one out.

    Raises:
        TypeError: A value is of another kind than its option.
        ValueError: It is out of range.
    """
    for name, value in options.items():
        if value is not None and name in OPTIONS:
            OPTIONS[name].check(name, value)


def setting_texts(settings: Mapping[str, Any] | None) -> dict[str, str] | None:
    """Settings of a model as backends read them: numbers, true and false as texts."""
    if settings is None:
        return None
    return {name: str(value).lower() if is_flag(value) else str(value) for name, value in settings.items()}


def _shown(value: Any) -> str:
    return reprlib.repr(value)
