"""LongRoPE: texts up to what a model saw at first rotate by short factors, longer ones as a whole by long ones."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from beats import Engine, Task, greedy

from inferd.engine.token.limits import EngineLimits
from inferd.plugin import LoadedModel
from inferd.sampling import Sampling
from inferd.testing.batches import Part, compute
from inferd.testing.fake import VOCABULARY
from inferd_cpu.native import LIBRARY

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
from tiny_folders import load, save  # noqa: E402 - what is imported above needs both

torch.set_num_threads(1)  # of small products, more only wait for each other
BORDER, SIZE, OUTPUT = 64, 258, 24
ENDS = tuple(range(0, 250, 20))  # so that samples end at different tokens
LENGTHS = (50, 1, 20, 40, 63, 64, 65, 100)  # stay short, cross the border, begin behind it
PROMPTS = [tuple((7 * i * i + (3 + handle) * i + 11) % 256 for i in range(n)) for handle, n in enumerate(LENGTHS)]


@pytest.fixture(scope="module")
def network() -> Any:
    rope = {"rope_type": "longrope", "rope_theta": 1e4, "short_factor": [1 + 0.1 * i for i in range(8)]}
    config = transformers.Phi3Config(
        vocab_size=SIZE,
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=256,
        original_max_position_embeddings=BORDER,
        pad_token_id=0,
        bos_token_id=257,
        eos_token_id=256,
        initializer_range=0.15,
        sliding_window=None,
        rope_parameters=rope | {"long_factor": [2.0 + 2 * i for i in range(8)]},
    )
    torch.manual_seed(0)
    return transformers.Phi3ForCausalLM(config).eval()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, network: Any) -> Path:
    return save(network, tmp_path_factory.mktemp("longrope"))


@pytest.fixture(scope="module")
def expected(network: Any) -> list[list[int]]:
    """What transformers generates, which computes a text anew when it crosses the border."""
    with torch.inference_mode():
        return [
            network.generate(torch.tensor([ids]), max_new_tokens=OUTPUT, do_sample=False, eos_token_id=None)[
                0
            ].tolist()[len(ids) :]
            for ids in PROMPTS
        ]


@pytest.fixture
def model(folder: Path) -> Iterator[LoadedModel]:
    model = load(folder)
    yield replace(
        model,
        vocabulary=replace(VOCABULARY, tokens=VOCABULARY.tokens[:SIZE], kinds=VOCABULARY.kinds[:SIZE], eos_ids=()),
    )
    model.session.close()


@pytest.mark.parametrize(("step_tokens", "drafts"), [(512, 0), (16, 4)])
def test_greedy_ids_equal_those_of_transformers(
    model: LoadedModel, expected: list[list[int]], step_tokens: int, drafts: int
) -> None:
    """Texts that stay short, that cross the border and that begin behind it, all at once, whole or in parts, twice."""
    engine = Engine(model, EngineLimits(step_tokens=step_tokens, draft_tokens=drafts))
    for turn in range(2):  # the second finds what the first has left
        for place, ids in enumerate(PROMPTS):
            engine.submit(turn * len(PROMPTS) + place, greedy(ids, max_tokens=OUTPUT))
        engine.finish()
    assert engine.places.preempted == 0
    assert any(ended.usage.cached_tokens > BORDER for ended in engine.ended.values())
    outputs = [engine.outputs[handle, 0] for handle in range(2 * len(PROMPTS))]
    assert outputs == 2 * expected


@pytest.mark.parametrize("told", [3, 13, 14, 15, 20])
def test_a_text_that_goes_on_elsewhere_is_the_same(model: LoadedModel, expected: list[list[int]], told: int) -> None:
    """Suspended before, at and behind the border, and resumed in an engine that has seen nothing of it."""
    one, other = Engine(model), Engine(model)
    one.submit(0, greedy(PROMPTS[0], max_tokens=OUTPUT))
    while len(one.outputs[0, 0]) < told:
        one.step()
    one.suspend(0)
    one.move(0, other)
    other.finish()
    assert other.outputs[0, 0] == expected[0]


@pytest.mark.parametrize("seed", [1, 2, 4])
def test_samples_that_come_late_do_not_take_what_crossed(folder: Path, model: LoadedModel, seed: int) -> None:
    """Samples wait for a row while the first of them goes on: its copy of the prompt is a longer text's by then."""
    texts = []
    for rows in (2, 64):
        session = load(folder, max_sequences=str(rows)).session
        engine = Engine(replace(model, session=session, vocabulary=replace(model.vocabulary, eos_ids=ENDS)))
        sampling = Sampling(temperature=1.0, seed=seed, n=5, max_tokens=60)
        engine.submit(0, Task(prompt=PROMPTS[0], sampling=sampling))
        engine.finish()
        texts.append([engine.outputs[0, sample] for sample in range(5)])
        session.close()
    assert texts[0] == texts[1]
    assert any(len(PROMPTS[0]) + len(text) > BORDER for text in texts[0])


@pytest.mark.skipif(not LIBRARY.exists(), reason="the native library is not built")
@pytest.mark.parametrize("length", [40, 65, 100])
def test_the_native_session_chooses_the_same_factors(folder: Path, length: int) -> None:
    """Its logits are near those in fp32, and farther from those by the other factors."""
    ids = [(7 * i * i + 3 * i + 11) % 256 for i in range(length)]

    def read(kind: str, kv_tokens: int = 1024, **more: bool) -> np.ndarray[Any, Any]:
        session = load(folder, compute=kind, kv_tokens=str(kv_tokens)).session
        (logits,) = compute(session, Part(token_ids=ids, blocks=range(8), wanted=range(20, length), **more))
        session.close()
        return logits

    native, exact = read("native"), read("exact")
    other = read("exact", beyond=True) if length <= BORDER else None
    near = np.abs(native - exact).mean()
    assert near < 0.1 * exact.std()
    assert other is None or near < np.abs(native - other).mean() / 3


def test_a_batch_says_which_sequences_are_long(model: LoadedModel) -> None:
    """A sequence of more tokens than the border that is not said to be longer is refused, in words."""
    with pytest.raises(ValueError, match="not said to be beyond the border, 64"):
        compute(model.session, Part(token_ids=[1], begin=70, blocks=range(5), beyond=False))
