"""Damaged configurations of models: whole ones cut, spliced, repeated, with other numbers, names and nesting."""

import random
from contextlib import suppress
from functools import cache
from typing import Any

from google.protobuf import text_format

from inferd_api.inference import model_config_pb2 as cp

WHOLE = (
    """
name: "m" backend: "onnxruntime" max_batch_size: 8
input [ { name: "x" data_type: TYPE_FP32 dims: [ -1, 4 ] },
  { name: "y" data_type: TYPE_STRING dims: 1 optional: true } ]
output { name: "z" data_type: TYPE_INT64 dims: 4 label_filename: "labels.txt" }
dynamic_batching { preferred_batch_size: [ 4, 8 ] max_queue_delay_microseconds: 100 priority_levels: 3
  default_priority_level: 2 default_queue_policy { max_queue_size: 5 default_timeout_microseconds: 10 }
  priority_queue_policy { key: 1 value { max_queue_size: 2 } } }
instance_group [ { count: 2 kind: KIND_CPU }, { name: "other" gpus: [ 0, 1 ] } ]
version_policy { specific { versions: [ 1, 3 ] } }
parameters { key: "intra_op_thread_count" value { string_value: "2" } }
optimization { graph { level: 1 } execution_accelerators { cpu_execution_accelerator: [ { name: "openvino" } ] } }
model_warmup [ { name: "w" batch_size: 1 inputs { key: "x" value { data_type: TYPE_FP32 dims: 4 zero_data: true } } } ]
""",
    """
platform: "ensemble" input { name: "a" data_type: TYPE_FP32 dims: 1 } output { name: "c" data_type: TYPE_FP32 dims: 1 }
ensemble_scheduling { step [ { model_name: "one" model_version: -1 input_map { key: "x" value: "a" }
  output_map { key: "y" value: "b" } }, { model_name: "two" input_map { key: "x" value: "b" }
  output_map { key: "y" value: "c" } } ] }
""",
    """
backend: "python" model_transaction_policy { decoupled: true } version_policy { latest { num_versions: 2 } }
input { name: "x" data_type: TYPE_BOOL dims: 1 reshape { shape: [ ] } }
output { name: "y" data_type: TYPE_BF16 dims: 1 }
sequence_batching { max_sequence_idle_microseconds: 5
  direct { max_queue_delay_microseconds: 3 minimum_slot_utilization: 0.5 }
  control_input [ { name: "START" control [ { kind: CONTROL_SEQUENCE_START fp32_false_true: [ 0, 1 ] } ] },
    { name: "ID" control { kind: CONTROL_SEQUENCE_CORRID data_type: TYPE_UINT64 } } ]
  state [ { input_name: "in" output_name: "out" data_type: TYPE_INT32 dims: -1
    initial_state: { data_type: TYPE_INT32 dims: 1 zero_data: true name: "zero" } } ] }
parameters { key: "inferd.memory_mib" value { string_value: "64" } } response_cache { enable: true }
""",
    """
backend: "inferd" default_model_filename: "model.fake" metric_tags { key: "k" value: "v" } version_policy { all { } }
batch_input [ { kind: BATCH_ELEMENT_COUNT target_name: "t" data_type: TYPE_INT32 source_input: "x" } ]
cc_model_filenames { key: "8.0" value: "other" } model_operations { op_library_filename: "lib.so" }
sequence_batching { oldest { max_candidate_sequences: 4 preferred_batch_size: 4 } iterative_sequence: true }
model_repository_agents { agents [ { name: "checksum" parameters { key: "MD5" value: "0" } } ] }
""",
)
NUMBERS = ("0", "-1", "1", "2147483647", "-2147483648", "9223372036854775807", str(2**64 - 1), "1e400", "nan", "0x7")
TEXTS = ('""', '"m"', '"../../etc/passwd"', '"a" "b"', r'"\000\xff"', '"é"', "'x'", '"' + "n" * 300 + '"', '"\\u2028"')
SHARE = 0.5  # of fields
READABLE = 0.6  # of those that every parser takes
WHOLES = (-(2**63), -1, 0, 1, 2, 1000, 2**31 - 1, 2**32 - 1, 2**63 - 1, 2**64 - 1)
NOISE = ("{", "}", "[", "]", "<", ">", ":", ",", ";", "#", "\0", "\n", '"', "'", "\\", "\ufeff", "[a.b/c] { }", "/")


def wounded(number: int) -> str:
    """The configuration of a number, always the same."""
    chosen = random.Random(number)
    if chosen.random() < READABLE:
        return _other_values(chosen)
    text = chosen.choice(WHOLE)
    if chosen.random() < SHARE:
        text = _of_fields(chosen)
    for _ in range(chosen.randint(1, 6)):
        text = _wound(text, chosen)
    return text


def _wound(text: str, chosen: random.Random) -> str:
    words = text.split(" ")
    at, other = chosen.randrange(len(words)), chosen.randrange(len(words))
    low, high = sorted((at, other))
    match chosen.randrange(9):
        case 0:
            del words[low : min(high, low + 8) + 1]
        case 1:
            words[at:at] = words[low : low + chosen.randint(1, 30)] * chosen.choice((1, 1, 1, 2, 9))
        case 2:
            words[at] = chosen.choice(NUMBERS)
        case 3:
            words[at] = chosen.choice(TEXTS)
        case 4:
            words.insert(at, chosen.choice(NOISE))
        case 5:
            words[at:at] = chosen.choice(WHOLE).split(" ")[: chosen.randint(1, 40)]
        case 6:
            deep = chosen.choice((3, 20, 60, 60, 90, 3000))
            words[at:at] = ["ensemble_scheduling { step {"] * deep + ["} }"] * deep
        case 7:
            names = [field.name for field in cp.ModelConfig.DESCRIPTOR.fields]
            words[at] = chosen.choice(names) + chosen.choice((":", " {", ""))
        case _:
            words[at], words[other] = words[other], words[at]
    return " ".join(words)[: 1 << 18]


@cache
def _pieces() -> tuple[str, ...]:
    """Each field of each whole configuration, by itself."""
    made = []
    for each in WHOLE:
        for field, _ in text_format.Parse(each, cp.ModelConfig()).ListFields():
            alone = text_format.Parse(each, cp.ModelConfig())
            for other, _ in alone.ListFields():
                if other.name != field.name:
                    alone.ClearField(other.name)
            made.append(str(text_format.MessageToString(alone, as_one_line=True)))
    return tuple(made)


def _of_fields(chosen: random.Random) -> str:
    """A configuration of some of the fields of all whole ones."""
    return " ".join(piece for piece in _pieces() if chosen.random() < SHARE)


def _other_values(chosen: random.Random) -> str:
    """One that is read, some of whose values are others."""
    made = text_format.Parse(chosen.choice(WHOLE), cp.ModelConfig())
    for _ in range(chosen.randint(1, 5)):
        message = made
        while inner := [each for field, value in message.ListFields() for each in _messages(field, value)]:
            if chosen.random() < 0.2:
                break
            message = chosen.choice(inner)
        if scalars := [field for field in message.DESCRIPTOR.fields if field.message_type is None]:
            with suppress(ValueError, TypeError):  # it is out of the range of its type
                _set(message, chosen.choice(scalars), chosen)
    return str(text_format.MessageToString(made))


def _messages(field: Any, value: Any) -> list[Any]:
    if field.message_type is None or field.message_type.GetOptions().map_entry:
        return []
    return list(value) if field.is_repeated else [value]


def _set(message: Any, field: Any, chosen: random.Random) -> None:
    value = {
        field.CPPTYPE_STRING: chosen.choice(("", "x", "a" * 500, "a=b,c:d", "../up", "tensorrt", "1")),
        field.CPPTYPE_BOOL: chosen.random() < SHARE,
        field.CPPTYPE_FLOAT: chosen.choice((0.0, -1.0, 1e38, float("nan"))),
        field.CPPTYPE_DOUBLE: chosen.choice((0.0, -1.0, 1e300, float("inf"))),
    }.get(field.cpp_type, chosen.choice(WHOLES))
    if not field.is_repeated:
        setattr(message, field.name, value)
    elif chosen.random() < 0.3:
        message.ClearField(field.name)
    else:
        getattr(message, field.name).extend([value] * chosen.choice((1, 1, 3, 300)))
