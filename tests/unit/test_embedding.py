import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from inferd.core.task import FinishReason
from inferd.engine.token.embedding import PromptPool
from inferd.engine.token.limits import EngineLimits
from inferd.engine.token.loop import Loop
from inferd.engine.token.submission import Submission
from inferd.engine.work import Embedding, TokenInput
from inferd.errors import BackendFailedError, UnsupportedInputError
from inferd.plugin import LoadRequest, StepResult, TokenBatch
from inferd.plugin.backend import Pooling
from inferd.sampling import Sampling
from inferd.testing.fake import FakeBackend
from inferd.testing.kernel import write_fake_model

if TYPE_CHECKING:
    from inferd.engine.token.output import Ended, StepOutput

DEADLINE_S = 60.0
LAST = Embedding(pooling=Pooling.LAST, normalize=False)
MEAN = Embedding(pooling=Pooling.MEAN, normalize=False)
FIRST = Embedding(pooling=Pooling.FIRST, normalize=False)
PROMPT = tuple(range(10, 80))


class Engine:
    """A loop over the fake model, whose hidden state is the token, its position and 1."""

    def __init__(self, folder: Path, *, step_tokens: int = 512, **behaviour: Any) -> None:
        request = LoadRequest(path=write_fake_model(folder, **behaviour), device="fake:0", capacity_bytes=1 << 30)
        self.model = FakeBackend().load(request, lambda _: None)
        self.loop = Loop(self.model, EngineLimits(step_tokens=step_tokens), self._take)
        self.vectors: dict[int, tuple[float, ...]] = {}
        self.ended: dict[int, Ended] = {}
        self.told: set[int] = set()
        self._all_ended = threading.Event()
        self._expected = 0

    def submit(self, prompt: tuple[int, ...], embedding: Embedding | None, **more: Any) -> int:
        self._expected += 1
        sampling = Sampling(temperature=0, max_tokens=40)
        self.loop.submit(Submission(self._expected, TokenInput(prompt), sampling, embedding=embedding, **more))
        return self._expected

    def run(self) -> None:
        """Run until all that was submitted has ended."""
        thread = threading.Thread(target=self.loop.run)
        thread.start()
        done = self._all_ended.wait(DEADLINE_S)
        self.loop.stop()
        thread.join(DEADLINE_S)
        assert done

    def _take(self, output: "StepOutput") -> None:
        self.vectors |= output.embeddings
        self.told |= set(output.handles)
        self.ended |= {ended.handle: ended for ended in output.ended}
        if len(self.ended) == self._expected:
            self._all_ended.set()


@pytest.mark.parametrize("step_tokens", [512, 32, 16])
def test_last_and_mean_over_chunks(tmp_path: Path, step_tokens: int) -> None:
    """The last token's state and the mean of all are the same, however the prompt was split into steps."""
    engine = Engine(tmp_path, step_tokens=step_tokens)
    last, mean, text = (engine.submit(PROMPT, each) for each in (LAST, MEAN, None))
    engine.run()
    assert engine.vectors == {last: (79.0, 69.0, 1.0), mean: (44.5, 34.5, 1.0)}
    assert engine.told == {text}
    for handle in (last, mean):
        usage = engine.ended[handle].usage
        assert (usage.prompt_tokens, usage.output_tokens) == (70, 0)
        assert engine.ended[handle].reason is FinishReason.UNSPECIFIED
        assert engine.ended[handle].error is None


def test_mean_of_a_prompt_that_is_in_the_prefix_cache(tmp_path: Path) -> None:
    """A mean needs every token's state: it takes none from the prefix cache; the last token's state may follow it."""
    engine = Engine(tmp_path, max_sequences=1)
    _, mean, last = (engine.submit(PROMPT, each) for each in (LAST, MEAN, LAST))
    engine.run()
    assert engine.vectors[mean] == (44.5, 34.5, 1.0)
    assert engine.ended[mean].usage.cached_tokens == 0
    assert engine.vectors[last] == (79.0, 69.0, 1.0)
    assert engine.ended[last].usage.cached_tokens == 64


def test_first_of_a_prompt_that_is_in_the_prefix_cache(tmp_path: Path) -> None:
    """The first token's state is computed though the cache has its keys; chunks behind it add nothing."""
    engine = Engine(tmp_path, step_tokens=16, max_sequences=1)
    first = [engine.submit(PROMPT, FIRST) for _ in range(2)]
    engine.run()
    assert [engine.vectors[handle] for handle in first] == [(10.0, 0.0, 1.0)] * 2


def test_mean_of_a_prompt_that_was_preempted(tmp_path: Path) -> None:
    """When blocks run out in the middle of a prompt, its tokens are computed again and counted once."""
    engine = Engine(tmp_path, step_tokens=16, blocks=6)
    engine.submit(PROMPT[:14], None, priority=1)
    mean = engine.submit(PROMPT, MEAN)
    engine.run()
    assert engine.loop._places.preempted
    assert engine.vectors == {mean: (44.5, 34.5, 1.0)}


def test_normalized() -> None:
    """A normalised vector has length 1; one of zeros stays as it is."""
    for hidden, expected in (([3.0, 4.0], (0.6, 0.8)), ([0.0, 0.0], (0.0, 0.0))):
        pool = PromptPool(1, Embedding(pooling=Pooling.MEAN))
        assert list(pool.wanted(0, 1)) == [0]
        pool.add(np.array([hidden], np.float32))
        assert pool.vector() == pytest.approx(expected)


def test_a_backend_without_hidden_states(tmp_path: Path) -> None:
    """An embedding of a backend that gives none is refused by its field."""
    engine = Engine(tmp_path, embedding_size=0)
    embedding = engine.submit(PROMPT, LAST)
    engine.run()
    error = engine.ended[embedding].error
    assert isinstance(error, UnsupportedInputError)
    assert error.field == "spec.embedding"


@pytest.mark.parametrize("bad", [None, np.zeros((1, 2), np.float32), np.full((1, 3), np.nan, np.float32)])
def test_a_backend_that_gives_wrong_hidden_states(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bad: Any) -> None:
    """Hidden states that are missing, misshapen or no numbers fail the task, typed."""
    engine = Engine(tmp_path)
    session: Any = engine.model.session
    step = session.step

    def wrong(batch: TokenBatch) -> StepResult:
        return StepResult(logits=step(batch).logits, hidden=bad)

    monkeypatch.setattr(session, "step", wrong)
    handle = engine.submit(PROMPT, LAST)
    engine.run()
    assert isinstance(engine.ended[handle].error, BackendFailedError)
    assert engine.vectors == {}
