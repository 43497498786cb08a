"""BERT files, which make embeddings: against transformers, a tiny random network and a published one."""

import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from inferd.engine.text.tokenizer import Tokenizer
from inferd.engine.token.limits import EngineLimits
from inferd.engine.token.loop import Loop
from inferd.engine.token.output import Ended, StepOutput
from inferd.engine.token.submission import Submission
from inferd.engine.work import Embedding, TextInput
from inferd.errors import UnsupportedInputError
from inferd.plugin import LoadedModel, LoadRequest
from inferd.plugin.backend import Pooling, read_settings
from inferd.sampling import Sampling
from inferd.testing.batches import Part, compute, make_batch
from inferd_cpu.backend import CpuBackend
from inferd_cpu.plugin import SPEC
from inferd_cpu.word_pieces import read_word_pieces
from inferd_weights.metadata import Kind, Metadata, Value

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
from bert_to_gguf import write_bert  # noqa: E402 - it needs both

torch.set_num_threads(1)
DEADLINE_S = 300.0
WORDS = [
    "[PAD]",
    "[UNK]",
    "[CLS]",
    "[SEP]",
    "[MASK]",
    "the",
    "cat",
    "sat",
    "##s",
    "un",
    "##happy",
    ",",
    "cafe",
    "\u4f60",
]
TEXTS = (
    "The cats sat.",
    "An unhappy caf\u00e9, \u4f60\u597d!",
    "A text with [MASK] and [CLS] in it,   tabs\tand\nlines, e\u0301, \u0130stanbul, na\u00efve \U0001f355.",
    "How much does it cost? $1,234.56 (approximately)",
    "\u041c\u043e\u0441\u043a\u0432\u0430 \u2014 \u0441\u0442\u043e\u043b",
    "\uc548\ub155\ud558\uc138\uc694, \u543e\u8f29\u306f\u732b\u3067\u3042\u308b",
    "x" * 120 + " antidisestablishmentarianism",
    " ".join(["the quick brown fox jumps over a lazy dog"] * 30),
)


def load(path: Path, **settings: str) -> LoadedModel:
    request = LoadRequest(
        path=path,
        device="cpu:0",
        settings=read_settings(SPEC, {"kv_tokens": "4096", "compute": "exact", **settings}),
        capacity_bytes=1 << 30,
    )
    return CpuBackend().load(request, lambda _: None)


class Engine:
    """A loop over a model, run until all that was submitted has ended."""

    def __init__(self, model: LoadedModel, **limits: int) -> None:
        self.loop = Loop(model, EngineLimits(**limits), self._take)
        self.vectors: dict[int, tuple[float, ...]] = {}
        self.ended: dict[int, Ended] = {}
        self._expected = 0
        self._done = threading.Event()

    def run(self, *texts: str, embedding: Embedding | None) -> None:
        self._expected = len(texts)
        for handle, text in enumerate(texts):
            self.loop.submit(
                Submission(handle, TextInput(text), Sampling(temperature=0, max_tokens=4), embedding=embedding)
            )
        thread = threading.Thread(target=self.loop.run)
        thread.start()
        done = self._done.wait(DEADLINE_S)
        self.loop.stop()
        thread.join(DEADLINE_S)
        assert done

    def _take(self, output: StepOutput) -> None:
        self.vectors |= output.embeddings
        self.ended |= {ended.handle: ended for ended in output.ended}
        if len(self.ended) == self._expected:
            self._done.set()


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    """A file and its network."""
    return make("bert", tmp_path_factory.mktemp("bert") / "tiny.gguf")


def make(model_type: str, path: Path) -> tuple[Path, Any]:
    config = transformers.AutoConfig.for_model(
        model_type,
        vocab_size=len(WORDS),
        hidden_size=64,
        num_hidden_layers=3,
        num_attention_heads=4,
        intermediate_size=96,
        max_position_embeddings=128,
        initializer_range=0.3,
    )
    torch.manual_seed(5)
    network = transformers.AutoModel.from_config(config).eval()
    with torch.no_grad():
        for weight in network.parameters():
            if weight.dim() == 1:
                weight.add_(torch.randn_like(weight) * 0.2)
    write_bert(network, WORDS, path)
    return path, network


@torch.inference_mode()
def states(network: Any, ids: list[int]) -> Any:
    return network(input_ids=torch.tensor([ids])).last_hidden_state[0].numpy()


@pytest.mark.parametrize("model_type", ["bert", "nomic_bert"])
def test_hidden_states_are_those_of_transformers(tmp_path: Path, model_type: str) -> None:
    """Of sequences of several lengths in one step, in scattered blocks, each as it is alone."""
    path, network = make(model_type, tmp_path / "tiny.gguf")
    session = load(path).session
    draw = np.random.default_rng(1)
    prompts = [draw.integers(0, len(WORDS), size=count).tolist() for count in (1, 17, 100, 2, 64)]
    free = draw.permutation(session.limits.blocks).tolist()
    parts = [Part(token_ids=ids, blocks=[free.pop() for _ in range(-(-len(ids) // 16))], wanted=[]) for ids in prompts]
    batch = make_batch(parts)
    result = session.step(replace(batch, hidden_rows=np.arange(len(batch.token_ids), dtype=np.int32)))
    expected = np.concatenate([states(network, ids) for ids in prompts])
    np.testing.assert_allclose(result.hidden, expected, atol=2e-4)
    with pytest.raises(ValueError, match="a part of a sequence, whose tokens see all others"):
        compute(session, Part(token_ids=[5], begin=3, blocks=[0]))
    session.close()


@pytest.mark.parametrize("step_tokens", [512, 48])
def test_texts_become_means_whole(tiny: tuple[Path, Any], step_tokens: int) -> None:
    """Each text is computed in one step, however few tokens that has; none takes states from another that begins so."""
    path, network = tiny
    engine = Engine(load(path), step_tokens=step_tokens)
    texts = [*["the cat sat, " * 9] * 3, "the cat sat, " * 8, "cats", "the cat sat, " * 10]
    engine.run(*texts, embedding=Embedding(pooling=None, normalize=False))
    for handle, text in enumerate(texts):
        words = text.replace(",", " ,").replace("cats", "cat ##s").split()
        ids = [2, *map(WORDS.index, words), 3]
        assert engine.ended[handle].error is None
        np.testing.assert_allclose(engine.vectors[handle], states(network, ids).mean(axis=0), atol=1e-4)


def test_last_is_the_last_token(tiny: tuple[Path, Any]) -> None:
    """Who asks for the last token's state is given that, though another text that begins so was computed before."""
    path, network = tiny
    engine = Engine(load(path, max_sequences="1"))
    texts = ["the cat sat, " * 8 + "cat", "the cat sat, " * 8 + "sat sat"]
    engine.run(*texts, embedding=Embedding(pooling=Pooling.LAST, normalize=False))
    for handle, words in enumerate(([6], [7, 7])):
        ids = [2, *[5, 6, 7, 11] * 8, *words, 3]
        assert engine.ended[handle].error is None
        np.testing.assert_allclose(engine.vectors[handle], states(network, ids)[-1], atol=1e-4)


def test_first_is_what_a_file_may_say(tiny: tuple[Path, Any], tmp_path: Path) -> None:
    """Of a file that pools by [CLS], as many do, the vector is the state of that token."""
    network = tiny[1]
    write_bert(network, WORDS, tmp_path / "first.gguf", pooling=2)
    engine = Engine(load(tmp_path / "first.gguf"))
    engine.run("the cat", embedding=Embedding(pooling=None, normalize=False))
    np.testing.assert_allclose(engine.vectors[0], states(network, [2, 5, 6, 3])[0], atol=1e-4)


@pytest.mark.parametrize(("strips", "expected"), [(None, "cafe"), (True, "cafe"), (False, "caf\u00e9")])
@pytest.mark.parametrize("lowers", [True, False])
def test_accents_go_as_the_file_says(strips: bool | None, expected: str, lowers: bool) -> None:  # noqa: FBT001 - of pytest
    """Whatever it says of capitals; where it says nothing, accents go with capitals."""
    tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "\u2581cafe", "\u2581caf\u00e9"]
    said = {"lowercase": lowers, "strip_accents": strips}
    values = {f"normalizer.{name}": Value(Kind.BOOL, value) for name, value in said.items() if value is not None}
    metadata = Metadata(Path("a.gguf"), {f"tokenizer.ggml.{name}": value for name, value in values.items()})
    vocabulary = read_word_pieces(metadata, tokens, [3, 3, 3, 3, 1, 1])
    wanted = expected if lowers or strips is not None else "caf\u00e9"
    assert Tokenizer(vocabulary, size=len(tokens)).encode("caf\u00e9") == [2, tokens.index("\u2581" + wanted), 3]


def test_text_is_refused(tiny: tuple[Path, Any]) -> None:
    """A task that wants text from such a model ends with what to ask for instead."""
    engine = Engine(load(tiny[0]))
    engine.run("the cat", embedding=None)
    error = engine.ended[0].error
    assert isinstance(error, UnsupportedInputError)
    assert "makes embeddings, and no text" in str(error)


@pytest.mark.model
@pytest.mark.timeout(600)
def test_a_published_model(minilm: Path, tmp_path: Path) -> None:
    """all-MiniLM-L6-v2: tokens of its own tokenizer, and the vectors that transformers gives."""
    path, library = tmp_path / "minilm.gguf", transformers.AutoTokenizer.from_pretrained(minilm)
    network = transformers.AutoModel.from_pretrained(minilm, dtype=torch.float32).eval()
    words = sorted(library.get_vocab(), key=library.get_vocab().get)
    write_bert(network, words, path)
    model = load(path)
    tokenizer = Tokenizer(model.vocabulary, size=len(words))
    reference = library.backend_tokenizer
    reference.no_truncation()
    reference.no_padding()
    expected = [reference.encode(text).ids for text in TEXTS]
    assert [tokenizer.encode(text) for text in TEXTS] == expected
    engine = Engine(model)
    engine.run(*TEXTS, embedding=Embedding(pooling=None, normalize=True))
    for handle, ids in enumerate(expected):
        mean = states(network, ids).mean(axis=0)
        np.testing.assert_allclose(engine.vectors[handle], mean / np.linalg.norm(mean), atol=1e-5)
