"""Real models, as packages hold them: what they say of known inputs, and what others compute with them."""

import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("onnxruntime", reason="onnxruntime is not installed: pip install 'inferd[onnx]'")

import bert_to_onnx
import onnx_models as models
import onnxruntime as ort
import real_onnx as real
from onnx_cases import quiet

from inferd.engine.tensor.entry import Entry
from inferd.engine.tensor.filling import Filling
from inferd.engine.tensor.request import Request
from inferd.plugin import ElementType, LoadError, TensorState

pytestmark = pytest.mark.model

WANTED = ("embedding",)
Packaged = Callable[[str, str], Path]


@pytest.fixture(scope="module")
def silero(packaged: Packaged) -> Path:
    return packaged("silero-vad", "6.2.3") / "silero_vad/data"


def windows(rate: int) -> tuple[np.ndarray, int]:
    """Speech in the windows that the model takes, each behind the last samples of the one before, and their number."""
    size, before = 512 * rate // 16000, 64 * rate // 16000
    sound = np.concatenate([np.zeros(before, np.float32), real.speech(rate)])
    count = (len(sound) - before) // size
    return np.stack([sound[place * size :][: before + size] for place in range(count)]), before


@pytest.fixture
def torch() -> Iterator[Any]:
    """The other framework, with one thread: several wait for each other where other tests have the cores."""
    found = pytest.importorskip("torch")
    before = found.get_num_threads()
    found.set_num_threads(1)
    yield found
    found.set_num_threads(before)


@pytest.mark.parametrize("rate", [8000, 16000])
def test_who_speaks_when(silero: Path, rate: int, torch: Any) -> None:
    """silero-vad with its state carried on finds speech where it is, and gives what a bare loop and its twin give."""
    path = silero / "silero_vad.onnx"
    session = models.load(path, states="state=stateN", intra_threads="1").session
    assert session.signature.states == (TensorState(input_name="state", output_name="stateN", start_shape=(2, 1, 128)),)
    bare = ort.InferenceSession(path, quiet(), providers=["CPUExecutionProvider"])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch would rather have another format
        twin = torch.jit.load(silero / "silero_vad.jit")
    sound, before = windows(rate)
    carried, own = models.tensor(np.zeros((2, 1, 128))), np.zeros((2, 1, 128), np.float32)
    told = []
    for window in sound[:, None]:
        inputs = {"input": models.tensor(window), "sr": models.tensor(rate, ElementType.INT64), "state": carried}
        outputs = session.predict(inputs, ["output", "stateN"])
        carried = outputs["stateN"]
        expected, own = bare.run(None, {"input": window, "state": own, "sr": np.array(rate)})
        with torch.no_grad():
            other = twin(torch.from_numpy(window[:, before:].copy()), rate).numpy()
        assert outputs["output"].array.tobytes() == expected.tobytes()
        np.testing.assert_allclose(expected, other, atol=1e-5)
        told.append(float(outputs["output"].array[0, 0]))
    starts = np.arange(len(told)) * 512 / 16000
    begin, end = real.SPEECH_S
    assert np.mean(np.array(told)[(starts > begin + 0.1) & (starts < end - 0.1)] > 0.5) > 0.9
    assert max(np.array(told)[(starts < begin - 0.1) | (starts > end + 0.3)]) < 0.2


@pytest.mark.parametrize(
    ("package", "version", "member", "shape"),
    [
        ("magika", "1.0.3", "magika/models/standard_v3_3/model.onnx", (5, 2048)),
        ("rapidocr", "3.10.0", "rapidocr/models/PP-OCRv6_det_small.onnx", (5, 3, 64, 96)),
        ("rapidocr", "3.10.0", "rapidocr/models/PP-OCRv6_rec_small.onnx", (5, 3, 48, 80)),
        ("rapidocr", "3.10.0", "rapidocr/models/ch_ppocr_mobile_v2.0_cls_mobile.onnx", (5, 3, 48, 192)),
        ("basic-pitch", "0.4.0", "basic_pitch/saved_models/icassp_2022/nmp.onnx", (5, 43844, 1)),
    ],
)
def test_joined_requests_are_as_each_alone(
    packaged: Packaged, package: str, version: str, member: str, shape: tuple[int, ...]
) -> None:
    """Of models that are found to batch, five rows at once give what each gives alone, as the bare runtime does."""
    path = packaged(package, version) / member
    session = models.load(path).session
    (taken,), given = session.signature.inputs, [each.name for each in session.signature.outputs]
    assert session.signature.most_batch == 64
    random = np.random.default_rng(5)
    rows = random.integers(0, 257, shape) if taken.element_type is ElementType.INT32 else random.normal(0, 0.3, shape)
    together = session.predict({taken.name: models.tensor(rows, taken.element_type)}, given)
    bare = ort.InferenceSession(path, quiet(), providers=["CPUExecutionProvider"])
    for place, row in enumerate(rows):
        one = models.tensor(row[None], taken.element_type)
        alone = session.predict({taken.name: one}, given)
        expected = bare.run(given, {taken.name: one.array})
        for name, other in zip(given, expected, strict=True):
            np.testing.assert_allclose(alone[name].array, other, rtol=1e-5, atol=1e-6)
            np.testing.assert_allclose(together[name].array[place], other[0], rtol=1e-3, atol=1e-4)


def test_sentences_as_vectors(minilm: Path, tmp_path: Path, torch: Any) -> None:
    """MiniLM as a graph gives the vectors that transformers gives, alone and padded beside others."""
    transformers = pytest.importorskip("transformers")
    tokenizers = pytest.importorskip("tokenizers")
    texts = ["A cat sits on the mat.", "Kernel", "The quick brown fox jumps over the lazy dog, twice and again."]
    encodings = [tokenizers.Tokenizer.from_file(str(minilm / "tokenizer.json")).encode(text) for text in texts]
    rows = [[each for each, real in zip(e.ids, e.attention_mask, strict=True) if real] for e in encodings]
    width = max(map(len, rows))
    ids = np.array([row + [0] * (width - len(row)) for row in rows])
    mask = np.array([[1] * len(row) + [0] * (width - len(row)) for row in rows])
    session = models.load(bert_to_onnx.convert(minilm, tmp_path / "minilm.onnx"), intra_threads="1").session
    assert session.signature.most_batch == 64

    def embed(ids: np.ndarray, mask: np.ndarray) -> np.ndarray:
        given = {"input_ids": ids, "attention_mask": mask}
        inputs = {name: models.tensor(array, ElementType.INT64) for name, array in given.items()}
        return session.predict(inputs, ["embedding"])["embedding"].array

    together = embed(ids, mask)
    network = transformers.AutoModel.from_pretrained(minilm, attn_implementation="eager").eval()
    for place, row in enumerate(rows):
        with torch.no_grad():
            hidden = network(torch.tensor([row])).last_hidden_state[0].mean(0)
        expected = (hidden / hidden.norm()).numpy()
        alone = embed(np.array([row]), np.ones((1, len(row)), np.int64))[0]
        np.testing.assert_allclose(alone, expected, atol=1e-4)
        np.testing.assert_allclose(together[place], expected, atol=1e-4)


def test_sentences_of_several_lengths_as_one(minilm: Path, tmp_path: Path) -> None:
    """MiniLM is given sentences that a rule fills up; a rule that would change them is refused at the load."""
    path = bert_to_onnx.convert(minilm, tmp_path / "minilm.onnx")
    with pytest.raises(LoadError, match="output 'embedding' of a request that is filled up is not what"):
        models.load(path, intra_threads="1", padding="input_ids:1=0,attention_mask:1=1")
    session = models.load(path, intra_threads="1", padding="input_ids:1=0,attention_mask:1=0").session
    filling, random, entries = Filling(session.signature), np.random.default_rng(8), []
    for length in (3, 17, 9, 3, 30):
        given = {"input_ids": random.integers(1000, 20_000, (1, length)), "attention_mask": np.ones((1, length))}
        inputs = {name: models.tensor(array, ElementType.INT64) for name, array in given.items()}
        request = Request(handle=length, inputs=inputs)
        entries.append(Entry(request=request, wanted=WANTED, asked=WANTED, arrived=0.0, inputs=inputs))
        filling.measure(entries[-1])
    parts = filling.split(session.predict(filling.join(entries), WANTED), entries)
    for entry, part in zip(entries, parts, strict=True):
        alone = session.predict(entry.inputs, WANTED)["embedding"].array
        np.testing.assert_allclose(part["embedding"].array, alone, atol=1e-5)
