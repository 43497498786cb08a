"""A smaller model that guesses for another one: outputs stay what they were, and fewer steps give them."""

import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from beats import Engine, Task, greedy

from inferd.engine.activity import Activity
from inferd.engine.token.draft_model import Asked, DraftModel
from inferd.engine.token.drafts import Drafter
from inferd.engine.token.limits import EngineLimits
from inferd.plugin import LoadedModel, LoadError, LoadRequest
from inferd.plugin.backend import read_settings
from inferd.sampling import Sampling
from inferd.testing.batches import Part, compute
from inferd.testing.fake import VOCABULARY, FakeBackend
from inferd.testing.kernel import write_fake_model

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")
from tiny_folders import load, save  # noqa: E402 - what is imported above needs both
from tiny_networks import make_network  # noqa: E402 - as above

from inferd_torch.backend import TorchBackend  # noqa: E402 - as above
from inferd_torch.plugin import SPEC  # noqa: E402 - as above

torch.set_num_threads(1)
SIZE, OUTPUT = 258, 24
PROMPTS = [tuple((7 * i * i + (3 + handle) * i + 11) % 256 for i in range(n)) for handle, n in enumerate((40, 9, 21))]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A network, one of other weights and fewer layers, one of other tokens, and one with states."""
    made = {
        "model": make_network("llama", vocab_size=SIZE),
        "other": make_network("llama", vocab_size=SIZE, num_hidden_layers=1, hidden_size=32, intermediate_size=32),
        "words": make_network("llama"),
        "states": make_network("qwen3_5", vocab_size=SIZE),
    }
    return {name: save(each, tmp_path_factory.mktemp(name)) for name, each in made.items()}


def endless(model: LoadedModel) -> LoadedModel:
    """With the vocabulary of the tests, of which nothing ends an output."""
    known = replace(VOCABULARY, tokens=VOCABULARY.tokens[:SIZE], kinds=VOCABULARY.kinds[:SIZE], eos_ids=())
    return replace(model, vocabulary=known)


def answers(model: LoadedModel, drafts: int, task: Any = greedy) -> tuple[list[list[int]], int, int, int]:
    """The outputs of all prompts, asked twice, the steps that they took, and tokens guessed and right."""
    engine = Engine(endless(model), EngineLimits(draft_tokens=drafts, step_tokens=64))
    for turn in range(2):
        for place, ids in enumerate(PROMPTS):
            engine.submit(turn * len(PROMPTS) + place, task(ids, max_tokens=OUTPUT))
        engine.finish()
    usages = [ended.usage for ended in engine.ended.values()]
    outputs = [engine.outputs[handle, 0] for handle in range(2 * len(PROMPTS))]
    drafted, accepted = sum(each.drafted_tokens for each in usages), sum(each.accepted_tokens for each in usages)
    model.session.close()
    return outputs, engine.loop.steps, drafted, accepted


def sampled(ids: tuple[int, ...], *, max_tokens: int) -> Task:
    return Task(prompt=ids, sampling=Sampling(temperature=0.8, seed=5, max_tokens=max_tokens))


def loaded(**behaviour: Any) -> LoadedModel:
    """The fake model, which computes little."""
    with tempfile.TemporaryDirectory() as folder:
        request = LoadRequest(path=write_fake_model(Path(folder), **behaviour), device="fake:0", capacity_bytes=1 << 30)
        return FakeBackend().load(request, lambda _: None)


def fake(**behaviour: Any) -> Any:
    """Its session."""
    return loaded(**behaviour).session


@pytest.mark.parametrize("task", [greedy, sampled])
def test_outputs_are_those_without_guesses(folders: dict[str, Path], task: Any) -> None:
    """By itself nearly all guesses are right, and steps are few; by another model few are; tokens are the same."""
    plain, steps, _, _ = answers(load(folders["model"]), 0, task)
    own, fewer, drafted, accepted = answers(load(folders["model"], draft=str(folders["model"])), 4, task)
    strange, _, guessed, right = answers(load(folders["model"], draft=str(folders["other"])), 4, task)
    assert own == strange == plain
    assert guessed > right
    if task is greedy:
        assert accepted > 0.95 * drafted > 0
        assert fewer < 0.5 * steps


def test_torch_guesses_alike(folders: dict[str, Path]) -> None:
    """The backend `torch` loads a model that guesses, too."""

    def make(**settings: str) -> LoadedModel:
        given = read_settings(SPEC, {"kv_tokens": "1024", **settings})
        request = LoadRequest(path=folders["model"], device="cpu:0", settings=given, capacity_bytes=2 << 30)
        return TorchBackend().load(request, lambda _: None)

    plain, steps, _, _ = answers(make(), 0)
    guessed, fewer, drafted, accepted = answers(make(draft=str(folders["model"])), 4)
    assert guessed == plain
    assert accepted > 0.95 * drafted > 0
    assert fewer < 0.5 * steps


def test_guesses_are_the_likeliest_tokens_whatever_was_guessed_before(folders: dict[str, Path]) -> None:
    """What was guessed wrong leaves nothing behind, long prompts are read in parts, and blocks come back."""
    alone = load(folders["model"]).session

    def expect(tokens: list[int], count: int) -> list[int]:
        made = list(tokens)
        for _ in range(count):
            (logits,) = compute(alone, Part(token_ids=made, blocks=range(16), wanted=[len(made) - 1]))
            made.append(int(logits[0].argmax()))
        return made[len(tokens) :]

    session = load(folders["model"], max_step_tokens="16", kv_tokens="192").session
    model = DraftModel(session, Activity())
    first, second = Drafter(most=4, by_model=True), Drafter(most=4, by_model=True)

    def guess(drafter: Drafter, tokens: list[int], count: int) -> list[int]:
        asked = [Asked(drafter, np.array(tokens, np.int32), count)]
        found: list[int] = model.guess(asked, present=[first, second])[0].tolist()
        return found

    tokens = list(PROMPTS[0])  # of 40 tokens, of which a step reads 16
    assert guess(first, tokens, 3) == []
    assert guess(first, tokens, 3) == []
    told = guess(first, tokens, 3)
    assert told == expect(tokens, 3)
    tokens += [told[0], (told[1] + 1) % 256]  # one was right, the next one was not
    assert guess(first, tokens, 4) == expect(tokens, 4)
    other = list(PROMPTS[1])
    assert guess(second, other, 2) == expect(other, 2)
    assert guess(first, [*tokens, 3], 1) == expect([*tokens, 3], 1)
    lasting = Drafter(most=4, by_model=True)
    model.guess([Asked(lasting, np.array([1], np.int32), 1)], present=[lasting])
    assert len(model._free) == session.limits.blocks - 1  # what the others had is free
    alone.close()
    session.close()


def test_a_long_prompt_is_read_no_faster_than_streams_beside_it_permit() -> None:
    """Of a prompt that it has not read it reads so many tokens as a step may have of prompts; it guesses for others."""
    session = fake(blocks=64, max_step_tokens=512)
    read: list[int] = []
    step = session.step

    def counted(batch: Any) -> Any:
        read.append(len(batch.token_ids))
        return step(batch)

    session.step = counted
    model = DraftModel(session, Activity())
    long, short = Drafter(most=1, by_model=True), Drafter(most=1, by_model=True)
    asked = [Asked(long, np.full(300, 97, np.int32), 1), Asked(short, np.full(4, 98, np.int32), 1)]
    found = [model.guess(asked, present=[long, short], most_read=100) for _ in range(3)]
    assert read == [104, 101, 101]
    assert [[len(guess) for guess in both] for both in found] == [[0, 1], [0, 1], [1, 1]]


def test_the_steps_of_a_stream_wait_for_few_tokens_of_prompts_that_are_read_for_guesses() -> None:
    """The engine has it read no more at once than steps may have of prompts beside streams."""
    session = fake(blocks=64, max_step_tokens=512)
    read: list[int] = []
    step = session.step

    def counted(batch: Any) -> Any:
        read.append(len(batch.token_ids))
        return step(batch)

    session.step = counted
    engine = Engine(replace(loaded(blocks=128), draft=session), EngineLimits(draft_tokens=4, gap_s=1e-9))
    engine.submit(1, sampled((97, 100, 98), max_tokens=60))
    engine.submit(2, sampled(tuple(n * n % 251 for n in range(120)), max_tokens=20))
    engine.finish()
    assert read
    assert max(read) < 80


def test_one_that_fails_guesses_nothing_any_more(folders: dict[str, Path]) -> None:
    """A step of it that raises changes no output, and it is not asked again."""
    model = load(folders["model"], draft=str(folders["model"]))
    calls = []

    def step(batch: Any) -> Any:
        calls.append(batch)
        raise RuntimeError("it broke")

    model.draft.step = step  # type: ignore[union-attr, method-assign]
    outputs, _, drafted, accepted = answers(model, 4)
    assert outputs == answers(load(folders["model"]), 0)[0]
    assert len(calls) == 1
    assert drafted >= accepted


def test_what_cannot_guess_is_refused(folders: dict[str, Path]) -> None:
    """One of other tokens, and one that takes no token back, with both numbers or why."""
    with pytest.raises(LoadError, match="has 320 tokens, and the model 258: take another"):
        load(folders["model"], draft=str(folders["words"]))
    with pytest.raises(LoadError, match="takes no token back"):
        load(folders["model"], draft=str(folders["states"]))
