from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from inferd.engine.text.detokenizer import Detokenizer
from inferd.engine.token.batcher import Batcher
from inferd.engine.token.drafts import Drafter
from inferd.engine.token.limits import Bounds
from inferd.engine.token.place import WAITING
from inferd.engine.token.prefix import PrefixChain
from inferd.engine.token.sampler import Sampler
from inferd.engine.token.samples import Samples
from inferd.engine.token.sequence import Origin, Sequence
from inferd.engine.token.step import Step
from inferd.plugin import TokenBatch
from inferd.plugin.pictures import Outline, Picture, PlacedPicture
from inferd.sampling import Sampling

BOUNDS = Bounds(
    rows=4,
    step_tokens=64,
    sequence_tokens=64,
    max_output_tokens=64,
    block_tokens=4,
    blocks=16,
    vocabulary_size=10,
)


class Watched(Batcher):
    """A batcher whose last step can be looked at."""

    last: Step

    def schedule(self, **options: Any) -> Step | None:
        step = super().schedule(**options)
        if step is not None:
            self.last = step
        return step


def make_batcher(**changes: int) -> Watched:
    bounds = replace(BOUNDS, **changes)
    return Watched(bounds=bounds, sampler=Sampler(rows=4, vocabulary_size=10))


def make_sequence(
    handle: int,
    *,
    prompt: int,
    max_tokens: int = 20,
    salt: bytes = b"t",
    lasting: bool = True,
    shares: bool = True,
    priority: int = 0,
    sample: int = 0,
    drafter: Drafter | None = None,
) -> Sequence:
    """A sequence whose prompt is 0, 1, 2 and so on."""
    chain = PrefixChain(salt=salt, block_tokens=4, lasting=lasting) if shares else None
    return Sequence(
        Origin(handle, sample, priority, chain),
        prompt=np.arange(prompt, dtype=np.int32) % 10,
        most_output=max_tokens,
        sampling=Sampling(temperature=0),
        ends=frozenset(),
        detokenizer=Detokenizer([""] * 10),
        drafter=drafter,
    )


def read_together(batcher: Watched, samples: list[Sequence]) -> list[int]:
    """Let the first sample of a task read the prompt, and the others wait to take it over; what the step computed."""
    task = Samples(samples)
    batcher.places.add(task.leader)
    counts = computed(step(batcher))
    for follower in task.release():
        batcher.places.follow(follower, task.leader)
    return counts


def step(batcher: Watched, *, token: int = 9) -> TokenBatch:
    """Schedule a step and give each sampled sequence `token`."""
    scheduled = batcher.schedule()
    assert scheduled is not None
    batcher.commit(scheduled, np.full(len(scheduled.sampled), token))
    for sequence in scheduled.sampled:
        sequence.accept(token)
    return scheduled.batch


def computed(batch: TokenBatch) -> list[int]:
    """Tokens of each sequence in the step."""
    counts: list[int] = np.diff(batch.starts).tolist()
    return counts


def run_one(batcher: Watched, sequence: Sequence, *, failed: bool = False) -> list[int]:
    """Let a sequence read its prompt and end; the tokens that the step computed."""
    batcher.places.add(sequence)
    counts = computed(step(batcher))
    batcher.places.remove(sequence, failed=failed)
    return counts


def test_second_prompt_computes_what_is_new() -> None:
    """Full blocks of a prompt that was read before are not computed again, and counted as cached."""
    batcher = make_batcher()
    assert run_one(batcher, make_sequence(1, prompt=10)) == [10]
    second = make_sequence(2, prompt=14)
    assert run_one(batcher, second) == [6]
    assert second.usage.cached_tokens == 8
    assert batcher.places.pool.free == 16


def test_last_token_of_a_prompt_is_always_computed() -> None:
    """A prompt of full blocks that are all there computes its last block, for the logits behind its last token."""
    batcher = make_batcher()
    run_one(batcher, make_sequence(1, prompt=8))
    assert run_one(batcher, make_sequence(2, prompt=8)) == [4]


def test_sequences_share_while_both_run() -> None:
    """A sequence finds blocks that another holds, and they come back when both have ended."""
    batcher = make_batcher()
    first, second = make_sequence(1, prompt=10), make_sequence(2, prompt=10)
    batcher.places.add(first)
    step(batcher)
    batcher.places.add(second)
    assert computed(step(batcher)) == [1, 2]
    assert first.place.blocks[:2] == second.place.blocks[:2]
    assert first.place.blocks[2] != second.place.blocks[2]
    batcher.places.remove(first)
    batcher.places.remove(second)
    assert batcher.places.pool.free == 16


def test_output_is_found_too() -> None:
    """A prompt that goes on from another's output finds it: the next turn of a conversation."""
    batcher = make_batcher()
    first = make_sequence(1, prompt=3)
    batcher.places.add(first)
    for _ in range(6):
        step(batcher)
    batcher.places.remove(first)
    second = make_sequence(2, prompt=12)
    second.tokens[:12] = [*first.tokens[:9].tolist(), 1, 2, 3]
    assert run_one(batcher, second) == [4]


@pytest.mark.parametrize("how", ["salt", "not lasting", "failed", "evicted"])
def test_what_is_not_found(how: str) -> None:
    """No blocks of another salt are found, none of a sequence that leaves none or that failed, none that was needed."""
    batcher = make_batcher()
    first = make_sequence(1, prompt=10, lasting=how != "not lasting")
    run_one(batcher, first, failed=how == "failed")
    if how == "evicted":
        run_one(batcher, make_sequence(2, prompt=61, max_tokens=4, salt=b"other"))
    second = make_sequence(3, prompt=10, salt=b"other" if how == "salt" else b"t")
    assert run_one(batcher, second) == [10]
    assert second.usage.cached_tokens == 0


def test_youngest_of_the_lowest_priority_gives_way() -> None:
    """Where no block is free, sequences lose theirs in the order of priority, then of age, the first one never."""
    batcher = make_batcher(blocks=6)
    old, young = (make_sequence(handle, prompt=4, shares=False) for handle in (1, 2))
    low = make_sequence(0, prompt=4, shares=False, priority=-1)
    for sequence in (old, young, low):
        batcher.places.add(sequence)
    step(batcher)  # three prompts of a block each; three blocks are left
    for _ in range(4):
        step(batcher)  # they take a second one each
    assert batcher.places.pool.free == 0
    step(batcher)
    assert (old.place.row != WAITING, young.place.row != WAITING, low.place.row) == (True, True, WAITING)
    for _ in range(4):
        step(batcher)
    assert (old.place.row != WAITING, young.place.row) == (True, WAITING)
    assert batcher.places.preempted == 2
    for _ in range(9):
        step(batcher)
    assert old.length == 4 + 1 + 4 + 1 + 4 + 9


def test_preempted_sequence_goes_on_where_it_was() -> None:
    """It comes before younger ones, finds its blocks, computes the rest again, and goes on at its next position."""
    batcher = make_batcher()
    first = make_sequence(1, prompt=6)
    batcher.places.add(first)
    for _ in range(5):
        step(batcher)
    batcher.places.add(make_sequence(2, prompt=3, salt=b"x"))
    batcher.places.preempt(first)
    batch = step(batcher)
    assert computed(batch) == [3, 3]  # 11 tokens, of which two blocks were found
    assert batch.positions.tolist() == [8, 9, 10, 0, 1, 2]
    assert batch.token_ids[:3].tolist() == [9, 9, 9]
    assert [s.handle for s in batcher.last.sampled] == [1, 2]
    assert batcher.last.positions.tolist() == [11, 3]
    assert first.usage.cached_tokens == 0
    assert batcher.reading == []


def test_priority_goes_before_age() -> None:
    """Of those that wait the highest priority comes first, then the oldest."""
    batcher = make_batcher()
    for handle, priority in ((1, 0), (2, 1), (3, 0), (4, 2), (5, 1)):
        batcher.places.add(make_sequence(handle, prompt=1, priority=priority))
    step(batcher)
    assert [sequence.handle for sequence in batcher.places.rows] == [4, 2, 5, 1]


@pytest.mark.parametrize(("prompt", "copies"), [(10, 2), (9, 0), (8, 2)])
def test_samples_take_over_the_prompt(prompt: int, copies: int) -> None:
    """The other samples share full blocks, copy the block that is written on, and compute the last token alone."""
    batcher = make_batcher()
    samples = [make_sequence(1, prompt=prompt, sample=sample) for sample in range(3)]
    assert read_together(batcher, samples) == [prompt]
    assert computed(step(batcher)) == [1, 1, 1]
    assert len(batcher.last.copies) == copies
    shared = (prompt - 1) // 4
    for sequence in samples[1:]:
        assert sequence.place.blocks[:shared] == samples[0].place.blocks[:shared]
        if copies:
            assert (samples[0].place.blocks[shared], sequence.place.blocks[shared]) in batcher.last.copies
    assert len({sequence.place.blocks[shared] for sequence in samples}) == 3
    step(batcher)
    assert batcher.last.copies == []
    for sequence in samples:
        batcher.places.remove(sequence)
    assert batcher.places.pool.free == 16


def test_samples_without_their_leader() -> None:
    """Samples whose leader has ended before there was a place for them read what they do not find themselves."""
    batcher = make_batcher()
    samples = [make_sequence(1, prompt=10, sample=sample) for sample in range(2)]
    read_together(batcher, samples)
    batcher.places.remove(samples[0])
    assert computed(step(batcher)) == [2]
    assert batcher.last.copies == []


@pytest.mark.parametrize(("right", "blocks"), [(0, 2), (1, 3), (2, 3)])
def test_blocks_of_wrong_guesses_come_back(right: int, blocks: int) -> None:
    """A guess of two tokens needs a third block, which stays as far as the guess was right."""
    batcher = make_batcher(draft_tokens=2)
    sequence = make_sequence(1, prompt=7, drafter=Drafter(most=2))
    sequence.tokens[:7] = [0, 1, 2, 0, 1, 2, 0]
    batcher.places.add(sequence)
    step(batcher, token=1)
    scheduled = batcher.schedule()
    assert scheduled is not None
    assert scheduled.batch.token_ids.tolist() == [1, 2, 0]
    assert len(sequence.place.blocks) == 3
    chosen = [2, 0, 1][:right] + [9] * (3 - right)
    assert batcher.commit(scheduled, np.array(chosen)) == [chosen[: right + 1]]
    assert len(sequence.place.blocks) == blocks
    assert np.count_nonzero(batcher.places.tables >= 0) == blocks
    assert batcher.places.pool.free == 16 - blocks


def test_prompt_tokens_beside_running_sequences() -> None:
    """Beside sequences that decode a prompt gets as many tokens as it is allowed, at least a block; alone all."""
    batcher = make_batcher()
    batcher.places.add(make_sequence(1, prompt=20, salt=b"x"))
    scheduled = batcher.schedule(prompt_tokens=0)
    assert scheduled is not None
    assert computed(scheduled.batch) == [20]
    batcher.commit(scheduled, np.array([1]))
    batcher.places.rows[0].accept(1)
    batcher.places.add(make_sequence(2, prompt=30, salt=b"y"))
    for allowed, expected in ((0, [1, 4]), (7, [1, 7]), (99, [1, 19])):
        scheduled = batcher.schedule(prompt_tokens=allowed)
        assert scheduled is not None
        assert computed(scheduled.batch) == expected
        batcher.commit(scheduled, np.full(len(scheduled.sampled), 1))
        for sequence in scheduled.sampled:
            sequence.accept(1)


@pytest.mark.parametrize("picture", [False, True])
def test_guesses_leave_room_for_a_prompt(picture: bool) -> None:  # noqa: FBT001 - a parameter of the test
    """However often guesses are right that would fill each step, a prompt is read beside them, and a whole picture."""
    batcher = make_batcher(draft_tokens=16, step_tokens=12, sequence_tokens=256, blocks=256, whole_pictures=picture)
    talking = [make_sequence(n, prompt=9, max_tokens=200, salt=bytes([n]), drafter=Drafter(most=16)) for n in (1, 2)]
    for sequence in talking:
        sequence.tokens[:9] = np.arange(9) % 3
        batcher.places.add(sequence)

    def go_on() -> None:
        scheduled = batcher.schedule()
        assert scheduled is not None
        batch = scheduled.batch
        chosen = (batch.token_ids[batch.logit_rows] + 1) % 3  # as it was guessed
        verified = batcher.commit(scheduled, chosen) or [[token] for token in chosen.tolist()]
        for sequence, tokens in zip(scheduled.sampled, verified, strict=True):
            for token in tokens:
                sequence.accept(token)

    while len(batcher.places.rows) < 2 or talking[0].output_tokens < 40:
        go_on()
    reading = make_sequence(3, prompt=8, salt=b"c")
    if picture and reading.chain is not None:
        seen = Picture(key=b"one", outline=Outline(text="", tokens=8, pixels=1), values=dict)
        reading.chain.show((PlacedPicture(picture=seen, places=np.arange(8, dtype=np.int32)),))
    batcher.places.add(reading)
    for _ in range(4):
        go_on()
    assert reading.output_tokens
    assert not any(sequence.finish for sequence in talking)
