"""The fake models of tensors pass the suite for them; what a session does wrong fails it."""

from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import numpy as np
import pytest

from inferd.plugin import Backend, Batching, Cut, Fill, LoadRequest, Padding, Signature, Tensor, TensorInfo
from inferd.plugin.tensor import ElementType
from inferd.testing.fake import FakeBackend
from inferd.testing.kernel import write_fake_model
from inferd.testing.tensor_contract import TensorContract, random_inputs


class OfFake(TensorContract):
    """A model of the fake backend."""

    behaviour: ClassVar[Mapping[str, Any]]

    @pytest.fixture(scope="class")
    @classmethod
    def backend(cls) -> Backend:
        """The backend."""
        return FakeBackend()

    @pytest.fixture(scope="class")
    @classmethod
    def load_request(cls, tmp_path_factory: pytest.TempPathFactory) -> LoadRequest:
        """The model."""
        path = write_fake_model(tmp_path_factory.mktemp("model"), **cls.behaviour)
        return LoadRequest(path=path, device="fake:0", capacity_bytes=1 << 30)


class TestAdd(OfFake):
    """One that batches, in two threads."""

    behaviour: ClassVar = {"tensor": "add", "most_batch": 8, "threads": 2}

    def test_only_wanted_outputs(self, session: Any, inputs: Any) -> None:
        """Its output `rows` is for tests of batches and tells how many rows there were, so `sum` alone is looked at."""
        alone = session.predict(inputs[0], ["sum"])
        self._same(alone, session.predict(inputs[0], ["sum", "rows"]))

    def test_batch_equals_single_runs(self, session: Any, inputs: Any) -> None:
        """As above."""
        joined = {
            name: Tensor(element_type=ElementType.FLOAT, shape=(3, 3), array=np.concatenate(arrays))
            for name, arrays in ((n, [each[n].array for each in inputs]) for n in ("a", "b"))
        }
        given = session.predict(joined, ["sum"])["sum"].array
        assert np.array_equal(given, np.concatenate([each["a"].array + each["b"].array for each in inputs]))


class TestIdentity(OfFake):
    """One that batches."""

    behaviour: ClassVar = {"tensor": "identity", "most_batch": 4, "threads": 2}


class TestStretch(OfFake):
    """One that takes rows of several widths at once."""

    behaviour: ClassVar = {"tensor": "stretch", "most_batch": 4}

    def test_only_wanted_outputs(self, session: Any, inputs: Any) -> None:
        """As for TestAdd."""
        alone = session.predict(inputs[0], ["y", "sum"])
        self._same(alone, session.predict(inputs[0], ["y", "sum", "rows"]))

    def _same(self, one: Any, other: Any) -> None:
        """All outputs but `rows`, which tells how many there were."""
        super()._same({name: each for name, each in one.items() if name != "rows"}, other)


class TestAccumulate(OfFake):
    """One with state, which a request without a sequence gives itself."""

    behaviour: ClassVar = {"tensor": "accumulate"}


FILLED = Batching(
    paddings=(Padding(fills=(Fill(input_name="x", dimension=1),), cuts=(Cut(output_name="y", dimension=1),)),)
)


class Wrong:
    """A session that doubles, and does one thing wrong."""

    signature = Signature(
        inputs=(TensorInfo(name="x", element_type=ElementType.FLOAT, shape=("b", "w")),),
        outputs=(TensorInfo(name="y", element_type=ElementType.FLOAT, shape=("b", "w")),),
        most_batch=8,
        threads=2,
        batching=FILLED,
    )

    def __init__(self, compute: Callable[[Any], Any]) -> None:
        self._compute = compute

    def predict(self, inputs: Mapping[str, Tensor], _: Any) -> Any:
        array = self._compute(inputs["x"].array)
        return {"y": Tensor(element_type=ElementType.FLOAT, shape=array.shape, array=array)}

    def close(self) -> None: ...


BUFFER = np.zeros((8, 3), np.float32)
CALLS: list[Any] = []


def reuse(x: Any) -> Any:
    BUFFER[: len(x)] = 2 * x
    return BUFFER[: len(x)]


def keep(x: Any) -> Any:
    CALLS.append(bytearray(16 << 20))
    return 2 * x


@pytest.mark.parametrize(
    ("compute", "check"),
    [
        (reuse, "test_outputs_are_not_written_to_again"),
        (keep, "test_calls_do_not_add_up_in_memory"),
        (lambda x: 2 * x[::-1], "test_batch_equals_single_runs"),
        (lambda x: 2 * x[:1], "test_batch_equals_single_runs"),
        (lambda x: x / x.shape[1], "test_what_is_filled_up_equals_single_runs"),
        (lambda x: 2 * x[:, ::-1], "test_what_is_filled_up_equals_single_runs"),
        (lambda x: 2 * x[:, :1], "test_what_is_filled_up_equals_single_runs"),
        (lambda x: 2.0 * x.astype("f8"), "test_outputs_are_those_of_the_signature"),
        (lambda x: 2 * x[:, 0], "test_outputs_are_those_of_the_signature"),
        (lambda x: 2 * x + np.float32(len(CALLS) or CALLS.append(x) or 0), "test_same_inputs_same_outputs"),
    ],
)
def test_wrong_session_does_not_pass(compute: Callable[[Any], Any], check: str) -> None:
    """A session that does one thing wrong fails the check of that thing, which the right one passes."""
    CALLS.clear()
    right: Any = Wrong(lambda x: 2 * x)
    inputs = [random_inputs(right, seed) for seed in range(3)]
    getattr(TensorContract(), check)(right, inputs)
    with pytest.raises((AssertionError, TypeError, pytest.fail.Exception)):
        getattr(TensorContract(), check)(Wrong(compute), inputs)
    CALLS.clear()
