"""The session: one loaded graph."""

import re
import sys
import threading
from collections.abc import Mapping, Sequence
from typing import Any

import onnxruntime as ort
from onnxruntime.capi import onnxruntime_pybind11_state as state

from inferd.plugin import ElementType, Signature, Tensor
from inferd_onnx.texts import make_texts
from inferd_onnx.values import PLAIN, from_array, from_value, to_array, to_value

FATAL = 4  # severity of the runtime's log: what it would write of a failed call is in the exception
TEXT_CHARACTERS = 500
CODE = re.compile(
    r"\[ONNXRuntimeError\] : \d+ : "
)  # in front of each of its errors; behind it stands the same in words
BY_SHAPES = ("shape", "dimension", "broadcast", "rank", "index", "indices", "axis", "axes", "size", "reshape", "length")
BY_MEMORY = ("alloc", "memory", "cuda", "cudnn", "cublas")
"""Words by which a failed operator's cause is told apart: the runtime gives both as the same exception."""


class OnnxSession:
    """A graph that ONNX Runtime has loaded."""

    def __init__(self, session: Any, signature: Signature, *, binds: bool, profiles: bool) -> None:
        """`binds`: inputs and outputs are bound, so that a device copies them once."""
        self._session = session
        self._signature = signature
        self._binds = binds
        self._profiles = profiles
        self._input_types = {each.name: each.element_type for each in signature.inputs}
        self._output_types = {each.name: each.element_type for each in signature.outputs}
        self._may_miss = tuple(node.name for node in session.get_inputs() if node.type.startswith("optional("))
        self._calls: dict[int, Any] = {}  # options of each call, by its thread

    @property
    def signature(self) -> Signature:
        """What it takes and gives."""
        return self._signature

    def with_signature(self, signature: Signature) -> "OnnxSession":
        """The same graph, of which more is known."""
        return OnnxSession(self._session, signature, binds=self._binds, profiles=self._profiles)

    def predict(self, inputs: Mapping[str, Tensor], outputs: Sequence[str]) -> Mapping[str, Tensor]:
        """Compute the outputs of these names.

        Raises:
            ValueError: The model does not take these inputs.
            Exception: Whatever else the runtime says.
        """
        self._check(inputs, outputs)
        options = self._calls[threading.get_ident()] = ort.RunOptions()
        options.log_severity_level = FATAL
        try:
            return self._run(inputs, outputs, options)
        except state.InvalidArgument as error:
            raise ValueError(tell(error)) from None
        except (state.Fail, state.RuntimeException, RuntimeError) as error:  # the last one where values are bound
            text = str(error).lower()
            if any(word in text for word in BY_MEMORY) or not any(word in text for word in BY_SHAPES):
                raise
            raise ValueError(tell(error)) from None
        finally:
            del self._calls[threading.get_ident()]

    def stop(self, thread: int) -> None:
        """End the call that this thread is in, before its next operator."""
        if (options := self._calls.get(thread)) is not None:
            options.terminate = True

    def close(self) -> None:
        """Give the memory back, and complete the profile."""
        session, self._session = self._session, None
        if session is not None and self._profiles:
            sys.stderr.write(f"profile: {session.end_profiling()}\n")

    def _check(self, inputs: Mapping[str, Tensor], outputs: Sequence[str]) -> None:
        for name, tensor in inputs.items():
            known = self._input_types.get(name)
            if known is not tensor.element_type:
                what = f"is {tensor.element_type.name}; it must be {known.name}" if known else "is not known"
                raise ValueError(f"input {name!r} {what}")
        for name in outputs:
            if name not in self._output_types:
                raise ValueError(f"output {name!r} is not known; the model has {', '.join(self._output_types)}")
        for each in self._signature.inputs:
            if each.name not in inputs and not each.optional:
                raise ValueError(f"input {each.name!r} is missing")

    def _run(self, inputs: Mapping[str, Tensor], outputs: Sequence[str], options: Any) -> Mapping[str, Tensor]:
        names, types = list(outputs), self._output_types
        if not names:
            return {}
        if not self._binds and all(types[name] in PLAIN for name in names):
            feed: dict[str, Any] = {
                name: (to_array if tensor.element_type in PLAIN else to_value)(name, tensor)
                for name, tensor in inputs.items()
            }
            feed.update((name, None) for name in self._may_miss if name not in feed)
            found = self._session.run(names, feed, options)
            return {name: from_array(types[name], each) for name, each in zip(names, found, strict=True)}
        if missing := [name for name in self._may_miss if name not in inputs]:
            raise ValueError(f"input {missing[0]!r} is missing: none may be beside outputs of types that numpy lacks")
        values, holds = {}, []
        for name, tensor in inputs.items():
            if tensor.element_type is ElementType.STRING:
                values[name], session = make_texts(to_array(name, tensor))
                holds.append(session)
            else:
                values[name] = to_value(name, tensor)
        if self._binds:
            found = self._bind(values, names, options)
        else:
            found = self._session.run_with_ort_values(names, values, options)
        return {name: from_value(types[name], each) for name, each in zip(names, found, strict=True)}

    def _bind(self, values: Mapping[str, Any], names: Sequence[str], options: Any) -> Sequence[Any]:
        """Run with inputs that the device copies itself, and outputs that come back to the processor together."""
        binding = self._session.io_binding()
        for name, value in values.items():
            binding.bind_ortvalue_input(name, value)
        for name in names:
            binding.bind_output(name, "cpu")
        self._session.run_with_iobinding(binding, options)
        outputs: Sequence[Any] = binding.get_outputs()
        return outputs


def tell(error: Exception) -> str:
    """What the runtime says, in one line, without places in its own source, and bounded."""
    words = [word for word in str(error).split() if "onnxruntime_src/" not in word]
    text = CODE.sub("", " ".join(words))
    return text if len(text) <= TEXT_CHARACTERS else f"{text[: TEXT_CHARACTERS - 1]}…"
