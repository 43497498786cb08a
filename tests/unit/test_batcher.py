from collections.abc import Sequence as Items
from copy import deepcopy
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np

from inferd.engine.text.detokenizer import Detokenizer
from inferd.engine.token.batcher import Batcher
from inferd.engine.token.limits import Bounds, EngineLimits
from inferd.engine.token.places import NO_BLOCK
from inferd.engine.token.sampler import Sampler
from inferd.engine.token.sequence import Origin, Sequence
from inferd.engine.token.step import Step
from inferd.engine.token.submission import SampleSoFar
from inferd.plugin import TokenBatch, TokenLimits
from inferd.sampling import Sampling

SESSION = TokenLimits(
    vocabulary_size=10, context_tokens=64, block_tokens=4, blocks=64, max_sequences=4, max_step_tokens=16
)

GREEDY = Sampling(temperature=0)


class Watched(Batcher):
    """A batcher whose last step can be looked at."""

    last: Step

    def schedule(self, **options: Any) -> Step | None:
        step = super().schedule(**options)
        if step is not None:
            self.last = step
        return step


def make_batcher(**changes: int) -> Watched:
    bounds = Bounds.of(replace(SESSION, **changes), EngineLimits())
    return Watched(bounds=bounds, sampler=Sampler(rows=bounds.rows, vocabulary_size=10))


def make_sequence(handle: int, *, prompt: int, max_tokens: int = 8, sampling: Sampling = GREEDY) -> Sequence:
    """A sequence whose prompt is 0, 1, 2 and so on."""
    return Sequence(
        Origin(handle),
        prompt=np.arange(prompt, dtype=np.int32) % 10,
        most_output=max_tokens,
        sampling=sampling,
        ends=frozenset(),
        detokenizer=Detokenizer([""] * 10),
    )


def step(batcher: Watched, *, token: int = 9, prompt_tokens: int | None = None, alone_tokens: int = 0) -> TokenBatch:
    """Schedule, check what holds for every step, give each sampled sequence `token`; the step, copied."""
    scheduled = batcher.schedule(prompt_tokens=prompt_tokens, alone_tokens=alone_tokens)
    assert scheduled is not None
    copied = deepcopy(scheduled.batch)
    counts = np.diff(copied.starts)
    assert (counts > 0).all()
    assert copied.starts[0] == 0
    assert copied.starts[-1] == len(copied.token_ids) == len(copied.positions) <= 16
    for row, (begin, end) in enumerate(zip(copied.starts, copied.starts[1:], strict=False)):
        positions = copied.positions[begin:end].tolist()
        assert positions == list(range(copied.lengths[row] - len(positions), copied.lengths[row]))
        table = copied.block_tables[row]
        used = -(-int(copied.lengths[row]) // 4)
        assert (table[:used] != NO_BLOCK).all()
        assert (table[used:] == NO_BLOCK).all()
    held = copied.block_tables[copied.block_tables != NO_BLOCK]
    assert len(set(held.tolist())) == len(held)
    assert copied.logit_rows.tolist() == [copied.starts[row + 1] - 1 for row in range(len(scheduled.sampled))]
    batcher.commit(scheduled, np.full(len(scheduled.sampled), token))
    return copied


def shares(batch: TokenBatch) -> list[int]:
    """Tokens of each sequence in the step."""
    counts: list[int] = np.diff(batch.starts).tolist()
    return counts


def handles(sequences: Items[Sequence]) -> list[int]:
    return [sequence.handle for sequence in sequences]


def test_nothing_to_do() -> None:
    """Without sequences there is no step."""
    assert make_batcher().schedule() is None


def test_prompt_and_then_one_token_a_step() -> None:
    """A prompt is computed, and from then on the token that the step before gave."""
    batcher = make_batcher()
    batcher.places.add(make_sequence(1, prompt=5))
    assert step(batcher, token=7).token_ids.tolist() == [0, 1, 2, 3, 4]
    batch = step(batcher)
    assert batch.token_ids.tolist() == [7]
    assert batch.positions.tolist() == [5]


def test_new_prompts_share_a_step() -> None:
    """Prompts that fit are computed in one step, in the order of their arrival."""
    batcher = make_batcher()
    for handle, prompt in ((1, 3), (2, 1), (3, 5)):
        batcher.places.add(make_sequence(handle, prompt=prompt))
    assert shares(step(batcher)) == [3, 1, 5]
    assert handles(batcher.last.sampled) == [1, 2, 3]


def test_long_prompt_is_read_in_chunks() -> None:
    """A prompt over the budget takes several steps, and gives its first token at the end of the last."""
    batcher = make_batcher()
    long = make_sequence(1, prompt=40)
    batcher.places.add(long)
    batcher.places.add(make_sequence(2, prompt=2))
    assert shares(step(batcher)) == [16]
    assert batcher.last.sampled == []
    assert batcher.reading == [(long, 0.4)]
    assert shares(step(batcher)) == [16]
    assert shares(step(batcher)) == [8, 2]
    assert handles(batcher.last.sampled) == [1, 2]
    assert batcher.reading == []


def test_few_tokens_a_step_are_learned_from_again() -> None:
    """A prompt is read as ever; of an output that mirostat learns from again, a block of rows goes into each step."""
    batcher = make_batcher()
    again = make_sequence(1, prompt=20, max_tokens=20, sampling=Sampling(mirostat_tau=3))
    again.restore(SampleSoFar(token_ids=(5,) * 10))
    batcher.places.add(again)
    learned = []
    for expected in (16, 7, 4, 3):
        scheduled = batcher.schedule()
        assert scheduled is not None
        assert shares(scheduled.batch) == [expected]
        batcher.commit(scheduled, np.full(len(scheduled.sampled), 9))
        learned.append(sum(each.count for each in scheduled.scored))
        assert again.surprise is not None
        again.surprise.known += learned[-1]
    assert learned == [0, 4, 4, 2]
    assert handles(batcher.last.sampled) == [1]


def test_running_sequences_come_first() -> None:
    """Running sequences get their token in every step; a long prompt gets what is left of the budget."""
    batcher = make_batcher()
    for handle in (1, 2):
        batcher.places.add(make_sequence(handle, prompt=4))
    step(batcher)
    batcher.places.add(make_sequence(3, prompt=33))
    assert shares(step(batcher)) == [1, 1, 14]
    assert handles(batcher.last.sampled) == [1, 2]
    assert shares(step(batcher)) == [1, 1, 14]
    assert shares(step(batcher)) == [1, 1, 5]
    assert handles(batcher.last.sampled) == [1, 2, 3]


def test_prompt_that_fits_only_alone_has_a_step_without_those_that_decode() -> None:
    """Of two prompts that fill a step each, the first has one, then those that decode, with a block of the second."""
    batcher = make_batcher()
    for handle in (1, 2):
        batcher.places.add(make_sequence(handle, prompt=4))
    step(batcher)
    for handle in (3, 4):
        batcher.places.add(make_sequence(handle, prompt=16))
    found = []
    for _ in range(4):
        batch = step(batcher, prompt_tokens=16, alone_tokens=16)
        found.append((shares(batch), handles(batcher.last.sampled)))
    assert found == [([16], [3]), ([1, 1, 1, 4], [1, 2, 3]), ([1, 1, 1, 12], [1, 2, 3, 4]), ([1] * 4, [1, 2, 3, 4])]


def test_prompt_that_takes_too_long_alone_is_cut() -> None:
    """Those that decode wait for a prompt of so many tokens as they may wait for, and for none that they leave room."""
    for most, prompt, expected in ((15, 16, [1, 1, 14]), (16, 16, [16]), (16, 14, [1, 1, 14])):
        batcher = make_batcher()
        for handle in (1, 2):
            batcher.places.add(make_sequence(handle, prompt=4))
        step(batcher)
        batcher.places.add(make_sequence(3, prompt=prompt))
        assert shares(step(batcher, prompt_tokens=16, alone_tokens=most)) == expected


def test_those_that_decode_wait_for_one_step_at_most() -> None:
    """Of prompts that keep coming and fill a step each, no two in a row are read without those that decode."""
    batcher = make_batcher(max_sequences=8)
    batcher.places.add(make_sequence(0, prompt=4, max_tokens=50))
    step(batcher)
    waited = []
    for handle in range(1, 7):
        batcher.places.add(make_sequence(handle, prompt=16))
        step(batcher, prompt_tokens=16, alone_tokens=16)
        waited.append(batcher.last.decode_tokens == 0)
    assert any(waited)
    assert not any(one and other for one, other in pairwise(waited))


def test_a_short_prompt_waits_for_room_beside_those_that_decode() -> None:
    """Those that decode, and nearly fill the step, wait for no prompt of less than half a step."""
    batcher = make_batcher(max_sequences=16)
    for handle in range(12):
        batcher.places.add(make_sequence(handle, prompt=1))
    step(batcher)
    batcher.places.add(make_sequence(12, prompt=8))
    assert shares(step(batcher, prompt_tokens=16, alone_tokens=16)) == [1] * 12 + [4]


def test_no_more_sequences_than_rows() -> None:
    """The fifth sequence waits until one of four has ended."""
    batcher = make_batcher()
    sequences = [make_sequence(handle, prompt=1) for handle in range(5)]
    for sequence in sequences:
        batcher.places.add(sequence)
    assert shares(step(batcher)) == [1, 1, 1, 1]
    batcher.places.remove(sequences[1])
    step(batcher)
    assert set(handles(batcher.last.sampled)) == {0, 2, 3, 4}


def test_admission_waits_for_the_prompt_and_one_block() -> None:
    """A sequence waits until there are blocks for its prompt and one more, and those behind it wait too."""
    batcher = make_batcher(blocks=6)
    first = make_sequence(1, prompt=10, max_tokens=11)  # 3 blocks for the prompt, 5 in all
    batcher.places.add(first)
    batcher.places.add(make_sequence(2, prompt=10, max_tokens=7))
    batcher.places.add(make_sequence(3, prompt=1, max_tokens=1))
    assert shares(step(batcher)) == [10]
    assert batcher.places.pool.free == 3
    assert shares(step(batcher)) == [1]
    batcher.places.remove(first)
    assert shares(step(batcher)) == [10, 1]


def test_last_block_needs_no_spare() -> None:
    """A sequence that can fill the whole pool is admitted, though there is never a block more than it needs."""
    batcher = make_batcher(blocks=3, context_tokens=12)
    batcher.places.add(make_sequence(1, prompt=10, max_tokens=3))
    assert shares(step(batcher)) == [10]


def test_blocks_grow_with_the_sequence() -> None:
    """A block is taken when the first token goes into it, and all are free after the end."""
    batcher = make_batcher()
    sequence = make_sequence(1, prompt=3, max_tokens=20)
    batcher.places.add(sequence)
    held = []
    for _ in range(7):
        step(batcher)
        held.append(len(sequence.place.blocks))
    assert held == [1, 1, 2, 2, 2, 2, 3]
    batcher.places.remove(sequence)
    assert batcher.places.pool.free == 64
    batcher.places.add(make_sequence(2, prompt=1))
    step(batcher)  # with nothing of the first one left in its table


def test_waiting_sequence_can_be_removed() -> None:
    """A sequence that has no row yet leaves no trace."""
    batcher = make_batcher()
    sequence = make_sequence(1, prompt=3)
    batcher.places.add(sequence)
    batcher.places.remove(sequence)
    assert batcher.schedule() is None
    assert batcher.places.pool.free == 64


def test_rows_stay_together() -> None:
    """When a sequence ends between others and a prompt that is being read, each goes on where it was."""
    batcher = make_batcher()
    sequences = [make_sequence(handle, prompt=2 + handle) for handle in range(3)]
    for sequence in sequences:
        batcher.places.add(sequence)
    step(batcher, token=5)
    reading = make_sequence(7, prompt=40)
    batcher.places.add(reading)
    step(batcher, token=6)
    batcher.places.remove(sequences[0])
    batch = step(batcher)
    assert handles(batcher.last.sampled) == [2, 1]
    assert shares(batch) == [1, 1, 14]
    assert batch.token_ids[:3].tolist() == [6, 6, 3]
    assert batch.positions[:3].tolist() == [5, 4, 13]
    batcher.places.remove(reading)
    assert shares(step(batcher)) == [1, 1]


def test_step_that_failed() -> None:
    """After a step that was never computed, its sequences can be removed and their blocks are free."""
    batcher = make_batcher()
    batcher.places.add(make_sequence(1, prompt=40))
    assert batcher.schedule() is not None
    for sequence in list(batcher.places.rows):
        batcher.places.remove(sequence)
    assert batcher.schedule() is None
    assert batcher.places.pool.free == 64
