"""Parts of a configuration that change what a model gives, and that no kernel does: such a model is not served."""

from __future__ import annotations

from typing import TYPE_CHECKING

from inferd.errors import InvalidFieldError
from inferd_api.inference.model_config_pb2 import TYPE_INVALID, DataType

if TYPE_CHECKING:
    from inferd_api.inference.model_config_pb2 import ModelConfig, ModelInput, ModelOutput

FREE = -1
MOST_TOLD = 16  # of the sizes of a tensor
TYPES = {value: name for name, value in DataType.items() if value != TYPE_INVALID}
AGENTS = (
    "agents change or check a model before it is loaded, and none of them is here; pin its digest with [[models]]"
    " of the configuration instead"
)


def check_served(config: ModelConfig) -> None:
    """Refuse what cannot be done and must not be passed over.

    Raises:
        InvalidFieldError: There is such a thing; names it.
    """
    said = {
        "batch_input": (config.batch_input, "no input is made of all requests of a batch"),
        "batch_output": (config.batch_output, "no output of a batch is told by the sizes of inputs"),
        "cc_model_filenames": (config.cc_model_filenames, "name one file for all GPUs (default_model_filename)"),
        "model_operations.op_library_filename": (
            config.model_operations.op_library_filename,
            "no library of a repository is loaded: it would run in the worker",
        ),
        "model_repository_agents.agents": (config.model_repository_agents.agents, AGENTS),
    }
    for name, (value, why) in said.items():
        if value:
            raise InvalidFieldError(f"{name} is not offered: {why}", field=f"config.{name}")
    for place, taken in enumerate(config.input):
        _check_tensor(taken, f"input[{place}]")
        if taken.allow_ragged_batch:
            raise _not_offered(
                f"input[{place}].allow_ragged_batch", "requests are computed as one where their sizes are equal"
            )
    for place, given in enumerate(config.output):
        _check_tensor(given, f"output[{place}]")
    _check_sequences(config)


def _check_tensor(each: ModelInput | ModelOutput, where: str) -> None:
    if not each.name:
        raise InvalidFieldError(f"{where} must specify 'name'", field=f"config.{where}.name")
    if each.data_type not in TYPES:
        raise InvalidFieldError(
            f"{where} must specify 'data_type'; it is {each.data_type}, and there are {', '.join(TYPES.values())}",
            field=f"config.{where}.data_type",
        )
    if any(size == 0 or size < FREE for size in each.dims):
        raise InvalidFieldError(
            f"{where} dimension must be integer >= 1, or -1 to indicate a variable-size dimension; it is"
            f" {list(each.dims[:MOST_TOLD])}",
            field=f"config.{where}.dims",
        )
    if each.HasField("reshape"):
        raise _not_offered(f"{where}.reshape", "clients give and get the shapes of the model itself; leave it out")
    if each.is_shape_tensor or each.is_non_linear_format_io:
        raise _not_offered(f"{where}.is_shape_tensor, is_non_linear_format_io", "they are of TensorRT")


def _check_sequences(config: ModelConfig) -> None:
    if not config.HasField("sequence_batching"):
        return
    batching = config.sequence_batching
    if batching.iterative_sequence:
        raise _not_offered("sequence_batching.iterative_sequence", "a request is computed once")
    for place, state in enumerate(batching.state):
        for initial in state.initial_state:
            if initial.WhichOneof("state_data") == "data_file" or list(initial.dims) != list(state.dims):
                where = f"sequence_batching.state[{place}].initial_state"
                raise _not_offered(where, "a state begins with zeros of its own sizes")


def _not_offered(name: str, why: str) -> InvalidFieldError:
    return InvalidFieldError(f"{name} is not offered: {why}", field=f"config.{name}")
