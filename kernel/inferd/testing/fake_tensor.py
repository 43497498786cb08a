"""Sessions of the fake backend that turn tensors into tensors, and fail on demand."""

from __future__ import annotations

import os
import signal
import threading
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from inferd.plugin import Batching, Cut, ElementType, Fill, Padding, Signature, Tensor, TensorInfo, TensorState
from inferd.plugin.tensor import NUMPY
from inferd.testing.fake_faults import NOTHING
from inferd.testing.hangs import hang
from inferd.testing.spoilt_memory import spoil_memories

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from inferd.testing.fake import FakeModel

FLOAT: Final = ElementType.FLOAT
NOT_TAKEN: Final = -7.0
"""A number that every one of them refuses as a ValueError."""


def _info(name: str, *shape: int | str, kind: ElementType = FLOAT) -> TensorInfo:
    return TensorInfo(name=name, element_type=kind, shape=shape)


def _has(arrays: Sequence[Any], number: float | None) -> bool:
    return number not in {None, NOTHING} and any((array == number).any() for array in arrays)


def _float(array: Any) -> Tensor:
    return Tensor(element_type=FLOAT, shape=array.shape, array=array.astype("<f4"))


class FakeTensorSession:
    """Gives its inputs back: `x` as `y`.

    Args:
        model: How it batches, and what goes wrong.
    """

    inputs: tuple[TensorInfo, ...] = (_info("x", "batch", "width"),)
    outputs: tuple[TensorInfo, ...] = (_info("y", "batch", "width"),)
    states: tuple[TensorState, ...] = ()
    batching: Batching = Batching()

    def __init__(self, model: FakeModel) -> None:
        self._faults = model
        self._calls = 0
        self._stopped: dict[int, threading.Event] = {}  # by thread
        self.signature = Signature(
            inputs=self.inputs,
            outputs=self.outputs,
            states=self.states,
            most_batch=model.most_batch,
            threads=model.threads,
            batching=self.batching,
        )
        if model.memory:
            spoil_memories(model.memory)

    def predict(
        self, inputs: Mapping[str, Tensor], outputs: Sequence[str]
    ) -> Mapping[str, Tensor] | Iterator[Mapping[str, Tensor]]:
        """What it is asked for.

        Raises:
            ValueError: A number is `NOT_TAKEN`.
            RuntimeError: The model's file asks for it.
        """
        self._fail(inputs)
        given = self.compute(inputs)
        return {name: given[name] for name in outputs}

    def compute(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """All of its outputs."""
        return {"y": inputs["x"]}

    def stop(self, thread: int) -> None:
        """End the wait of its call."""
        if (stopped := self._stopped.get(thread)) is not None:
            stopped.set()

    def close(self) -> None:
        """Nothing to give back."""
        self._faults.hang("close")

    def _fail(self, inputs: Mapping[str, Tensor]) -> None:
        faults = self._faults
        self._calls += 1
        stopped = self._stopped.setdefault(threading.get_ident(), threading.Event())
        stopped.clear()
        if stopped.wait(faults.step_s):  # stands for the time that a real model takes
            raise RuntimeError("the call was stopped")
        faults.hang("step")
        if self._calls == faults.fail_step:
            raise RuntimeError(f"step {self._calls} fails, as the file says")
        floats = [t.array for t in inputs.values() if t.element_type is FLOAT]
        if _has(floats, faults.die_on_token):
            os.kill(os.getpid(), signal.SIGKILL)
        if _has(floats, faults.hang_on_token):
            hang(faults.hang_by)
        if _has(floats, faults.fail_on_token):
            raise RuntimeError(f"{faults.fail_on_token} is among the inputs")
        if _has(floats, NOT_TAKEN):
            raise ValueError(f"{NOT_TAKEN:g} is not taken")


class FakeAdder(FakeTensorSession):
    """`sum` is `a` plus `b`; `rows` tells how many rows were computed as one."""

    inputs = (_info("a", "batch", "width"), _info("b", "batch", "width"))
    outputs = (_info("sum", "batch", "width"), _info("rows", "batch"))

    def compute(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Both outputs."""
        a, b = inputs["a"].array, inputs["b"].array
        return {"sum": _float(a + b), "rows": _float(np.full(len(a), len(a)))}


class FakeStretcher(FakeTensorSession):
    """Doubles rows of several widths at once, `x` as `y`; `sum` is of each row; `rows` as FakeAdder's."""

    outputs = (_info("y", "batch", "width"), _info("sum", "batch"), _info("rows", "batch"))

    def __init__(self, model: FakeModel) -> None:
        fill, cut = Fill(input_name="x", dimension=1), Cut(output_name="y", dimension=1)
        if model.most_batch > 1:
            self.batching = Batching(
                paddings=(Padding(fills=(fill,), cuts=(cut,)),), preferred=(model.most_batch,), delay_s=0.002
            )
        super().__init__(model)

    def compute(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """All three."""
        x = inputs["x"].array
        return {"y": _float(2 * x), "sum": _float(x.sum(1)), "rows": _float(np.full(len(x), len(x)))}


class FakeAccumulator(FakeTensorSession):
    """`total` is the sum of all `x` of a sequence so far."""

    inputs = (_info("x", "batch", 2), _info("before", "batch", 2))
    outputs = (_info("total", "batch", 2), _info("after", "batch", 2))
    states = (TensorState(input_name="before", output_name="after", start_shape=(2,)),)

    def __init__(self, model: FakeModel) -> None:
        if model.most_batch == 1:  # then the state is whole, the first dimension with it
            self.states = (TensorState(input_name="before", output_name="after", start_shape=(1, 2)),)
        super().__init__(model)

    def compute(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The sum, twice."""
        total = _float(inputs["x"].array + inputs["before"].array)
        return {"total": total, "after": total}


class FakeRepeater(FakeTensorSession):
    """Gives `y`, the numbers from 0 on, one after the other."""

    inputs = (_info("count"),)
    outputs = (_info("y"),)

    def predict(self, inputs: Mapping[str, Tensor], outputs: Sequence[str]) -> Iterator[Mapping[str, Tensor]]:
        """As many sets as `count` says. The file's faults happen at each of them."""
        for number in range(int(inputs["count"].array)):
            given = _float(np.array(float(number)))
            self._fail({"y": given, **(inputs if number == 0 else {})})
            yield dict.fromkeys(outputs, given)


class FakeTypes(FakeTensorSession):
    """Takes a tensor of each type, `float` and so on, of any shape and each optional, and gives it back."""

    inputs = tuple(
        TensorInfo(name=kind.name.lower(), element_type=kind, shape=None, optional=True) for kind in ElementType
    )
    outputs = tuple(TensorInfo(name=kind.name.lower(), element_type=kind, shape=None) for kind in ElementType)

    def compute(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """What it was given, and nothing for the rest."""
        return {info.name: inputs.get(info.name, _nothing(info.element_type)) for info in self.outputs}


def _nothing(kind: ElementType) -> Tensor:
    return Tensor(element_type=kind, shape=(0,), array=np.empty(0, NUMPY.get(kind, "u1")))


KINDS: Final[Mapping[str, type[FakeTensorSession]]] = {
    "identity": FakeTensorSession,
    "add": FakeAdder,
    "stretch": FakeStretcher,
    "accumulate": FakeAccumulator,
    "repeat": FakeRepeater,
    "types": FakeTypes,
}
"""By the names that a `.fake` file says."""


def make_tensor_session(model: FakeModel) -> FakeTensorSession:
    """The session of a file that says `tensor`."""
    return KINDS[model.tensor](model)
