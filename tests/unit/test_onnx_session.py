"""The session of the onnx backend: every type of elements, shapes, batches, states, errors."""

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("onnxruntime", reason="onnxruntime is not installed: pip install 'inferd[onnx]'")

import onnx_models as models
from onnx import TensorProto, helper

from inferd.plugin import ElementType, LoadError, Tensor, TensorSession, TensorState, UnsupportedModelError
from inferd.plugin.tensor import BITS, NUMPY, size_bytes
from inferd_onnx.loading import make_options
from inferd_onnx.session import TEXT_CHARACTERS, OnnxSession

MISSING = {ElementType.COMPLEX64, ElementType.COMPLEX128, ElementType.FLOAT4E2M1, ElementType.FLOAT8E8M0}
"""What ONNX Runtime has no Identity for. (FLOAT8E8M0 it can cast from.)"""
SMALL = {each for each, bits in BITS.items() if bits < 8}
WHOLE = sorted(set(ElementType) - MISSING - SMALL - {ElementType.STRING})


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "model.onnx"


def random_tensor(kind: ElementType, shape: tuple[int, ...]) -> Tensor:
    """Any bits of a type; booleans are 0 and 1."""
    raw = np.random.default_rng(kind).integers(0, 256, size_bytes(kind, shape), dtype=np.uint8)
    raw = raw & 1 if kind is ElementType.BOOL else raw
    array = raw if BITS[kind] < 8 else raw.view(NUMPY.get(kind, "u1")).reshape(shape)
    return Tensor(element_type=kind, shape=shape, array=array)


@pytest.mark.parametrize("kind", WHOLE, ids=lambda kind: kind.name)
def test_elements_of_whole_bytes(path: Path, kind: ElementType) -> None:
    """What goes in as any bits of a type comes out as the same bits, of the same type and shape."""
    session = models.load(models.save_identity(path, int(kind), ("n", 3, 2))).session
    assert isinstance(session, TensorSession)
    assert [each.element_type for each in (*session.signature.inputs, *session.signature.outputs)] == [kind, kind]
    for shape in ((4, 3, 2), (1, 3, 2), (0, 3, 2)):
        given = random_tensor(kind, shape)
        found = session.predict({"x": given}, ["y"])["y"]
        assert (found.element_type, found.shape, found.array.shape) == (kind, shape, shape)
        assert found.array.dtype == np.dtype(NUMPY.get(kind, "u1"))
        assert found.array.tobytes() == given.array.tobytes()


@pytest.mark.parametrize("kind", sorted(SMALL - MISSING), ids=lambda kind: kind.name)
def test_elements_of_part_of_a_byte(path: Path, kind: ElementType) -> None:
    """Packed elements are read from the low bits on, and written so, also where the last byte is not full."""
    nodes = [
        helper.make_node("Cast", ["x"], ["wide"], to=TensorProto.INT8),
        helper.make_node("Cast", ["narrow"], ["y"], to=int(kind)),
    ]
    inputs = [models.value("x", int(kind), ["n", 3]), models.value("narrow", TensorProto.INT8, ["n", 3])]
    outputs = [models.value("wide", TensorProto.INT8, ["n", 3]), models.value("y", int(kind), ["n", 3])]
    session = models.load(models.save(path, nodes, inputs, outputs)).session
    bits, signed = BITS[kind], kind in (ElementType.INT4, ElementType.INT2)
    numbers = np.arange(9) % (1 << bits)
    packed = np.packbits(np.unpackbits(numbers.astype(np.uint8)[:, None], 1, bits, "little"), bitorder="little")
    plain = np.where(numbers >> (bits - 1), numbers - (1 << bits), numbers) if signed else numbers
    given = {
        "x": Tensor(element_type=kind, shape=(3, 3), array=packed),
        "narrow": models.tensor(plain.reshape(3, 3), ElementType.INT8),
    }
    found = session.predict(given, ["wide", "y"])
    assert found["wide"].array.tolist() == plain.reshape(3, 3).tolist()
    assert (found["y"].shape, found["y"].array.dtype) == ((3, 3), np.uint8)
    assert found["y"].array.tolist() == packed.tolist()
    assert session.signature.most_batch == 1
    with pytest.raises(LoadError, match=r"'max_batch' is 2, .*whose rows do not begin at bytes"):
        models.load(path, max_batch="2")
    with pytest.raises(ValueError, match=r"input 'x' has 1 bytes; its shape \(3, 3\) takes"):
        session.predict({**given, "x": Tensor(element_type=kind, shape=(3, 3), array=packed[:1])}, ["y"])


@pytest.mark.parametrize("kind", sorted(MISSING), ids=lambda kind: kind.name)
def test_elements_that_the_runtime_lacks(path: Path, kind: ElementType) -> None:
    """A graph with a type that the runtime does not compute is refused at the load, with the type in its words."""
    models.save_identity(path, int(kind))
    with pytest.raises(LoadError, match=f"{path}: .*(?i:{kind.name}|Identity)"):
        models.load(path)


def test_a_type_that_only_some_operators_have(path: Path) -> None:
    """Exponents in eight bits can be an input: what the runtime casts them to is a power of two."""
    node = helper.make_node("Cast", ["x"], ["y"], to=TensorProto.FLOAT)
    inputs, outputs = [models.value("x", 24, ["n"])], [models.value("y", TensorProto.FLOAT, ["n"])]
    session = models.load(models.save(path, [node], inputs, outputs)).session
    given = models.tensor([127, 128, 126], ElementType.FLOAT8E8M0)
    assert session.predict({"x": given}, ["y"])["y"].array.tolist() == [1.0, 2.0, 0.5]


def test_texts(path: Path) -> None:
    """Texts of any length and script, with zeros in them, come out as they went in; what is no text is refused."""
    session = models.load(models.save_identity(path, TensorProto.STRING, ["n", 2])).session
    texts = [["", "a\0b"], ["zwölf 🗼", "x" * 100_000]]
    found = session.predict({"x": models.tensor(texts, ElementType.STRING)}, ["y"])["y"]
    assert (found.element_type, found.array.tolist()) == (ElementType.STRING, texts)
    assert session.predict({"x": models.tensor(np.empty((0, 2)), ElementType.STRING)}, ["y"])["y"].shape == (0, 2)
    with pytest.raises(ValueError, match="'x' holds a int; it must hold texts"):
        session.predict({"x": models.tensor([["a", 3]], ElementType.STRING)}, ["y"])
    with pytest.raises(ValueError, match="'x' holds a text that is not Unicode: surrogates not allowed"):
        session.predict({"x": models.tensor([["a", "\ud800"]], ElementType.STRING)}, ["y"])


def test_texts_beside_other_types(path: Path) -> None:
    """Texts, and numbers of types that numpy lacks, go through the same model, whichever outputs are asked for."""
    nodes = [helper.make_node("Identity", [f"{name}_in"], [name]) for name in ("text", "number")]
    kinds = {"text": TensorProto.STRING, "number": TensorProto.BFLOAT16}
    inputs = [models.value(f"{name}_in", kind, ["n", 2]) for name, kind in kinds.items()]
    outputs = [models.value(name, kind, ["n", 2]) for name, kind in kinds.items()]
    session = models.load(models.save(path, nodes, inputs, outputs)).session
    for texts in ([["", "zwölf 🗼"], ["a\0b", "x" * 1000]], np.empty((0, 2))):
        text = models.tensor(texts, ElementType.STRING)
        number = random_tensor(ElementType.BFLOAT16, text.shape)
        for wanted in (["text"], ["number"], ["text", "number"]):
            found = session.predict({"text_in": text, "number_in": number}, wanted)
            assert list(found) == wanted
            assert all(each.shape == text.shape for each in found.values())
            assert "text" not in found or found["text"].array.tolist() == text.array.tolist()
            assert "number" not in found or found["number"].array.tobytes() == number.array.tobytes()
    with pytest.raises(ValueError, match="'text_in' holds a float; it must hold texts"):
        session.predict({"text_in": models.tensor([[0.5, "a"]], ElementType.STRING), "number_in": number}, ["number"])


def test_bound_values(path: Path) -> None:
    """As on CUDA, where inputs and outputs are bound: the same outputs of every type, texts too."""
    nodes = [helper.make_node("Identity", [f"{name}_in"], [name]) for name in ("text", "small", "plain")]
    kinds = {"text": ElementType.STRING, "small": ElementType.FLOAT8E5M2, "plain": ElementType.INT64}
    inputs = [models.value(f"{name}_in", int(kind), ["n"]) for name, kind in kinds.items()]
    outputs = [models.value(name, int(kind), ["n"]) for name, kind in kinds.items()]
    free = models.load(models.save(path, nodes, inputs, outputs)).session
    assert isinstance(free, OnnxSession)
    bound = OnnxSession(free._session, free.signature, binds=True, profiles=False)
    given = {
        "text_in": models.tensor(["a", "b"], ElementType.STRING),
        "small_in": random_tensor(ElementType.FLOAT8E5M2, (2,)),
        "plain_in": models.tensor([1, 2], ElementType.INT64),
    }
    for wanted in (["plain"], ["text"], ["small", "plain"], ["plain", "text", "small"]):
        one, other = free.predict(given, wanted), bound.predict(given, wanted)
        assert {name: each.array.tolist() for name, each in one.items()} == {
            name: each.array.tolist() for name, each in other.items()
        }
    with pytest.raises(ValueError, match="Invalid rank for input: plain_in"):
        bound.predict({**given, "plain_in": models.tensor([[1, 2]], ElementType.INT64)}, ["plain"])


def test_layouts(path: Path) -> None:
    """Arrays that are turned, read-only or begin at an odd address are computed as what they say."""
    session = models.load(models.save_identity(path, shape=["n", "m"])).session
    numbers = np.arange(6, dtype=np.float32).reshape(2, 3)
    odd = np.frombuffer(b"\0" + numbers.tobytes(), dtype=np.uint8)[1:].view("<f4").reshape(2, 3)
    for array in (numbers, np.asfortranarray(numbers), odd, numbers[:, ::-1][:, ::-1]):
        given = Tensor(element_type=ElementType.FLOAT, shape=(2, 3), array=array)
        assert session.predict({"x": given}, ["y"])["y"].array.tolist() == numbers.tolist()


def test_shapes_of_the_signature(path: Path) -> None:
    """Numbers, names and sizes without a name are told apart, and a scalar from what has no known rank."""
    shapes = {"a": ["batch", None, 3], "b": [], "c": None}
    inputs = [models.value(name, TensorProto.FLOAT, shape) for name, shape in shapes.items()]
    outputs = [models.value(f"{name}_out", TensorProto.FLOAT, shape) for name, shape in shapes.items()]
    nodes = [helper.make_node("Identity", [name], [f"{name}_out"]) for name in shapes]
    model = models.load(models.save(path, nodes, inputs, outputs))
    told = {each.name: each.shape for each in (*model.session.signature.inputs, *model.session.signature.outputs)}
    assert (told["a"], told["b"], told["c"]) == (("batch", "", 3), (), None)
    assert (told["a_out"], told["b_out"], told["c_out"]) == (("batch", "", 3), (), None)
    given = {"a": models.tensor(np.zeros((1, 2, 3))), "b": models.tensor(5.0), "c": models.tensor(np.ones((1, 1, 1)))}
    found = model.session.predict(given, ["b_out", "c_out"])
    assert {name: each.shape for name, each in found.items()} == {"b_out": (), "c_out": (1, 1, 1)}
    assert model.session.predict(given, []) == {}


def test_inputs_that_may_be_left_out(path: Path) -> None:
    """An input with a value of the model's own may be given or not; one of an optional type, too."""
    inner = helper.make_tensor_type_proto(TensorProto.FLOAT, ["n"])
    inputs = [
        models.value("x", TensorProto.FLOAT, ["n"]),
        helper.make_value_info("may", helper.make_optional_type_proto(inner)),
        models.value("weight", TensorProto.FLOAT, [1]),
    ]
    nodes = [helper.make_node("Add", ["x", "weight"], ["y"]), helper.make_node("OptionalHasElement", ["may"], ["has"])]
    outputs = [models.value("y", TensorProto.FLOAT, ["n"]), models.value("has", TensorProto.BOOL, [])]
    weight = helper.make_tensor("weight", TensorProto.FLOAT, [1], [0.5])
    session = models.load(models.save(path, nodes, inputs, outputs, [weight])).session
    assert {each.name: each.optional for each in session.signature.inputs} == {"x": False, "may": True, "weight": True}
    x, other = models.tensor([1.0, 2.0]), models.tensor([8.0])
    without = session.predict({"x": x}, ["y", "has"])
    assert (without["y"].array.tolist(), without["has"].array.tolist()) == ([1.5, 2.5], False)
    having = session.predict({"x": x, "may": x, "weight": other}, ["y", "has"])
    assert (having["y"].array.tolist(), having["has"].array.tolist()) == ([9.0, 10.0], True)
    closed = models.load(path, optional_inputs="false").session.signature
    assert [each.name for each in closed.inputs] == ["x", "may"]


def test_sequences_and_maps_are_refused(path: Path) -> None:
    """What is no tensor cannot be sent: the load says which input or output it is, and its type."""
    numbers = helper.make_tensor_type_proto(TensorProto.FLOAT, ["n"])
    several = helper.make_value_info("several", helper.make_sequence_type_proto(numbers))
    count, x = models.value("count", TensorProto.INT64, []), models.value("x", TensorProto.FLOAT, ["n"])
    models.save(path, [helper.make_node("SequenceLength", ["several"], ["count"])], [several], [count])
    with pytest.raises(UnsupportedModelError, match=rf"{path}: input 'several' is of type seq\(tensor\(float\)\)"):
        models.load(path)
    models.save(path, [helper.make_node("SequenceConstruct", ["x"], ["several"])], [x], [several])
    with pytest.raises(UnsupportedModelError, match="output 'several' is of type seq"):
        models.load(path)


@pytest.mark.parametrize(
    ("given", "taken", "most"),
    [
        (["batch", 4], ["batch", 4], 64),
        (["N", 4], ["N", 4], 64),
        ([None, 4], [None, 4], 64),
        (["unk__3", 4], ["unk__4", 4], 64),
        (["DynamicDimension.0", "w"], ["DynamicDimension.0", "w"], 64),
        (["batch"], ["batch"], 64),
        ([None], [None], 1),
        (["frames", 4], ["frames", 4], 1),
        (["batch", "batch"], ["batch", "batch"], 1),
        ([1, 4], [1, 4], 1),
        ([], [], 1),
        (None, None, 1),
        (["batch", 4], ["rows", 4], 1),
    ],
)
def test_what_batches(path: Path, given: list[int | str] | None, taken: list[int | str] | None, most: int) -> None:
    """A first size that is free, the same one everywhere and named like a batch or not at all is one; no other is."""
    node = helper.make_node("Identity", ["x"], ["y"])
    inputs, outputs = [models.value("x", 1, given)], [models.value("y", 1, taken)]
    models.save(path, [node], inputs, outputs)
    assert models.load(path).session.signature.most_batch == most


def test_how_batches_are_set(path: Path) -> None:
    """The setting bounds a batch, switches it off, or says that another name is one; not where the size is fixed."""
    models.save_identity(path, shape=["frames", 2])
    assert [models.load(path, max_batch=text).session.signature.most_batch for text in ("1", "7")] == [1, 7]
    models.save_identity(path, shape=[3, 2])
    assert models.load(path, max_batch="1").session.signature.most_batch == 1
    with pytest.raises(LoadError, match=r"'max_batch' is 8, .* 'x' has the shape \(3, 2\); leave the setting out"):
        models.load(path, max_batch="8")


def save_counter(path: Path, shape: list[int | str | None]) -> Path:
    """A model that adds its input to its state."""
    nodes = [helper.make_node("Add", ["x", "sum"], ["next"]), helper.make_node("Identity", ["next"], ["y"])]
    inputs, outputs = ([models.value(name, 1, shape) for name in names] for names in (("x", "sum"), ("y", "next")))
    return models.save(path, nodes, inputs, outputs)


def test_states(path: Path) -> None:
    """The setting tells which output is which input of the next request, and where it starts."""
    save_counter(path, ["batch", 2, "width"])
    model = models.load(path, states="sum=next")
    state = TensorState(input_name="sum", output_name="next", start_shape=(2, 1))
    assert (model.session.signature.states, model.session.signature.most_batch) == ((state,), 64)
    unbatched = models.load(path, states=" sum=next:1x2x5 ", max_batch="1").session.signature
    assert unbatched.states == (TensorState(input_name="sum", output_name="next", start_shape=(1, 2, 5)),)
    x, total = models.tensor(np.ones((1, 2, 3))), models.tensor(np.zeros((1, 2, 3)))
    for _ in range(3):
        total = model.session.predict({"x": x, "sum": total}, ["next"])["next"]
    assert total.array.tolist() == np.full((1, 2, 3), 3.0).tolist()


@pytest.mark.parametrize(
    ("states", "why"),
    [
        ("sum", "'states' has 'sum'; it must be INPUT=OUTPUT"),
        ("total=next", "has 'total=next'; .* an input of x, sum and an output of y, next"),
        ("sum=next,x=z", "has 'x=z'"),
        ("sum=next:3x4", r"the start of 'sum' has the shape \(3, 4\), but it must be like \(2, 'width'\)"),
        ("sum=next:2x4x1", "must be like"),
    ],
)
def test_states_that_contradict_the_model(path: Path, states: str, why: str) -> None:
    """A state that names no input, no output or another shape is refused at the load."""
    save_counter(path, ["batch", 2, "width"])
    with pytest.raises(LoadError, match=why):
        models.load(path, states=states)


def test_names_with_colons_in_states(path: Path) -> None:
    """The names of TensorFlow's exporters end with a colon and a number, and are no shape."""
    node = helper.make_node("Add", ["x:0", "state:0"], ["next:0"])
    inputs = [models.value(name, 1, ["batch", 2]) for name in ("x:0", "state:0")]
    models.save(path, [node], inputs, [models.value("next:0", 1, ["batch", 2])])
    (state,) = models.load(path, states="state:0=next:0").session.signature.states
    assert (state.input_name, state.output_name, state.start_shape) == ("state:0", "next:0", (2,))


def test_what_a_client_does_wrong(path: Path) -> None:
    """Names, types and shapes that the model does not take are a ValueError with both; the session goes on."""
    save_counter(path, ["n", 2])
    session = models.load(path).session
    good = {"x": models.tensor([[1.0, 2.0]]), "sum": models.tensor([[3.0, 4.0]])}
    wrong = [
        ({"x": good["x"]}, ["y"], "input 'sum' is missing"),
        ({**good, "z": good["x"]}, ["y"], "input 'z' is not known"),
        ({**good, "x": models.tensor([[1, 2]], ElementType.INT32)}, ["y"], "input 'x' is INT32; it must be FLOAT"),
        (good, ["z"], "output 'z' is not known; the model has y, next"),
        ({**good, "x": models.tensor([[1.0, 2.0, 3.0]])}, ["y"], "INVALID_ARGUMENT .* index: 1 Got: 3 Expected: 2"),
        ({**good, "x": models.tensor([1.0, 2.0])}, ["y"], "Invalid rank for input: x Got: 1 Expected: 2"),
        ({"x": models.tensor(np.ones((2, 2))), "sum": models.tensor(np.ones((3, 2)))}, ["y"], "broadcast"),
    ]
    for inputs, outputs, why in wrong:
        with pytest.raises(ValueError, match=why) as caught:
            session.predict(inputs, outputs)
        assert len(str(caught.value)) <= TEXT_CHARACTERS
        assert "onnxruntime_src" not in str(caught.value)
        assert "\n" not in str(caught.value)
    assert session.predict(good, ["y"])["y"].array.tolist() == [[4.0, 6.0]]


@pytest.mark.parametrize("arena", ["true", "false"])
def test_what_the_model_does_wrong_is_no_fault_of_the_client(path: Path, arena: str) -> None:
    """A failure that no shape of an input explains stays the runtime's own error."""
    node = helper.make_node("Expand", ["x", "shape"], ["y"])
    inputs = [models.value("x", 1, [1]), models.value("shape", TensorProto.INT64, [2])]
    session = models.load(models.save(path, [node], inputs, [models.value("y", 1, ["a", "b"])]), arena=arena).session
    vast = models.tensor([1 << 30, 1 << 30], ElementType.INT64)
    with pytest.raises(Exception, match=r"alloc|memory") as caught:
        session.predict({"x": models.tensor([1.0]), "shape": vast}, ["y"])
    assert not isinstance(caught.value, ValueError)
    small = models.tensor([1, 2], ElementType.INT64)
    assert session.predict({"x": models.tensor([1.0]), "shape": small}, ["y"])["y"].array.tolist() == [[1.0, 1.0]]


def test_calls_at_once(path: Path) -> None:
    """As many threads as the signature says compute at once, each its own."""
    node = helper.make_node("MatMul", ["x", "w"], ["y"])
    weight = helper.make_tensor("w", 1, [64, 64], np.eye(64, dtype=np.float32).tobytes(), raw=True)
    inputs, outputs = [models.value("x", 1, ["batch", 64])], [models.value("y", 1, ["batch", 64])]
    session = models.load(models.save(path, [node], inputs, outputs, [weight]), threads="4", intra_threads="1").session
    assert session.signature.threads == 4
    together = threading.Barrier(4, timeout=30)

    def call(number: int) -> bool:
        given = models.tensor(np.full((8, 64), float(number)))
        together.wait()
        return all(bool((session.predict({"x": given}, ["y"])["y"].array == number).all()) for _ in range(50))

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(call, range(4)))


def test_threads_follow_the_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without settings an operator has the cores that it was given, or the process has, shared by the calls at once."""
    monkeypatch.setattr("inferd_onnx.loading.count_cores", lambda: 6)
    settings = models.request(Path("none.onnx")).settings
    options = make_options(settings, "cpu")
    assert (options.intra_op_num_threads, options.inter_op_num_threads) == (6, 1)
    assert options.get_session_config_entry("session.intra_op.allow_spinning") == "0"
    assert make_options({**settings, "threads": 4}, "cpu").intra_op_num_threads == 2
    assert make_options(settings, "cpu", cores=3).intra_op_num_threads == 3
    assert make_options(settings, "cpu", cores=9).intra_op_num_threads == 6
    assert make_options({**settings, "threads": 2}, "cpu", cores=1).intra_op_num_threads == 1
    assert make_options({**settings, "intra_threads": 3, "spinning": True}, "cpu").intra_op_num_threads == 3


@pytest.mark.parametrize(
    ("operator", "settings", "most"),
    [
        ("Softmax", {"axis": 1}, 64),
        ("Softmax", {"axis": 0}, 1),
        ("CumSum", {}, 1),
        ("MeanVarianceNormalization", {"axes": [1]}, 64),
        ("MeanVarianceNormalization", {"axes": [0, 1]}, 1),
    ],
)
@pytest.mark.parametrize("name", ["batch", None])
def test_rows_that_depend_on_each_other_are_no_batch(
    path: Path, operator: str, settings: dict[str, object], most: int, name: str | None
) -> None:
    """Whatever the first size is called: where two rows together do not give what each gives alone, none are joined."""
    axis = helper.make_tensor("axis", TensorProto.INT64, [], [0])
    needed, weights = (["x", "axis"], [axis]) if operator == "CumSum" else (["x"], [])
    node = helper.make_node(operator, needed, ["y"], **settings)
    x, y = (models.value(each, 1, [name, 4]) for each in "xy")
    models.save(path, [node], [x], [y], weights)
    assert models.load(path).session.signature.most_batch == most
    assert models.load(path, max_batch="8").session.signature.most_batch == 8


def test_outputs_with_other_rows_are_no_batch(path: Path) -> None:
    """A model that gives as many rows as it finds something is not one whose rows are those of its input."""
    nodes = [
        helper.make_node("NonZero", ["x"], ["found"]),
        helper.make_node("Transpose", ["found"], ["y"], perm=[1, 0]),
    ]
    models.save(path, nodes, [models.value("x", 1, [None, 4])], [models.value("y", TensorProto.INT64, [None, 2])])
    assert models.load(path).session.signature.most_batch == 1


def test_a_trial_that_cannot_be_made(path: Path) -> None:
    """Where random inputs make no sense to a model, a first size that is named like a batch is one, another is not."""
    kernel = helper.make_tensor("kernel", 1, [1, 1, 999, 1], [1.0] * 999)
    node = helper.make_node("Conv", ["x", "kernel"], ["y"])
    for name, most in (("batch", 64), (None, 1)):
        x, y = (models.value(each, 1, [name, 1, None, None]) for each in "xy")
        models.save(path, [node], [x], [y], [kernel])
        assert models.load(path).session.signature.most_batch == most
