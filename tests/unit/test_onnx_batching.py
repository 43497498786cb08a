"""How a model's settings say that its requests are computed as one, and that what they say is tried."""

from pathlib import Path

import pytest

pytest.importorskip("onnxruntime", reason="onnxruntime is not installed: pip install 'inferd[onnx]'")

import numpy as np
import onnx_models as models
from onnx import TensorProto, helper, numpy_helper

from inferd.plugin import Batching, Cut, Fill, LoadError, Padding
from inferd_onnx import trial

FLOAT = TensorProto.FLOAT
RULE = "x:1=0>y:1"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "model.onnx"


def save(path: Path, operator: str, **more: object) -> Path:
    """A model of one operator: y has the shape of x, or what is left of it."""
    size = [1] if operator.startswith("Reduce") or operator == "GlobalMaxPool" else ["width"]
    axes = [helper.make_tensor("axes", TensorProto.INT64, [1], [1])] if operator.startswith("Reduce") else []
    node = helper.make_node(operator, ["x", *(each.name for each in axes)], ["y"], **more)
    x, y = models.value("x", FLOAT, ["batch", "width"]), models.value("y", FLOAT, ["batch", *size])
    return models.save(path, [node], [x], [y], axes)


def test_settings_of_batches(path: Path) -> None:
    """The settings say sizes that are preferred, how long a request waits, and what is filled up and cut back."""
    save(path, "Exp")
    batching = models.load(
        path, preferred_batches="16, 8", batch_delay_ms="2.5", padding=" x:1=-1 > y:1 ", padding_times="2"
    ).session.signature.batching
    rule = Padding(fills=(Fill(input_name="x", dimension=1, value=-1),), cuts=(Cut(output_name="y", dimension=1),))
    assert batching == Batching(preferred=(8, 16), delay_s=0.0025, paddings=(rule,), filled_times=2.0)
    assert models.load(path).session.signature.batching == Batching()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"preferred_batches": "8,65"},
            r"'preferred_batches' has '65'; it must be .* 1 to 64, .*'max_batch'",
        ),
        ({"preferred_batches": "eight"}, r"'preferred_batches' has 'eight'"),
        ({"preferred_batches": "2", "max_batch": "1"}, r"'preferred_batches' is set, .* one request at a time"),
        ({"batch_delay_ms": "1", "max_batch": "1"}, r"'batch_delay_ms' is set, .* one request at a time"),
        ({"padding": RULE, "max_batch": "1"}, r"'padding' is set, .* leave it out, or set 'max_batch'"),
        ({"padding": "x:1"}, r"'padding' has 'x:1'; it must be INPUT:DIMENSION=VALUE with an input of x"),
        ({"padding": "z:1=0>y:1"}, r"'padding' has 'z:1'; .* with an input of x"),
        ({"padding": "x:one=0>y:1"}, r"'padding' has 'x:one'; it must be INPUT:DIMENSION=VALUE"),
        ({"padding": "x:1=0>z:1"}, r"'padding' has 'z:1'; it must be OUTPUT:DIMENSION with an output of y"),
        ({"padding": "x:1=nothing>y:1"}, r"fills input 'x' with 'nothing'; it must be a number, as the input is FLOAT"),
        ({"padding": "x:0=0>y:1"}, r"input 'x' has 2 dimensions; 0 must be from 1, behind the batch, to 1"),
        ({"padding": "x:2=0>y:1"}, r"input 'x' has 2 dimensions; 2 must be from 1"),
        ({"padding": "x:1=1e39>y:1"}, r"input 'x' is FLOAT; what it is filled up with, 1e\+39, must be at most 3.4"),
        ({"padding": "x:1=0"}, r"dimension 1 of output 'y' has the size 'width', which is filled up; it must be cut"),
        ({"padding": "x:1=0>y:1;x:1=1"}, r"dimension 1 of input 'x' is named twice"),
    ],
)
def test_wrong_settings_of_batches(path: Path, settings: dict[str, str], message: str) -> None:
    """A setting that the model contradicts is refused by its name, with what it says and what it may say."""
    save(path, "Exp")
    with pytest.raises(LoadError, match=f"{path}: setting .*{message}"):
        models.load(path, **settings)


@pytest.mark.parametrize(
    ("operator", "rule", "right"),
    [
        ("ReduceSum", "x:1=0", True),
        ("ReduceSum", "x:1=1", False),
        ("ReduceMax", "x:1=-inf", True),
        ("ReduceMax", "x:1=9", False),
        ("ReduceMean", "x:1=0", False),
        ("Softmax", "x:1=-inf>y:1", True),
        ("Softmax", "x:1=0>y:1", False),
        ("Exp", "x:1=0>y:1", True),
    ],
)
def test_a_padding_is_tried(path: Path, operator: str, rule: str, *, right: bool) -> None:
    """A rule by which a short request gives something else than alone is refused when the model is loaded."""
    save(path, operator)
    if right:
        assert len(models.load(path, padding=rule).session.signature.batching.paddings) == 1
        return
    with pytest.raises(LoadError, match=f"'padding' is '{rule}', but output 'y' of a request that is filled up is not"):
        models.load(path, padding=rule)


def test_a_trial_ends(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A graph that computes random inputs for ever is loaded nevertheless; whether it batches its names tell then."""
    monkeypatch.setattr(trial, "TRIAL_S", 0.05)
    counted = [models.value("step", TensorProto.INT64, []), models.value("on", TensorProto.BOOL, [])]
    nodes = [
        helper.make_node("Identity", ["on"], ["still"]),
        helper.make_node("Sin", ["carried"], ["next"]),
    ]
    outputs = [models.value("still", TensorProto.BOOL, []), models.value("next", FLOAT, None)]
    body = helper.make_graph(nodes, "body", [*counted, models.value("carried", FLOAT, None)], outputs)
    times = helper.make_tensor("times", TensorProto.INT64, [], [1 << 60])
    loop = helper.make_node("Loop", ["times", "", "x"], ["y"], body=body)
    for name, most in (("batch", 64), (None, 1)):
        x, y = (models.value(each, FLOAT, [name, "width"]) for each in "xy")
        models.save(path, [loop], [x], [y], [times])
        assert models.load(path).session.signature.most_batch == most


@pytest.mark.parametrize("inside", [False, True], ids=["graph", "branch"])
def test_rows_that_share_a_scale_are_no_batch(path: Path, inside: bool) -> None:  # noqa: FBT001 - of pytest
    """A graph that quantises what it is given by a scale of all rows computes one request at a time, and says why."""
    ids = models.value("ids", TensorProto.INT64, ["batch", "tokens"])
    y = models.value("y", FLOAT, ["batch", "tokens", 4])
    table = np.ones((8, 4), np.float32)
    table[7] = 1e4
    node = helper.make_node
    quantise = [
        node("DynamicQuantizeLinear", ["x"], ["q", "s", "z"]),
        node("DequantizeLinear", ["q", "s", "z"], ["d"]),
    ]
    if inside:
        d = models.value("d", FLOAT, ["batch", "tokens", 4])
        branch = helper.make_graph(quantise, "branch", [], [d])
        quantise = [node("If", ["yes"], ["d"], then_branch=branch, else_branch=branch)]
    nodes = [node("Gather", ["table", "ids"], ["x"]), *quantise, node("Identity", ["d"], ["y"])]
    weights = [numpy_helper.from_array(table, "table"), numpy_helper.from_array(np.array(True), "yes")]
    models.save(path, nodes, [ids], [y], weights)
    model = models.load(path)
    assert model.session.signature.most_batch == 1
    assert model.description.compute_format.endswith(
        "one request at a time (DynamicQuantizeLinear takes a scale over all rows)"
    )
    assert models.load(path, max_batch="4").session.signature.most_batch == 4


def test_single_texts_are_tried(path: Path) -> None:
    """A model whose input and output are a text a row loads, and its requests are computed as one."""
    models.save_identity(path, TensorProto.STRING, ("batch",))
    assert models.load(path).session.signature.most_batch == 64


def test_a_trial_that_fails_stops_no_load(
    path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Where trying two rows fails, the model loads, computes one request at a time, and the log says why."""

    def fail(*_: object) -> bool:
        raise ArithmeticError("no such comparison")

    monkeypatch.setattr(trial, "_is_same", fail)
    save(path, "Exp")
    assert models.load(path).session.signature.most_batch == 1
    assert f"{path}: requests are not batched, as trying it failed: ArithmeticError: no such comparison" in caplog.text
