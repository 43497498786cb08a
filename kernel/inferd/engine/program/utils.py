"""What a `model.py` imports as `triton_python_backend_utils`: what of it a kernel can keep, by its public names.

Written from the public documentation of Triton's Python backend. What is missing raises `TritonModelException`, and
says what to do instead.
"""

from __future__ import annotations

import json
import logging
import weakref
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from inferd.engine.program.reply import FINAL, Reply, ReplyError
from inferd.engine.program.types import BY_NUMPY, KINDS

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

TRITONSERVER_RESPONSE_COMPLETE_FINAL: Final = FINAL
TRITONSERVER_REQUEST_FLAG_SEQUENCE_START: Final = 1
TRITONSERVER_REQUEST_FLAG_SEQUENCE_END: Final = 2
TRITONSERVER_REQUEST_RELEASE_ALL: Final = 1
TRITONSERVER_REQUEST_RELEASE_RESCHEDULE: Final = 2
ALONE: Final = (
    "a model.py runs no other model of the kernel and reaches no network: chain models by an ensemble, or call"
    " them from the client"
)

_log = logging.getLogger("inferd.program")


class TritonModelException(Exception):  # noqa: N818 - the name that programs know
    """What went wrong in a program, or what it asked for and cannot have."""


class TritonError:
    """Why a request fails.

    Args:
        message: For the client.
        code: One of the constants; `INVALID_ARG` is the client's fault, the others are the model's.
    """

    UNKNOWN, INTERNAL, NOT_FOUND, INVALID_ARG, UNAVAILABLE, UNSUPPORTED, ALREADY_EXISTS, CANCELLED = range(8)

    def __init__(self, message: str, code: int = INTERNAL) -> None:
        self._message, self._code = str(message), code

    def message(self) -> str:
        """Why."""
        return self._message

    def code(self) -> int:
        """Whose fault it is."""
        return self._code


class Tensor:
    """A named array.

    Args:
        name: Its name.
        numpy_array: Its elements; texts are bytes or `str`, in an array of objects.

    Raises:
        TritonModelException: It is no array, or of a type that no tensor has.
    """

    def __init__(self, name: Any, numpy_array: Any) -> None:
        if not isinstance(name, str) or not isinstance(numpy_array, np.ndarray):
            raise TritonModelException(
                f"Tensor takes a name and a numpy array; it was given a {type(name).__name__} and a"
                f" {type(numpy_array).__name__}"
            )
        array = numpy_array.astype(np.object_) if numpy_array.dtype.kind in "SU" else numpy_array
        if array.dtype.newbyteorder("=") not in BY_NUMPY:
            raise TritonModelException(f"tensor '{name}' is of {array.dtype}, which no tensor of a model has")
        self._name: str = name
        self._array: Any = array

    def name(self) -> str:
        """Its name."""
        return self._name

    def as_numpy(self) -> Any:
        """Its elements; not to be written to."""
        return self._array

    def shape(self) -> list[int]:
        """Its sizes."""
        return list(self._array.shape)

    def triton_dtype(self) -> str:
        """What it consists of, as configurations call it."""
        return BY_NUMPY[self._array.dtype.newbyteorder("=")]

    def is_cpu(self) -> bool:
        """Whether it is in memory of the host: it always is."""
        return True

    def to_dlpack(self) -> Any:
        """Its elements for another framework."""
        return self._array.__dlpack__()

    @staticmethod
    def from_dlpack(name: str, dlpack: Any) -> Tensor:
        """A tensor of the elements of another framework, which are in memory of the host."""
        return Tensor(name, np.from_dlpack(dlpack) if hasattr(dlpack, "__dlpack__") else np.from_dlpack(_Given(dlpack)))


class _Given:
    """A capsule of DLPack, as numpy takes it."""

    def __init__(self, capsule: Any) -> None:
        self._capsule = capsule

    def __dlpack__(self, **_: Any) -> Any:
        return self._capsule

    def __dlpack_device__(self) -> tuple[int, int]:
        return (1, 0)


class InferenceResponse:
    """What a request is answered.

    Args:
        output_tensors: The outputs.
        error: Why there are none.
        parameters: Refused: responses tell outputs alone.

    Raises:
        TritonModelException: One is none of these.
    """

    def __init__(
        self, output_tensors: Sequence[Any] = (), error: TritonError | None = None, parameters: Any = None
    ) -> None:
        if parameters:
            raise TritonModelException("a response has no parameters here; give them as an output")
        if error is not None and not isinstance(error, TritonError):
            raise TritonModelException(f"error is a {type(error).__name__}; it must be a TritonError")
        self._outputs: list[Tensor] = list(output_tensors or ())
        if wrong := next((each for each in output_tensors or () if not isinstance(each, Tensor)), None):
            raise TritonModelException(f"output_tensors has a {type(wrong).__name__}; each must be a Tensor")
        self._error = error

    def output_tensors(self) -> list[Tensor]:
        """The outputs."""
        return self._outputs

    def has_error(self) -> bool:
        """Whether it failed."""
        return self._error is not None

    def error(self) -> TritonError | None:
        """Why it failed; None where it did not."""
        return self._error


def _note_end(owner: object, reply: Reply) -> None:
    """Once a program has neither the request nor its sender any more, nothing can be sent."""
    reply.hold()
    weakref.finalize(owner, reply.let_go).atexit = False


class InferenceResponseSender:
    """By which a program sends responses when it likes, from any thread."""

    def __init__(self, reply: Reply) -> None:
        self.reply = reply
        _note_end(self, reply)

    def send(self, response: InferenceResponse | None = None, flags: int = 0) -> None:
        """Send a response, with `TRITONSERVER_RESPONSE_COMPLETE_FINAL` the last one, or the end alone.

        Raises:
            TritonModelException: It may not be sent.
        """
        if response is not None and not isinstance(response, InferenceResponse):
            raise TritonModelException(f"a {type(response).__name__} was sent; it must be an InferenceResponse")
        if flags not in {0, FINAL}:
            raise TritonModelException("Unable to send response. Unsupported flag value.")
        try:
            self.reply.send(response, flags)
        except ReplyError as error:
            raise TritonModelException(str(error)) from None

    def is_cancelled(self) -> bool:
        """Whether nobody waits for more."""
        return self.reply.cancelled


class InferenceRequest:
    """What a client asks of the model; `exec` of one that a program makes itself is refused.

    Args:
        inputs: The inputs.
        requested_output_names: The outputs that are told.
        model_name: Of the model.
        options: What else Triton knows of a request.
    """

    def __init__(
        self,
        inputs: Iterable[Tensor] = (),
        requested_output_names: Iterable[str] = (),
        model_name: str = "",
        reply: Reply | None = None,
        **options: Any,
    ) -> None:
        self._inputs = list(inputs)
        self._wanted = list(requested_output_names)
        self._model = model_name
        self._reply = reply
        self._options = options
        self._sender: weakref.ref[InferenceResponseSender] | None = None
        if reply is not None:
            _note_end(self, reply)

    @property
    def reply(self) -> Reply:
        """What the kernel is told; no program uses it.

        Raises:
            TritonModelException: The program made the request itself.
        """
        if self._reply is None:
            raise TritonModelException(ALONE)
        return self._reply

    def inputs(self) -> list[Tensor]:
        """The inputs."""
        return self._inputs

    def requested_output_names(self) -> list[str]:
        """The outputs that are told."""
        return self._wanted

    def model_name(self) -> str:
        """Of the model."""
        return self._model

    def request_id(self) -> str:
        """Nothing: the kernel keeps it, and answers by it."""
        return ""

    def correlation_id(self) -> Any:
        """What the control input CONTROL_SEQUENCE_CORRID tells: the sequence, which no other tenant's is; else 0."""
        told = get_input_tensor_by_name(self, str(self._options.get("correlation", "")))
        return 0 if told is None else told.as_numpy().reshape(-1).tolist()[0]

    def flags(self) -> int:
        """Nothing: a model with a sequence batcher is told by control inputs."""
        return 0

    def parameters(self) -> str:
        """An empty object of JSON: parameters of requests are labels of tasks."""
        return "{}"

    def timeout(self) -> int:
        """Nothing: the kernel ends a request that is late, and `is_cancelled` tells it."""
        return 0

    def is_cancelled(self) -> bool:
        """Whether nobody waits for an answer any more."""
        return self._reply is not None and self._reply.cancelled

    def get_response_sender(self) -> InferenceResponseSender:
        """By which responses are sent when the program likes; one for each request.

        Raises:
            TritonModelException: The program made the request itself.
        """
        sender = self._sender() if self._sender is not None else None
        if sender is None:
            sender = InferenceResponseSender(self.reply)
            self._sender = weakref.ref(sender)
        return sender

    def set_release_flags(self, flags: int) -> None:
        """Refuse to run the request again.

        Raises:
            TritonModelException: It is to be.
        """
        if flags != TRITONSERVER_REQUEST_RELEASE_ALL:
            raise TritonModelException("a request is computed once: keep what is left in the model itself")

    def exec(self, *_: Any, **__: Any) -> Any:
        """Refused, as `async_exec`.

        Raises:
            TritonModelException: Always.
        """
        raise TritonModelException(ALONE)

    def async_exec(self, *_: Any, **__: Any) -> Any:
        """Refused, as `exec`."""
        raise TritonModelException(ALONE)


class Logger:
    """Lines in the log of the worker."""

    @staticmethod
    def log(message: str, level: int = logging.INFO) -> None:
        """Write one of a level."""
        _log.log(level if level in {logging.INFO, logging.WARNING, logging.ERROR} else logging.INFO, "%s", message)

    @staticmethod
    def log_info(message: str) -> None:
        """Write what is of interest."""
        _log.info("%s", message)

    @staticmethod
    def log_warn(message: str) -> None:
        """Write what may be wrong."""
        _log.warning("%s", message)

    @staticmethod
    def log_error(message: str) -> None:
        """Write what is wrong."""
        _log.error("%s", message)

    @staticmethod
    def log_verbose(message: str) -> None:
        """Write what is of interest to the program's author."""
        _log.debug("%s", message)


class ModelConfig:
    """A configuration that `auto_complete_config` completes: what it says already stays.

    Args:
        config: It, as a dictionary or as JSON.
    """

    def __init__(self, config: Mapping[str, Any] | str) -> None:
        self._config: dict[str, Any] = json.loads(config) if isinstance(config, str) else dict(config)

    def as_dict(self) -> dict[str, Any]:
        """It, as a dictionary."""
        return self._config

    def set_max_batch_size(self, max_batch_size: int) -> None:
        """Say how many rows a request has at most, where that is not said.

        Raises:
            ValueError: Another number is said.
        """
        said = self._config.get("max_batch_size", 0)
        if said and said > max_batch_size:
            raise ValueError(f"max_batch_size is {said} in the configuration, and the model can {max_batch_size}")
        self._config["max_batch_size"] = said or max_batch_size

    def set_dynamic_batching(self) -> None:
        """Passed over: requests of a program are computed one by one."""

    def set_model_transaction_policy(self, transaction_policy_dict: Mapping[str, Any]) -> None:
        """Say whether the model gives several responses for a request.

        Raises:
            ValueError: The configuration says otherwise.
        """
        if unknown := set(transaction_policy_dict) - {"decoupled"}:
            raise ValueError(f"a transaction policy has {sorted(unknown)}; it may have 'decoupled'")
        decoupled = bool(transaction_policy_dict.get("decoupled"))
        said = self._config.get("model_transaction_policy", {})
        if said.get("decoupled") and not decoupled:
            raise ValueError("the configuration says that the model is decoupled, and the model that it is not")
        self._config["model_transaction_policy"] = {"decoupled": decoupled}

    def add_input(self, input: Mapping[str, Any]) -> None:  # noqa: A002 - as programs call it
        """Say what the model takes.

        Raises:
            ValueError: It is no input, or the configuration says otherwise.
        """
        self._add("input", input, {"name", "data_type", "dims", "optional", "allow_ragged_batch"})

    def add_output(self, output: Mapping[str, Any]) -> None:
        """Say what the model gives; raises as `add_input`."""
        self._add("output", output, {"name", "data_type", "dims"})

    def _add(self, what: str, given: Mapping[str, Any], known: set[str]) -> None:
        if unknown := set(given) - known:
            raise ValueError(f"{what} has {sorted(unknown)}; it may have {', '.join(sorted(known))}")
        if missing := {"name", "data_type", "dims"} - set(given):
            raise ValueError(f"{what} lacks {', '.join(sorted(missing))}")
        for each in self._config.setdefault(what, []):
            if each["name"] == given["name"]:
                for field in ("data_type", "dims"):
                    if each[field] != (list(given[field]) if field == "dims" else given[field]):
                        raise ValueError(
                            f"{what} {given['name']!r} has {field} {each[field]} in the configuration, and"
                            f" {given[field]} by auto_complete_config"
                        )
                return
        self._config[what].append({**given, "dims": list(given["dims"])})


def get_input_tensor_by_name(inference_request: InferenceRequest, name: str) -> Tensor | None:
    """An input; None where it is not given."""
    return next((each for each in inference_request.inputs() if each.name() == name), None)


def get_output_tensor_by_name(inference_response: InferenceResponse, name: str) -> Tensor | None:
    """An output; None where it is not given."""
    return next((each for each in inference_response.output_tensors() if each.name() == name), None)


def get_input_config_by_name(model_config: Mapping[str, Any], name: str) -> Mapping[str, Any] | None:
    """What a configuration says of an input; None where it has none of the name."""
    return next((each for each in model_config.get("input", ()) if each["name"] == name), None)


def get_output_config_by_name(model_config: Mapping[str, Any], name: str) -> Mapping[str, Any] | None:
    """What a configuration says of an output; None where it has none of the name."""
    return next((each for each in model_config.get("output", ()) if each["name"] == name), None)


def triton_string_to_numpy(triton_type_string: str) -> Any:
    """What arrays have of a type of configurations, as "TYPE_FP32"; None for none."""
    kind = KINDS.get(triton_type_string)
    return None if kind is None else kind.numpy


def using_decoupled_model_transaction_policy(model_config: Mapping[str, Any]) -> bool:
    """Whether a configuration says that its model gives several responses for a request."""
    return bool(model_config.get("model_transaction_policy", {}).get("decoupled"))


def get_model_dir() -> str:
    """The folder of the version that is served."""
    return _place["dir"]


_place: dict[str, str] = {"dir": ""}


def set_model_dir(path: str) -> None:
    """Note the folder of the version that is served."""
    _place["dir"] = path
