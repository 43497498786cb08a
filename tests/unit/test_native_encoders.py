"""What the native library computes of encoders: near to fp32, the same bits always, and told what it takes."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from native_models import find_missing

from inferd.plugin import LoadedModel, LoadError, LoadRequest
from inferd.plugin.backend import read_settings
from inferd.testing.batches import Part, make_batch
from inferd_cpu.backend import CpuBackend
from inferd_cpu.plugin import SPEC

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
from bert_to_gguf import write_bert  # noqa: E402 - it needs both
from encoder_to_gguf import ENCODERS, VOCABULARY, write_encoder  # noqa: E402 - it needs both

pytestmark = pytest.mark.skipif(bool(find_missing("auto")), reason="the native library is not built: make native")

BERTS = ("bert", "nomic_bert")
LENGTHS = (1, 17, 100, 2, 11, 64)  # of sequences in one step: shorter and longer than a window
LEAST_COSINE = 0.999
LEAST_RANDOM = 0.985  # of networks of random weights
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *(f"w{number}" for number in range(VOCABULARY - 5))]


def write(name: str, path: Path) -> Path:
    """A tiny random encoder of widths that are multiples of 32."""
    if name not in BERTS:
        write_encoder(name, path)
        return path
    config = transformers.AutoConfig.for_model(
        name,
        vocab_size=len(WORDS),
        hidden_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=96,
        max_position_embeddings=256,
        initializer_range=0.3,
    )
    torch.manual_seed(7)
    network = transformers.AutoModel.from_config(config, dtype=torch.float32, attn_implementation="eager").eval()
    write_bert(network, WORDS, path)
    return path


def make_request(path: Path, **settings: str) -> LoadRequest:
    given = read_settings(SPEC, {"kv_tokens": "2048", "threads": "2", **settings})
    return LoadRequest(path=path, device="cpu:0", settings=given, capacity_bytes=1 << 30)


def load(path: Path, **settings: str) -> LoadedModel:
    return CpuBackend().load(make_request(path, **settings), lambda _: None)


def draw() -> list[list[int]]:
    """Prompts of several lengths."""
    random = np.random.default_rng(1)
    return [random.integers(5, VOCABULARY, size=count).tolist() for count in LENGTHS]


def compute(model: LoadedModel, prompts: list[list[int]]) -> list[np.ndarray[Any, Any]]:
    """The hidden states of each prompt, all in one step."""
    blocks = iter(range(10_000))
    batch = make_batch(
        [Part(token_ids=ids, blocks=[next(blocks) for _ in range(-(-len(ids) // 16))], wanted=[]) for ids in prompts]
    )
    hidden: Any = model.session.step(replace(batch, hidden_rows=np.arange(len(batch.token_ids), dtype=np.int32))).hidden
    return np.split(hidden, np.cumsum([len(ids) for ids in prompts])[:-1])


def cosines(ours: np.ndarray[Any, Any], theirs: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Of each row."""
    sizes = np.linalg.norm(ours, axis=-1) * np.linalg.norm(theirs, axis=-1)
    found: np.ndarray[Any, Any] = (ours * theirs).sum(axis=-1) / sizes
    return found


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Gives a file and what fp32 makes of the prompts; each is made once."""
    folder, made = tmp_path_factory.mktemp("encoders"), dict[str, Any]()

    def make(name: str) -> tuple[Path, list[np.ndarray[Any, Any]]]:
        if name not in made:
            path = write(name, folder / f"{name}.gguf")
            exact = load(path, compute="exact")
            made[name] = path, compute(exact, draw())
            exact.session.close()
        found: tuple[Path, list[np.ndarray[Any, Any]]] = made[name]
        return found

    return make


@pytest.mark.parametrize("name", [*BERTS, *ENCODERS])
def test_hidden_states_point_where_those_of_fp32_do(files: Any, name: str, isa: str) -> None:
    """Of every architecture, with windows, rotations, grouped heads and gates; random ones magnify what is rounded."""
    path, expected = files(name)
    model = load(path, compute="native", isa=isa)
    assert "8-bit weights" in model.description.compute_format
    for ours, theirs in zip(compute(model, draw()), expected, strict=True):
        assert cosines(ours.mean(axis=0), theirs.mean(axis=0)) >= LEAST_RANDOM
        assert np.median(cosines(ours, theirs)) >= LEAST_RANDOM
    model.session.close()


@pytest.mark.parametrize("threads", ["1", "2", "3"])
def test_the_same_rows_give_the_same_bits(files: Any, threads: str) -> None:
    """Hidden states hang neither on the other sequences of a step nor on the number of threads."""
    path, _ = files("modern-bert")
    model, prompts = load(path, compute="native", threads=threads), draw()
    together = compute(model, prompts)
    one = load(path, compute="native", threads="2")
    for ids, ours in zip(prompts, together, strict=True):
        np.testing.assert_array_equal(ours, compute(one, [ids])[0])
    model.session.close()
    one.session.close()


def test_it_keeps_nothing_and_says_so(files: Any) -> None:
    """An encoder takes no bytes for keys and values, and less in all than in fp32."""
    path, _ = files("bert")
    native = CpuBackend().measure(make_request(path, compute="native"))
    exact = CpuBackend().measure(make_request(path, compute="exact"))
    assert native.kv_bytes == 0 < exact.kv_bytes
    assert native.weights_bytes < exact.weights_bytes
    assert native.total_bytes < exact.total_bytes


def test_what_is_not_agreed_is_refused(files: Any) -> None:
    """A part of a prompt, and more tokens than there is room for, are errors, and the next step is computed."""
    path, expected = files("bert")
    model = load(path, compute="native", max_step_tokens="128")
    ids = draw()[1]
    batch = make_batch([Part(token_ids=ids, blocks=range(2), wanted=[])])
    with pytest.raises(ValueError, match="a part of a sequence"):
        model.session.step(replace(batch, lengths=batch.lengths + 1, positions=batch.positions + 1))
    encoder: Any = model.session
    with pytest.raises(ValueError, match="not what was agreed"):
        encoder._encoder.encode(np.zeros((200, 64), np.float32), [0, 200], encoder._turn(np.arange(200)))
    np.testing.assert_array_equal(compute(model, [ids])[0], compute(model, [ids])[0])
    assert cosines(compute(model, [ids])[0].mean(axis=0), expected[1].mean(axis=0)) >= LEAST_RANDOM
    model.session.close()


def test_what_only_numpy_computes_is_named(tmp_path: Path) -> None:
    """An encoder of another width runs with numpy, whose description says why; demanded, the library is an error."""
    config = transformers.AutoConfig.for_model(
        "bert", vocab_size=len(WORDS), hidden_size=40, num_hidden_layers=1, num_attention_heads=4, intermediate_size=48
    )
    write_bert(transformers.AutoModel.from_config(config, dtype=torch.float32), WORDS, tmp_path / "odd.gguf")
    model = load(tmp_path / "odd.gguf")
    assert "not native: the width is 40, which is not a multiple of 32" in model.description.compute_format
    model.session.close()
    with pytest.raises(LoadError, match="'compute' is 'native', but the width is 40"):
        load(tmp_path / "odd.gguf", compute="native")


@pytest.mark.model
@pytest.mark.timeout(600)
def test_a_published_model(minilm: Path) -> None:
    """all-MiniLM-L6-v2 in 8 bits: embeddings of texts of several lengths have a cosine of 0.999 to those of fp32."""
    random = np.random.default_rng(2)
    prompts = [[101, *random.integers(1000, 30000, size=count).tolist(), 102] for count in (3, 30, 300)]
    exact, native = load(minilm, compute="exact"), load(minilm, compute="native")
    for ours, theirs in zip(compute(native, prompts), compute(exact, prompts), strict=True):
        assert cosines(ours.mean(axis=0), theirs.mean(axis=0)) >= LEAST_COSINE
    exact.session.close()
    native.session.close()
