import warnings
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch", reason="torch is not installed: pip install 'inferd[torch]'")

import torch
from safetensors.torch import load_file, save_file

from inferd.plugin import ElementType, LoadError, LoadRequest, Tensor
from inferd.plugin.backend import read_settings
from inferd.testing.tensor_contract import TensorContract
from inferd_torch.backend import TorchBackend
from inferd_torch.plugin import SPEC, TENSOR_TYPES
from inferd_torch.tensor_session import NETWORKS
from inferd_torch.voice_activity import VoiceActivity

TYPE = '{"model_type": "silero_vad"}'
WEIGHTS = "model.safetensors"


@pytest.fixture(scope="module")
def backend() -> TorchBackend:
    return TorchBackend()


def make_request(folder: Path, weights: dict[str, Any], **settings: str) -> LoadRequest:
    (folder / "config.json").write_text(TYPE)
    save_file(weights, folder / WEIGHTS)
    return LoadRequest(path=folder, device="cpu:0", settings=read_settings(SPEC, settings), capacity_bytes=1 << 30)


def random_weights() -> dict[str, Any]:
    torch.manual_seed(7)
    return VoiceActivity().state_dict()


class TestVoiceActivity(TensorContract):
    """A folder of a network from tensors to tensors, with a state, passes the suite."""

    test_what_is_no_model_is_a_load_error = None  # what is no folder goes the way of test_torch.py

    @pytest.fixture(scope="class")
    @classmethod
    def load_request(cls, tmp_path_factory: pytest.TempPathFactory) -> LoadRequest:
        return make_request(tmp_path_factory.mktemp("voice"), random_weights())


def test_what_is_listed_is_known() -> None:
    """The networks that the plugin lists, without torch, are those that it has."""
    assert set(TENSOR_TYPES) == set(NETWORKS)


def test_other_weights_and_settings_of_texts_are_refused_by_name(backend: TorchBackend, tmp_path: Path) -> None:
    """A weight that is missing, of another shape or of no use, a damaged file, and a setting that has no effect."""
    sound = random_weights()
    without = {name: each for name, each in sound.items() if name != "conv2.bias"}
    for weights, why in (
        (without, r"Missing key.*conv2\.bias"),
        (sound | {"conv2.bias": torch.zeros(3)}, r"size mismatch for conv2\.bias"),
        (sound | {"more": torch.zeros(3)}, r"Unexpected key.*more"),
    ):
        with pytest.raises(LoadError, match=why):
            backend.load(make_request(tmp_path, weights), lambda _: None)
    request = make_request(tmp_path, sound)
    (tmp_path / WEIGHTS).write_bytes(b"no weights")
    with pytest.raises(LoadError, match="damaged"):
        backend.load(request, lambda _: None)
    for setting, value in (("context_tokens", "9"), ("max_sequences", "3"), ("dtype", "bfloat16")):
        with pytest.raises(LoadError, match=f"setting {setting!r} .*leave it out"):
            backend.measure(make_request(tmp_path, sound, **{setting: value}))
    with pytest.raises(LoadError, match="bytes of memory, but 5 may be given"):
        backend.load(replace(make_request(tmp_path, sound), capacity_bytes=5), lambda _: None)


def published_weights(data: Path) -> dict[str, Any]:
    """Those of the ONNX model, by the names of the published safetensors file, whose own are of an older training."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch would rather have another format
        theirs = torch.jit.load(data / "silero_vad.jit")._model.state_dict()
    layers = {f"conv{n}": f"encoder.{n - 1}.reparam_conv" for n in (1, 2, 3, 4)}
    layers |= {"lstm_cell": "decoder.rnn", "final_conv": "decoder.decoder.2"}
    found = {"stft_conv.weight": theirs["stft.forward_basis_buffer"].clone()}
    for name in load_file(data / "silero_vad_16k.safetensors"):
        layer, _, number = name.partition(".")
        if layer in layers:
            found[name] = theirs[f"{layers[layer]}.{number}"].detach().clone()
    return found


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Several wait for each other where other tests have the cores."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.model
@pytest.mark.usefixtures("one_thread")
def test_silero_gives_what_onnx_runtime_gives(
    backend: TorchBackend, packaged: Callable[[str, str], Path], tmp_path: Path
) -> None:
    """With the same weights it finds speech as the ONNX model does, window by window with its state, to 1e-5."""
    ort = pytest.importorskip("onnxruntime")
    import real_onnx as real  # noqa: PLC0415 - it needs packages of the ONNX models

    data = packaged("silero-vad", "6.2.3") / "silero_vad/data"
    session: Any = backend.load(make_request(tmp_path, published_weights(data)), lambda _: None).session
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    bare = ort.InferenceSession(data / "silero_vad.onnx", options, providers=["CPUExecutionProvider"])
    sound = np.concatenate([np.zeros(64, np.float32), real.speech(16_000)])
    carried, own = np.zeros((1, 2, 128), np.float32), np.zeros((2, 1, 128), np.float32)
    told = []
    for begin in range(0, len(sound) - 576 + 1, 512):
        window = sound[None, begin : begin + 576]
        inputs = {
            name: Tensor(element_type=ElementType.FLOAT, shape=array.shape, array=array)
            for name, array in (("input", window), ("state", carried))
        }
        found = session.predict(inputs, ["output", "next_state"])
        expected, own = bare.run(None, {"input": window, "state": own, "sr": np.array(16_000)})
        carried = found["next_state"].array
        np.testing.assert_allclose(found["output"].array, expected, rtol=0, atol=1e-5)
        np.testing.assert_allclose(carried.transpose(1, 0, 2), own, rtol=1e-5, atol=1e-5)
        told.append(float(expected[0, 0]))
    assert max(told) > 0.9
    assert min(told) < 0.1
    session.close()
