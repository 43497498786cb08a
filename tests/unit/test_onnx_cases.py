"""Cases of the `onnx` package, some of them: `make onnx-cases` computes them all."""

import random
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

pytest.importorskip("onnxruntime", reason="onnxruntime is not installed: pip install 'inferd[onnx]'")

import onnx_cases
from onnx_cases import Case, disk_cases, node_cases, try_case

from inferd.plugin import Tensor
from inferd_onnx.session import OnnxSession

MODULES = (
    *("abs", "add", "argmax", "castlike", "concat", "conv", "cumsum", "dequantizelinear", "einsum", "gather", "gru"),
    *("isnan", "layernormalization", "logsoftmax", "loop", "matmul", "nonmaxsuppression", "optionalhaselement"),
    *(
        "pad",
        "quantizelinear",
        "reshape",
        "scan",
        "sequenceinsert",
        "softmax",
        "split",
        "string_split",
        "topk",
        "where",
    ),
)
SAMPLE = 60


@pytest.fixture(scope="module")
def sample() -> list[Case]:
    """Sixty cases of operators, the same ones each time."""
    cases = sorted(node_cases(MODULES), key=lambda case: case.name)
    return random.Random(16).sample(cases, SAMPLE)


def test_cases_of_operators(sample: list[Case], tmp_path: Path) -> None:
    """Outputs are those that the standard expects, but where the runtime refuses a model or computes otherwise."""
    outcomes = {case.name: try_case(case, tmp_path) for case in sample}
    assert not {name: why for name, (kind, why) in outcomes.items() if kind == "failed"}
    passed = [name for name, outcome in outcomes.items() if outcome.kind == "passed"]
    assert len(passed) > SAMPLE * 0.8, outcomes


def test_cases_of_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The small models that the package has as files give what their files say."""
    monkeypatch.setattr(onnx_cases, "KINDS", ("simple",))
    outcomes = {case.name: try_case(case, tmp_path) for case in disk_cases()}
    assert not {name: why for name, (kind, why) in outcomes.items() if kind == "failed"}
    assert outcomes["test_single_relu_model"].kind == "passed"
    assert len([name for name, outcome in outcomes.items() if outcome.kind == "passed"]) > len(outcomes) / 2


@pytest.mark.parametrize("what", ["shape", "bits", "error"])
def test_what_a_session_does_wrong_is_a_failure(
    sample: list[Case], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    """An output with another shape or other numbers than the runtime's own fails its case, and so does an error."""
    right = OnnxSession.predict

    def predict(session: OnnxSession, inputs: Mapping[str, Tensor], outputs: Sequence[str]) -> Mapping[str, Tensor]:
        found = right(session, inputs, outputs)
        if what == "error":
            raise RuntimeError
        if what == "shape":
            return {name: replace(each, shape=(*each.shape, 1)) for name, each in found.items()}
        return {name: replace(each, array=each.array + 1) for name, each in found.items()}

    case = next(each for each in sample if each.name.startswith("test_softmax"))
    assert try_case(case, tmp_path).kind == "passed"
    monkeypatch.setattr(OnnxSession, "predict", predict)
    assert try_case(case, tmp_path).kind == "failed"
