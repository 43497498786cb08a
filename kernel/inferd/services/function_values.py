"""Functions and their calls, between the wire and values."""

from hashlib import sha256

from inferd.core.demand import Demand
from inferd.core.function import Function, Package, function_of
from inferd.errors import InvalidFieldError, LimitExceededError
from inferd.services.insight import inside
from inferd.services.times import duration
from inferd_api.v1 import function_pb2 as fp
from inferd_api.v1 import function_service_pb2 as fs
from inferd_api.v1 import task_pb2 as tp
from inferd_api.worker.v1 import task_pb2 as wp

MESSAGE_BYTES = 512  # of memory, that a call takes besides its input
_OTHERS = {"sampling": "chooses tokens", "embedding": "makes a vector of a text"}


def read_call(spec: tp.TaskSpec, limit_bytes: int) -> tuple[wp.Work, Demand]:
    """A call of a function; the input is opened by the worker alone.

    Raises:
        InvalidFieldError: The task has something that calls do not have.
        LimitExceededError: The input is longer than `limit_bytes`.
    """
    for name, why in _OTHERS.items():
        if spec.HasField(name):  # type: ignore[arg-type] # its names, as a list of texts
            raise InvalidFieldError(
                f"spec.{name} stands beside spec.call; it {why}; leave it out", field=f"spec.{name}"
            )
    if spec.adapter:
        raise InvalidFieldError(
            "spec.adapter stands beside spec.call; it changes a language model, and a function is none; leave it out",
            field="spec.adapter",
        )
    given = spec.call.input.encode()
    if len(given) > limit_bytes:
        raise LimitExceededError(
            f"spec.call.input has {len(given)} bytes and limits.prompt_bytes is {limit_bytes}",
            metadata={"bound": "limits.prompt_bytes", "value": str(len(given)), "limit": str(limit_bytes)},
            field="spec.call.input",
        )
    name = function_of(spec.model) or ""
    work = wp.Work(call=wp.Call(name=name, version=spec.call.version, input=spec.call.input, each=spec.call.each))
    contents = sha256(b"each" if spec.call.each else b"call")
    for part in (name.encode(), given):
        contents.update(len(part).to_bytes(8))
        contents.update(part)
    return work, Demand(most_output=1, memory_bytes=MESSAGE_BYTES + len(given), contents=contents.digest())


def write_function(function: Function, package: Package) -> fp.Function:
    """A function for the wire."""
    return fp.Function(
        name=function.name,
        version=function.version,
        description=function.description,
        input_schema=function.input_schema,
        output_schema=function.output_schema,
        streams=function.streams,
        timeout=duration(function.timeout_s),
        memory_bytes=function.memory_bytes,
        package=package.model,
        distribution=package.distribution,
        asks=function.asks,
        internal=function.internal,
    )


def write_fault(package: Package) -> fs.FunctionFault:
    """A package with which something is wrong; paths are for those who may know them."""
    return fs.FunctionFault(
        package=package.name, why=inside(package.why) or "it cannot be used", log=inside(package.log_path)
    )
