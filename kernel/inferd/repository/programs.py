"""A `model.py` of a repository: which may be run, and what its worker is told of its configuration."""

from __future__ import annotations

import hashlib
import json
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any, Final

from google.protobuf import json_format
from google.protobuf.descriptor import FieldDescriptor

from inferd.errors import InvalidFieldError
from inferd.repository.onnx_settings import Computed, note_rest
from inferd.repository.terms import Kinds
from inferd_api.inference import model_config_pb2 as cp

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

    from google.protobuf.descriptor import Descriptor

MEMORY: Final = "inferd.memory_mib"
"""The parameter by which a program says how much memory it needs besides its files."""
MEMORY_MIB: Final = 256
MOST_MEMORY_MIB: Final = 1 << 24
BEGIN: Final = "inferd.begin_s"
"""The parameter by which a program says how long it may take to begin."""
BEGIN_S: Final = 600
QUIET: Final = "inferd.quiet_s"
"""The parameter by which a decoupled program says how long a request may be told nothing."""
QUIET_S: Final = 600
MOST_S: Final = 1_000_000
ENVIRONMENT: Final = "EXECUTION_ENV_PATH"
LONG: Final = (FieldDescriptor.CPPTYPE_INT64, FieldDescriptor.CPPTYPE_UINT64)


def check_allowed(name: str, allowed: Iterable[str]) -> None:
    """Refuse a program that the configuration of the kernel does not name.

    Args:
        name: Of its model.
        allowed: Names of models, or patterns of them, whose `model.py` is run.

    Raises:
        InvalidFieldError: None of them is it.
    """
    if not any(fnmatchcase(name, each) for each in allowed):
        raise InvalidFieldError(
            "backend 'python' is not served: a model.py is a program that would run on this host, and none is run but"
            f" those of models that repository.programs of the kernel's configuration names (--allow-program {name}),"
            " and never one that a load gives",
            field="config.backend",
        )


def check_unchanged(config: cp.ModelConfig, own: cp.ModelConfig, usual: str) -> None:
    """Refuse a load whose configuration would have another file run than that of the folder: its operator chooses it.

    Args:
        config: That of the load.
        own: That of the folder.
        usual: The file where none is named.

    Raises:
        InvalidFieldError: It would.
    """
    said, is_said = (each.default_model_filename or usual for each in (config, own))
    if said != is_said:
        raise InvalidFieldError(
            f"default_model_filename is {said[:80]!r} and in the model's folder it is {is_said[:80]!r}: a load does not"
            " choose which program is run; leave it as it is there, or change config.pbtxt",
            field="config.default_model_filename",
        )
    if config.version_policy != own.version_policy:
        raise InvalidFieldError(
            "version_policy is another one than in the model's folder: a load does not choose which version of a"
            " program is run; say it as it is there, or change config.pbtxt",
            field="config.version_policy",
        )


def program_of(config: cp.ModelConfig) -> Computed:
    """How a program is run, as its configuration says it.

    Raises:
        InvalidFieldError: It asks for what no program has here.
    """
    made = Computed()
    if config.sequence_batching.state:
        raise InvalidFieldError(
            "sequence_batching.state is not offered for a model.py: it keeps its states itself, by the id of the"
            " sequence (CONTROL_SEQUENCE_CORRID)",
            field="config.sequence_batching",
        )
    controls = (each for given in config.sequence_batching.control_input for each in given.control)
    if config.HasField("sequence_batching") and not any(
        each.kind == Kinds.CONTROL_SEQUENCE_CORRID for each in controls
    ):
        raise InvalidFieldError(
            "sequence_batching of a model.py has no control of kind CONTROL_SEQUENCE_CORRID: one program computes the"
            " requests of all sequences and could not tell these apart; give it one of TYPE_UINT64 or TYPE_STRING",
            field="config.sequence_batching",
        )
    if ENVIRONMENT in config.parameters:
        raise InvalidFieldError(
            f"parameters has {ENVIRONMENT}: a model.py runs with the Python of inferd; install there what it imports",
            field="config.parameters",
        )
    _instances(config, made)
    if config.HasField("dynamic_batching"):
        made.note("dynamic_batching", "execute of a model.py is given one request at a time")
    if config.HasField("optimization"):
        made.note("optimization", "a model.py computes as it likes")
    note_rest(config, made)
    return made


def _instances(config: cp.ModelConfig, made: Computed) -> None:
    groups = [each for each in config.instance_group if not each.passive]
    if any(each.kind == cp.ModelInstanceGroup.KIND_GPU or each.gpus for each in groups):
        raise InvalidFieldError(
            "instance_group is on GPUs, and the worker of a model.py reaches none: leave it out, or serve what it"
            " computes there as a model of inferd",
            field="config.instance_group",
        )
    if sum(each.count or 1 for each in groups) > 1:
        made.note("instance_group.count", "one object of the program computes; a decoupled one answers 16 at once")


def told(config: cp.ModelConfig, *, name: str, number: int, folder: Path) -> Mapping[str, str | int]:
    """What the worker of a program is told.

    Args:
        config: What the repository says.
        name: Of the model.
        number: Of the version.
        folder: Of the version, whose files tell whether it has changed.

    Raises:
        InvalidFieldError: A parameter is none.
        OSError: The folder cannot be read.
    """
    whole = cp.ModelConfig()
    whole.CopyFrom(config)
    whole.name, whole.backend = name, "python"
    return {
        "config": json.dumps(as_json(whole)),
        "model": name,
        "version": str(number),
        "memory_mib": _number(config, MEMORY, MEMORY_MIB, MOST_MEMORY_MIB),
        "begin_s": _number(config, BEGIN, BEGIN_S, MOST_S),
        "quiet_s": _number(config, QUIET, QUIET_S, MOST_S),
        "files": _digest(folder),
    }


def _number(config: cp.ModelConfig, name: str, usual: int, most: int) -> int:
    if name not in config.parameters:
        return usual
    text = config.parameters[name].string_value.strip()
    if not (text.isascii() and text.isdigit() and len(text) < 10 and 0 < int(text) <= most):  # noqa: PLR2004 - digits
        raise InvalidFieldError(
            f"parameter {name} is {text[:40]!r}; it must be a whole number from 1 to {most}",
            field="config.parameters",
        )
    return int(text)


def _digest(folder: Path) -> str:
    """Differs when a file of a version has changed."""
    found = []
    for each in sorted(folder.rglob("*")):
        facts = each.stat()
        if each.is_file():
            found.append(f"{each.relative_to(folder)} {facts.st_size} {facts.st_mtime_ns} {facts.st_ino}")
    return hashlib.sha256("\n".join(found).encode("utf-8", "surrogateescape")).hexdigest()


def as_json(config: cp.ModelConfig) -> dict[str, Any]:
    """A configuration as programs of Triton read it: all fields, by their names, whole numbers as numbers."""
    written: dict[str, Any] = json_format.MessageToDict(
        config, preserving_proto_field_name=True, always_print_fields_with_no_presence=True
    )
    _numbers(written, config.DESCRIPTOR)
    return written


def _numbers(written: dict[str, Any], kind: Descriptor) -> None:
    """Make numbers of those that JSON has as texts for being long."""
    for name, value in written.items():
        field = kind.fields_by_name[name]
        if field.message_type is not None and field.message_type.GetOptions().map_entry:
            entry = field.message_type.fields_by_name["value"]
            if entry.message_type is not None:
                for each in value.values():
                    _numbers(each, entry.message_type)
            elif entry.cpp_type in LONG:
                written[name] = {key: int(each) for key, each in value.items()}
        elif field.message_type is not None:
            for each in value if isinstance(value, list) else [value]:
                _numbers(each, field.message_type)
        elif field.cpp_type in LONG:
            written[name] = [int(each) for each in value] if isinstance(value, list) else int(value)
