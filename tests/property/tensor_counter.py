"""A session with a state, for tests of sequences."""

from collections.abc import Mapping, Sequence
from typing import Any

from tensor_sessions import DEADLINE_S, Session, failing, floats, info

from inferd.core.ids import Tenant
from inferd.engine.tensor.request import SequenceStep
from inferd.plugin import Tensor, TensorState

STATEFUL: dict[str, Any] = {
    "inputs": (info("x", "b", 1), info("s", "b", 1)),
    "outputs": (info("y", "b", 1), info("t", "b", 1)),
    "states": (TensorState(input_name="s", output_name="t", start_shape=(1,)),),
}


class Counter(Session):
    """Adds `x` to its state."""

    def __init__(self, **signature: Any) -> None:
        super().__init__(**{**STATEFUL, **signature})

    def predict(self, inputs: Mapping[str, Tensor], outputs: Sequence[str]) -> Any:
        self.calls.append(inputs["x"].array.ravel().tolist())
        self.came.release()
        assert self.gate.acquire(timeout=DEADLINE_S)
        total = floats(failing(inputs["x"].array) / 2 + inputs["s"].array)
        return dict.fromkeys(outputs, total)


def step(name: str = "a", tenant: str = "t", **more: bool) -> SequenceStep:
    return SequenceStep(tenant=Tenant(tenant), name=name, **more)
