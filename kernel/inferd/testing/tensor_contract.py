"""The acceptance suite of backends for models of tensors, for pytest; used as `inferd.testing.contract`."""

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, ClassVar

import numpy as np
import pytest

from inferd.engine.tensor.checks import check_inputs, check_outputs
from inferd.engine.tensor.entry import Entry
from inferd.engine.tensor.filling import Filling
from inferd.engine.tensor.request import Request
from inferd.plugin import Backend, ElementType, LoadedTensorModel, LoadRequest, Tensor, TensorSession
from inferd.plugin.checks import check_tensor_model
from inferd.plugin.tensor import BITS, NUMPY, size_bytes
from inferd.testing.growth import ROUND, STEADY_BYTES, measure_repeats
from inferd.testing.loading_contract import LoadingContract, expect

SEED = 2011
FREE = 3  # the size of a dimension that is free
MOST_JOINED = 4  # requests that are computed as one here
ROUNDS = 4  # calls at once, in each thread

Inputs = Mapping[str, Tensor]


class TensorContract(LoadingContract):
    """What every backend with tensor sessions must do.

    Override the fixture `inputs` where a model does not take any numbers: it gives the inputs of three requests, with
    different contents, of equal shapes where the model batches, one row each.

    Attributes:
        tolerance: Largest difference between outputs that are computed in two ways, relative and absolute.
    """

    tolerance: ClassVar[float] = 1e-4

    @pytest.fixture(scope="class")
    @classmethod
    def session(cls, model: LoadedTensorModel) -> TensorSession:
        """The session of the loaded model."""
        return check_tensor_model(model).session

    @pytest.fixture(scope="class")
    @classmethod
    def inputs(cls, session: TensorSession) -> list[Inputs]:
        """The inputs of three requests."""
        return [random_inputs(session, seed) for seed in range(SEED, SEED + 3)]

    def test_signature_is_fixed(self, session: TensorSession, inputs: list[Inputs]) -> None:
        """The signature is the same when it is asked for again, and takes the inputs of these tests."""
        signature = session.signature
        expect(session.signature == signature, "TensorSession.signature gives another one when it is asked again")
        for each in inputs:
            check_inputs(each, signature, carried=frozenset())

    def test_outputs_are_those_of_the_signature(self, session: TensorSession, inputs: list[Inputs]) -> None:
        """Every output has the type, the dimensions and the fixed sizes that the signature says."""
        for each in inputs:
            for name, tensor in self._predict(session, each).items():
                info = next(info for info in session.signature.outputs if info.name == name)
                expect(
                    tensor.element_type is info.element_type,
                    f"output {name!r} is {tensor.element_type.name}; Signature says {info.element_type.name}",
                )
                wrong = info.shape is not None and (
                    len(info.shape) != len(tensor.shape)
                    or any(isinstance(w, int) and w != h for w, h in zip(info.shape, tensor.shape, strict=True))
                )
                expect(not wrong, f"output {name!r} has shape {tensor.shape}; Signature says {info.shape}")

    def test_only_wanted_outputs(self, session: TensorSession, inputs: list[Inputs]) -> None:
        """An output that is asked for alone is what it is among all."""
        whole = self._predict(session, inputs[0])
        for name, tensor in whole.items():
            self._same({name: tensor}, self._predict(session, inputs[0], [name]))

    def test_same_inputs_same_outputs(self, session: TensorSession, inputs: list[Inputs]) -> None:
        """A request gives the same whatever was computed before it."""
        first = self._predict(session, inputs[0])
        self._predict(session, inputs[1])
        self._same(first, self._predict(session, inputs[0]))

    def test_outputs_are_not_written_to_again(self, session: TensorSession, inputs: list[Inputs]) -> None:
        """What a call gave stays as it is when others follow: the engine keeps it as the state of a sequence."""
        given = self._predict(session, inputs[0])
        kept = {name: tensor.array.copy() for name, tensor in given.items()}
        for each in inputs[1:]:
            self._predict(session, each)
        for name, array in kept.items():
            expect(np.array_equal(array, given[name].array, equal_nan=array.dtype.kind in "fc"), f"{name} was changed")

    def test_batch_equals_single_runs(self, session: TensorSession, inputs: list[Inputs]) -> None:
        """Requests that are joined along their first dimension give the rows that each gives alone."""
        count = min(session.signature.most_batch, MOST_JOINED)
        if count == 1:
            pytest.skip("the model does not batch")
        some = [inputs[n % len(inputs)] for n in range(count)]
        joined = {}
        for name, first in some[0].items():
            array = np.concatenate([each[name].array for each in some])
            joined[name] = Tensor(element_type=first.element_type, shape=array.shape, array=_frozen(array))
        rows = [next(iter(each.values())).shape[0] for each in some]
        together = self._predict(session, joined, rows=sum(rows))
        begin = 0
        for each, size in zip(some, rows, strict=True):
            parts = {name: _rows(tensor, begin, begin + size) for name, tensor in together.items()}
            self._same(parts, self._predict(session, each))
            begin += size

    def test_what_is_filled_up_equals_single_runs(self, session: TensorSession, inputs: list[Inputs]) -> None:
        """A shorter request, filled up by the session's rules beside a longer one, gives what it gives alone."""
        if not session.signature.batching.paddings:
            pytest.skip("nothing of the model is filled up")
        filling = Filling(session.signature)
        entries = [_entry(_shorten(inputs[0], session), session), _entry(inputs[1], session)]
        for entry in entries:
            filling.measure(entry)
        expect(entries[0].key == entries[1].key, "the inputs of these tests differ in more than may be filled up")
        together = self._predict(session, filling.join(entries), rows=sum(entry.rows for entry in entries))
        for entry, part in zip(entries, filling.split(together, entries), strict=True):
            self._same(part, self._predict(session, entry.inputs))

    def test_threads_do_not_disturb_each_other(self, session: TensorSession, inputs: list[Inputs]) -> None:
        """As many calls at once as the signature permits give each what it gives alone."""
        threads = session.signature.threads
        if threads == 1:
            pytest.skip("the session is called from one thread")
        alone = [self._predict(session, each) for each in inputs]
        with ThreadPoolExecutor(threads) as pool:
            for _ in range(ROUNDS):
                places = [n % len(inputs) for n in range(threads)]
                given = pool.map(lambda place: self._predict(session, inputs[place]), places)
                for place, outputs in zip(places, given, strict=True):
                    self._same(alone[place], outputs)

    def test_calls_do_not_add_up_in_memory(self, session: TensorSession, inputs: list[Inputs]) -> None:
        """The same call, over and over, does not make the process larger and larger."""

        def repeat() -> None:
            self._predict(session, inputs[0])

        grown = measure_repeats(repeat)
        expect(
            sorted(grown)[len(grown) // 2] < STEADY_BYTES,
            f"the process grew by {grown} bytes in {len(grown)} rounds of at most {ROUND} equal calls of "
            "TensorSession.predict; what a call takes has to be given back or used again",
        )

    def test_load_and_close_again(self, backend: Backend, load_request: LoadRequest, inputs: list[Inputs]) -> None:
        """A second session can be loaded, computes, and is closed without a word."""
        session = check_tensor_model(backend.load(load_request, lambda _: None)).session
        self._predict(session, inputs[0])
        session.close()

    def _predict(
        self, session: TensorSession, inputs: Inputs, outputs: list[str] | None = None, *, rows: int | None = None
    ) -> dict[str, Tensor]:
        """All outputs, or some; of a model that gives several sets the first one."""
        wanted = outputs or [info.name for info in session.signature.outputs]
        given = session.predict(inputs, wanted)
        if not isinstance(given, Mapping):
            sets = iter(given)
            given = next(sets)
            if callable(close := getattr(sets, "close", None)):
                close()
        return check_outputs(given, wanted, rows, signature=session.signature)

    def _same(self, one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> None:
        for name, tensor in one.items():
            _compare(name, tensor, other[name], self.tolerance)


def _compare(name: str, one: Tensor, other: Tensor, tolerance: float) -> None:
    expect(one.shape == other.shape, f"TensorSession.predict gave output {name!r} of {one.shape} and of {other.shape}")
    if one.array.dtype.kind in "fc":
        message = f"TensorSession.predict gave other numbers as output {name!r}"
        np.testing.assert_allclose(one.array, other.array, rtol=tolerance, atol=tolerance, err_msg=message)
    else:
        same = bool((one.array == other.array).all())
        expect(same, f"TensorSession.predict gave other elements as output {name!r}")


def _shorten(inputs: Inputs, session: TensorSession) -> dict[str, Tensor]:
    """Inputs with one element less in every dimension that is filled up, if they have several."""
    shorter = dict(inputs)
    for padding in session.signature.batching.paddings:
        for fill in padding.fills:
            if (tensor := shorter.get(fill.input_name)) is not None:
                size = max(1, tensor.shape[fill.dimension] - 1)
                array = _frozen(tensor.array.take(range(size), axis=fill.dimension))
                shorter[fill.input_name] = Tensor(element_type=tensor.element_type, shape=array.shape, array=array)
    return shorter


def _entry(inputs: Inputs, session: TensorSession) -> Entry:
    names = tuple(info.name for info in session.signature.outputs)
    return Entry(request=Request(handle=1, inputs=inputs), wanted=names, asked=names, arrived=0.0, inputs=dict(inputs))


def _rows(tensor: Tensor, begin: int, end: int) -> Tensor:
    array = tensor.array[begin:end]
    return Tensor(element_type=tensor.element_type, shape=array.shape, array=array)


def _frozen(array: Any) -> Any:
    """As the engine gives it: not to be written to."""
    array.setflags(write=False)
    return array


def random_inputs(session: TensorSession, seed: int) -> dict[str, Tensor]:
    """Numbers around 0 for every input that must be given; free dimensions have size 3, and the batch's has 1."""
    generator = np.random.default_rng(seed)
    batches = session.signature.most_batch > 1
    made = {}
    for info in session.signature.inputs:
        if info.optional:
            continue
        shape = [size if isinstance(size, int) else FREE for size in info.shape or ()]
        if batches and shape:
            shape[0] = 1
        made[info.name] = _random(generator, info.element_type, tuple(shape))
    return made


def _random(generator: np.random.Generator, kind: ElementType, shape: tuple[int, ...]) -> Tensor:
    dtype = np.dtype(NUMPY.get(kind, "u1"))
    packed = kind in BITS and BITS[kind] < 8  # noqa: PLR2004 - bits of a byte
    if kind is ElementType.STRING:
        array = np.array([f"text {n}" for n in generator.integers(9, size=int(np.prod(shape)))], object).reshape(shape)
    elif dtype.kind in "fc":
        array = generator.normal(size=shape).astype(dtype)
    else:
        array = generator.integers(2, size=(size_bytes(kind, shape),) if packed else shape).astype(dtype)
    return Tensor(element_type=kind, shape=shape, array=_frozen(np.asarray(array)))
