"""Any mix of shapes gives for each request exactly what it gives alone."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest
from amounts import examples
from hypothesis import given, settings
from hypothesis import strategies as st
from tensor_sessions import DESCRIPTION, floats, info

from inferd.engine.tensor.loop import TensorLoop
from inferd.engine.tensor.request import Request, TensorLimits, TensorResult
from inferd.plugin import Batching, Cut, Fill, LoadedTensorModel, Padding, Signature, Tensor

NOT_TAKEN = -7.0
PADDINGS = (
    Padding(
        fills=(Fill(input_name="x", dimension=1, value=0), Fill(input_name="z", dimension=1, value=-1000)),
        cuts=(Cut(output_name="product", dimension=2), Cut(output_name="double", dimension=1)),
    ),
    Padding(fills=(Fill(input_name="x", dimension=2),), cuts=(Cut(output_name="double", dimension=2),)),
)


class Reducing:
    """Elements twice as large, their sum, the largest of a column, and the last size's products: all by rows."""

    def __init__(self, **batching: Any) -> None:
        self.calls = 0
        outputs = (info("double", "b", "w", "h"), info("sum", "b"), info("most", "b"), info("product", "b", 2, "w"))
        self.signature = Signature(
            inputs=(info("x", "b", "w", "h"), info("z", "b", "w")),
            outputs=outputs,
            most_batch=6,
            batching=Batching(paddings=PADDINGS, **batching),
        )

    def predict(self, inputs: Mapping[str, Tensor], outputs: Sequence[str]) -> Mapping[str, Tensor]:
        self.calls += 1
        x, z = inputs["x"].array, inputs["z"].array
        if NOT_TAKEN in x:
            raise ValueError("not taken")
        given = {
            "double": 2 * x,
            "sum": x.sum((1, 2)),
            "most": z.max(1, initial=-1000),
            "product": np.stack([z, 3 * z], 1),
        }
        return {name: floats(given[name]) for name in outputs}

    def close(self) -> None: ...


def compute(requests: Sequence[Request], session: Reducing, *, at_once: bool) -> dict[int, Any]:
    """What each is told: its outputs, or the class of its error."""
    told: dict[int, Any] = {}

    def tell(result: TensorResult) -> None:
        for handle, outputs in result.outputs:
            told[handle] = {name: (each.shape, each.array.tolist()) for name, each in outputs.items()}
        for ended in result.ended:
            if ended.error is not None:
                told[ended.handle] = type(ended.error)
        if result.ended and len(told) == expected:
            loop.stop()

    loop = TensorLoop(LoadedTensorModel(session=session, description=DESCRIPTION), TensorLimits(), tell)
    expected = 0
    for some in [requests] if at_once else [[each] for each in requests]:
        expected += len(some)
        loop = TensorLoop(LoadedTensorModel(session=session, description=DESCRIPTION), TensorLimits(), tell)
        for each in some:
            loop.submit(each)
        loop.run()
    return told


@st.composite
def requests(draw: st.DrawFn) -> list[Request]:
    """Some of all sizes, none too; some ask for a few outputs, some are not taken."""
    made = []
    for handle in range(1, draw(st.integers(2, 12)) + 1):
        rows, width, height = draw(st.integers(1, 4)), draw(st.integers(0, 5)), draw(st.integers(0, 3))
        random = np.random.default_rng(draw(st.integers(0, 1 << 32)))
        x = random.integers(1, 50, (rows, width, height))
        if x.size and draw(st.booleans()) and draw(st.booleans()):
            x.flat[0] = NOT_TAKEN
        z = random.integers(-900, 900, (rows, width))
        wanted = draw(st.sampled_from([(), (), ("double",), ("sum", "product")]))
        made.append(Request(handle=handle, inputs={"x": floats(x), "z": floats(z)}, outputs=wanted))
    return made


@pytest.mark.timeout(120)
@settings(deadline=None, max_examples=examples(50))
@given(requests=requests(), times=st.sampled_from([1.0, 2.0, 1000.0]), preferred=st.sampled_from([(), (2, 4)]))
def test_any_mix_of_shapes(requests: list[Request], times: float, preferred: tuple[int, ...]) -> None:
    """Whatever is filled up beside what, each request is told exactly what it is told alone, errors too."""
    together = compute(requests, Reducing(filled_times=times, preferred=preferred), at_once=True)
    assert together == compute(requests, Reducing(), at_once=False)


def test_all_of_them_are_one_call() -> None:
    """Six requests of six shapes are one call of a session whose rules permit it."""
    session = Reducing(filled_times=1000.0)
    shapes = [(1, 1), (5, 3), (2, 2), (4, 1), (3, 3), (1, 3)]
    made = [
        Request(handle=n, inputs={"x": floats(np.ones((1, *shape))), "z": floats(np.ones((1, shape[0])))})
        for n, shape in enumerate(shapes, start=1)
    ]
    told = compute(made, session, at_once=True)
    assert session.calls == 1
    assert [each["sum"][1] for each in told.values()] == [[float(w * h)] for w, h in shapes]
