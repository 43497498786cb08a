"""Sessions of tensors for tests of the engine: their calls wait at a gate, and what a loop tells is kept."""

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from inferd.engine.tensor.entry import Entry
from inferd.engine.tensor.loop import TensorLoop
from inferd.engine.tensor.request import Request, TensorLimits, TensorResult
from inferd.plugin import ElementType, LoadedTensorModel, ModelDescription, Signature, Tensor, TensorInfo

DEADLINE_S = 60.0
FLOAT = ElementType.FLOAT
DESCRIPTION = ModelDescription(architecture="t", parameters=0, weight_format="", compute_format="")


def info(name: str, *shape: int | str) -> TensorInfo:
    return TensorInfo(name=name, element_type=FLOAT, shape=shape)


def floats(array: Any) -> Tensor:
    array = np.asarray(array, np.float32)
    return Tensor(element_type=FLOAT, shape=array.shape, array=array)


def request(handle: int, rows: Any = 1.0, **more: Any) -> Request:
    """One row of a number, or rows."""
    return Request(handle=handle, inputs={"x": floats([[rows]] if isinstance(rows, float) else rows)}, **more)


class Session:
    """Doubles `x`; its calls wait at a gate, and are kept."""

    def __init__(self, *, compute: Callable[[Any], Any] = lambda x: 2 * x, **signature: Any) -> None:
        self.signature = Signature(
            **{"inputs": (info("x", "b", "w"),), "outputs": (info("y", "b", "w"),), "most_batch": 8, **signature}
        )
        self.calls: list[list[float]] = []
        self.came = threading.Semaphore(0)
        self.gate = threading.Semaphore(0)
        self._compute = compute

    def predict(self, inputs: Mapping[str, Tensor], outputs: Sequence[str]) -> Any:
        self.calls.append(inputs["x"].array.ravel().tolist())
        self.came.release()
        assert self.gate.acquire(timeout=DEADLINE_S)
        given = self._compute(inputs["x"].array)
        return given if not isinstance(given, np.ndarray) else {name: floats(given) for name in outputs}

    def close(self) -> None: ...

    def wait(self) -> list[float]:
        """What the next call is given."""
        assert self.came.acquire(timeout=DEADLINE_S)
        return self.calls[-1]


class Told:
    """What a loop tells."""

    def __init__(self) -> None:
        self.results: list[TensorResult] = []
        self._changed = threading.Condition()

    def __call__(self, result: TensorResult) -> None:
        with self._changed:
            self.results.append(result)
            self._changed.notify_all()

    def outputs(self) -> dict[int, list[Any]]:
        told: dict[int, list[Any]] = {}
        for result in self.results:
            for handle, outputs in result.outputs:
                told.setdefault(handle, []).append(next(iter(outputs.values())).array.tolist())
        return told

    def ended(self) -> dict[int, type | None]:
        return {e.handle: e.error and type(e.error) for result in self.results for e in result.ended}

    def until(self, *handles: int) -> dict[int, type | None]:
        """How these ended, once they have."""
        with self._changed:
            assert self._changed.wait_for(lambda: set(handles) <= set(self.ended()), DEADLINE_S)
        return self.ended()


@contextmanager
def running(session: Any, **limits: Any) -> Iterator[tuple[TensorLoop, Told]]:
    """A loop of a session."""
    told = Told()
    loop = TensorLoop(LoadedTensorModel(session=session, description=DESCRIPTION), TensorLimits(**limits), told)
    thread = threading.Thread(target=loop.run, daemon=True)
    thread.start()
    try:
        yield loop, told
    finally:
        loop.stop()
        session.gate.release(1000)
        thread.join(DEADLINE_S)
        assert not thread.is_alive()


def entry(handle: int, arrived: float = 0.0, rows: Any = 1.0, **more: Any) -> Entry:
    made = request(handle, rows, **more)
    return Entry(request=made, wanted=("y",), asked=("y",), arrived=arrived, inputs=dict(made.inputs))


def failing(x: Any) -> Any:
    if 13 in x:
        raise RuntimeError("unlucky")
    if 7 in x:
        raise ValueError("not taken")
    return 2 * x
