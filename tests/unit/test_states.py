"""Layers that keep a state of each sequence: what the engine does not ask of them, and what they refuse."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from inferd.engine.text.detokenizer import Detokenizer
from inferd.engine.token.batcher import Batcher
from inferd.engine.token.limits import Bounds, EngineLimits
from inferd.engine.token.prefix import PrefixChain
from inferd.engine.token.sampler import Sampler
from inferd.engine.token.samples import Samples
from inferd.engine.token.sequence import Origin, Sequence
from inferd.plugin import LoadRequest, TokenSession
from inferd.plugin.backend import read_settings
from inferd.sampling import Sampling
from inferd.testing.batches import Part, compute
from inferd_cpu.backend import CpuBackend
from inferd_cpu.capacity import DEFAULT_POOL_BYTES
from inferd_cpu.plugin import SPEC

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")
import tiny_family  # noqa: E402 - what is imported below needs both
from network_to_gguf import write_network  # noqa: E402

torch.set_num_threads(1)  # of small products, more only wait for each other
IDS = np.random.default_rng(6).integers(3, tiny_family.VOCABULARY, size=70)
POOL = {"kv_tokens": "2048", "max_sequences": "4", "max_step_tokens": "48"}
OUTPUT = 20


def load(path: Path, **settings: str) -> TokenSession:
    request = LoadRequest(
        path=path,
        device="cpu:0",
        settings=read_settings(SPEC, {"compute": "exact", **settings}),
        capacity_bytes=2 << 30,
    )
    return CpuBackend().load(request, lambda _: None).session


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    path = tmp_path_factory.mktemp("states") / "tiny.gguf"
    return path, write_network("qwen3_5", path)


@pytest.fixture
def session(network: tuple[Path, Any]) -> Iterator[TokenSession]:
    session = load(network[0], **POOL)
    yield session
    session.close()


class Engine:
    """Steps of a batcher that a session computes, greedily."""

    def __init__(self, session: TokenSession, *, draft_tokens: int) -> None:
        bounds = Bounds.of(session.limits, EngineLimits(step_tokens=48, draft_tokens=draft_tokens))
        self._session = session
        self._vocabulary_size = bounds.vocabulary_size
        self.bounds = bounds
        self.batcher = Batcher(bounds=bounds, sampler=Sampler(rows=bounds.rows, vocabulary_size=bounds.vocabulary_size))
        self.computed = 0  # tokens

    def make(self, handle: int, ids: list[int], number: int = 0) -> Sequence:
        chain = PrefixChain(salt=b"t", block_tokens=self.bounds.block_tokens)
        return Sequence(
            Origin(handle, number, 0, chain),
            prompt=np.array(ids, np.int32),
            most_output=OUTPUT,
            sampling=Sampling(temperature=0),
            ends=frozenset(),
            detokenizer=Detokenizer([""] * self._vocabulary_size),
        )

    def run(self, sequences: list[Sequence]) -> list[list[int]]:
        """The output of each."""
        output: dict[int, list[int]] = {id(each): [] for each in sequences}
        task = Samples(sequences)
        self.batcher.places.add(task.leader)
        for _ in range(4 * OUTPUT):
            step = self.batcher.schedule()
            if step is None:
                break
            self._session.copy_blocks(step.copies)
            self.computed += len(step.batch.token_ids)
            chosen = np.asarray(self._session.step(step.batch).logits).argmax(axis=-1)
            assert self.batcher.commit(step, chosen) is None
            for sequence, token in zip(list(step.sampled), chosen.tolist(), strict=True):
                sequence.accept(token)
                output[id(sequence)].append(token)
                if sequence is task.leader and len(output[id(sequence)]) == 1:
                    for follower in task.release():
                        self.batcher.places.follow(follower, task.leader)
                if len(output[id(sequence)]) == OUTPUT:
                    self.batcher.places.remove(sequence)
        return [output[id(each)] for each in sequences]


@torch.inference_mode()
def continue_with_transformers(network: Any, ids: list[int]) -> list[int]:
    given = torch.tensor([ids])
    for _ in range(OUTPUT):
        given = torch.cat([given, network(input_ids=given, use_cache=False).logits[:, -1:].argmax(dim=-1)], dim=1)
    return [int(token) for token in given[0, len(ids) :]]


@pytest.mark.parametrize("prompt", [31, 32, 33, 70])
def test_samples_and_later_tasks_share_states(session: TokenSession, network: tuple[Path, Any], prompt: int) -> None:
    """Samples go on from the last border of blocks, later tasks from what is found; all say what transformers says."""
    engine = Engine(session, draft_tokens=4)
    assert 0 < session.limits.window_blocks < session.limits.blocks
    ids = IDS[:prompt].tolist()
    expected = continue_with_transformers(network[1], ids)
    three = [engine.make(1, ids, number) for number in range(3)]
    assert engine.run(three) == [expected] * 3
    engine.computed = 0
    assert engine.run([engine.make(2, ids)]) == [expected]
    assert engine.computed == prompt - (prompt - 1) // 16 * 16 + OUTPUT - 1


def test_nothing_is_guessed(session: TokenSession) -> None:
    """What was guessed wrong could not be taken back."""
    assert session.limits.forward_only
    assert Bounds.of(session.limits, EngineLimits(draft_tokens=4)).draft_tokens == 0


def test_a_state_goes_neither_back_nor_ahead(session: TokenSession) -> None:
    """A position that is not behind the tokens of the state is refused with both, and the session goes on."""
    ids = IDS[:30].tolist()
    (expected,) = compute(session, Part(token_ids=ids, blocks=[3, 4]))
    for begin in (17, 29):
        with pytest.raises(ValueError, match=f"position {begin} behind a state of 30 tokens"):
            compute(session, Part(token_ids=ids[begin:], begin=begin, blocks=[3, 4]))
    with pytest.raises(ValueError, match="position 31 behind a state of 30 tokens"):
        compute(session, Part(token_ids=ids[:1], begin=31, blocks=[3, 4]))
    (again,) = compute(session, Part(token_ids=ids[16:], begin=16, blocks=[3, 4]))
    np.testing.assert_allclose(again, expected[16:], atol=1e-4)


def test_states_take_their_share_of_the_pool(network: tuple[Path, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Where sizes are not set, blocks are larger, and there are so many sequences that states leave half for tokens."""
    limits = load(network[0]).limits
    assert (limits.block_tokens, limits.max_sequences) == (64, 64)
    monkeypatch.setattr("inferd_cpu.capacity.DEFAULT_POOL_BYTES", DEFAULT_POOL_BYTES // 1000)
    limits = load(network[0]).limits
    assert 1 < limits.max_sequences < 64
    assert limits.context_tokens == tiny_family.CONTEXT
