"""Who has a row and KV blocks, and who waits for them."""

from __future__ import annotations

from operator import attrgetter
from typing import TYPE_CHECKING

import numpy as np

from inferd.core.priority import Priority
from inferd.engine.token.admission import Admission
from inferd.engine.token.blocks import BlockPool
from inferd.engine.token.holds import Holds
from inferd.engine.token.place import WAITING, Place
from inferd.engine.token.turns import Turns
from inferd.engine.token.virtual_time import VirtualTime
from inferd.engine.token.waiting import Waiting
from inferd.engine.token.windows import NO_BLOCK, Windows

if TYPE_CHECKING:
    from collections.abc import Callable
    from collections.abc import Sequence as Items

    from inferd.engine.token.holds import Hold
    from inferd.engine.token.limits import Bounds
    from inferd.engine.token.sampler import Sampler
    from inferd.engine.token.sequence import Sequence
    from inferd.engine.token.submission import Share

_rank = attrgetter("place.rank")


class Places:
    """The rows of the sequences that run, their KV blocks, and the queue of those that wait.

    A sequence is admitted when there are blocks for all its tokens and one more, and grows from then on. Where no
    block is free, the sequence that ranks last gives its own back and waits to compute them again: so the one that
    ranks first always goes on, and since it fits the pool alone, all come to their end. One of class HIGH that waits
    takes what it needs from lower classes in the same way.

    What leases hold is never given to others (`Holds`): where too little of it is free, those that have more than is
    held for them are preempted. A sequence that does not fit beside the holds, even alone, waits until they shrink, and
    keeps nobody waiting. Past others that wait goes one that takes nothing that they wait for but what is held for it.

    The sequences that run have a row each in preallocated tables, those that decode before those that are being read,
    so that a decoding step is a few array operations, however many sequences there are.

    One writer: the batcher; all but `rows` change only between steps.

    Attributes:
        pool: The KV blocks.
        windows: Those of layers that see the last tokens only; None where they are in the pool, too.
        holds: What leases hold of rows and blocks.
        turns: Whose prompt is read next.
        rows: The sequences that have a row, in the order of their rows.
        decoding: The first rows, whose tokens are all computed but the last.
        computed: By row, tokens whose KV exists.
        room: By row, tokens whose KV its blocks can hold.
        next: By row, the token to compute when decoding.
        tables: By row, the blocks that its tokens are in, as far as they are or will be computed in this step.
        begun: Sequences whose prompt was begun for this step.
        copies: KV blocks to copy before the next step, each from its first to its second.
        preempted: How often a sequence lost its blocks to others.
    """

    def __init__(self, *, bounds: Bounds, sampler: Sampler) -> None:
        self.pool = BlockPool(blocks=bounds.blocks, block_tokens=bounds.block_tokens)
        self.windows = Windows(bounds=bounds) if bounds.window_blocks else None
        self.holds = Holds(rows=bounds.rows, blocks=bounds.blocks)
        self.turns = Turns()
        self.rows: list[Sequence] = []
        self.decoding = 0
        self.computed = np.zeros(bounds.rows, np.int32)
        self.room = np.zeros(bounds.rows, np.int32)
        self.next = np.zeros(bounds.rows, np.int32)
        self.tables = np.full((bounds.rows, self.pool.blocks_for(bounds.sequence_tokens)), NO_BLOCK, np.int32)
        self.begun: list[Sequence] = []
        self.copies: list[tuple[int, int]] = []
        self.preempted = 0
        self._all_tables = (self.tables,) if self.windows is None else (self.tables, self.windows.tables)
        self._most_rows, self._forward_only = bounds.rows, bounds.forward_only
        self._border = bounds.border_tokens or bounds.sequence_tokens
        self._admission = Admission(self.rows, self.pool, self.holds, self.windows, bounds=bounds)
        self._sampler = sampler
        self._waiting = Waiting(self.turns)
        self._times: dict[int, VirtualTime] = {}  # by class

    def add(self, sequence: Sequence) -> None:
        """Queue a sequence that fits the bounds."""
        if sequence.length > self._border and not sequence.place.beyond:
            sequence.place.cross()
            if sequence.chain is not None:
                sequence.chain.cross()
        self._waiting.add(sequence)

    def follow(self, sequence: Sequence, leader: Sequence) -> None:
        """Queue a sequence to take over the KV of another one's prompt, which is the same and has been read."""
        sequence.place.follow(leader)
        self.add(sequence)

    def join(self, sequences: Items[Sequence], share: Share, *, hold: Hold | None = None) -> None:
        """Give the samples of a task that comes their rank in its class and their turn; they draw on a hold."""
        leader = sequences[0]
        time = self._times.setdefault(leader.priority, VirtualTime())
        start = time.start(share.tenant, share.expected_tokens / share.weight)
        turn = self.turns.join(leader.priority, share, len(leader.prompt))
        for sequence in sequences:
            sequence.place.join(start=start, turn=turn, hold=hold)

    def settle(self, leader: Sequence, share: Share, tokens: int) -> None:
        """The task of `leader`, which joined, has ended and cost so many tokens."""
        time = self._times[leader.priority]
        if leader.begun:  # else those that rank before it may not be either
            time.end(leader.place.rank[1])
        time.settle(share.tenant, (share.expected_tokens - tokens) / share.weight)
        self.turns.leave(leader, tokens)

    def start_anew(self) -> None:
        """No task is left: tenants start anew."""
        self._times.clear()
        self.turns.start_anew()

    def remove(self, sequence: Sequence, *, failed: bool = False) -> None:
        """Forget a sequence and free its place and its blocks.

        Args:
            sequence: It need not have a place.
            failed: What it computed is not to be trusted, and found by nobody.
        """
        if sequence.place.row == WAITING:
            self._waiting.remove(sequence)  # unless it waits for its leader
            return
        if failed or sequence.chain is None or not sequence.chain.lasting:
            self.pool.withdraw(sequence.place.blocks)
            if self.windows is not None:
                self.windows.withdraw(sequence)
        else:
            self.publish(sequence)
        self._vacate(sequence)

    def preempt(self, sequence: Sequence) -> None:
        """Take a sequence's row and blocks; it waits to compute its tokens again, as far as they are not found."""
        self._begin_anew(sequence)
        self.preempted += 1

    def take_out(self, sequence: Sequence) -> None:
        """A sequence loses its row and blocks, and waits for none until it is added again."""
        if sequence.place.row != WAITING:
            self._begin_anew(sequence)
        self.remove(sequence)

    def _begin_anew(self, sequence: Sequence) -> None:
        self.publish(sequence)
        self._vacate(sequence)
        sequence.place.interrupt()
        self.add(sequence)

    def make_room(self) -> None:
        """Before a step: give each decoding sequence the block that its next token needs, and keep what is held."""
        self._begin_step()
        self._cross_border()
        if self._waiting or len(self.rows) > self.decoding:
            begun = [sequence.priority for sequence in self.rows[self.decoding :]]
            self.turns.pass_over((*self._waiting.classes, *begun))
        full = np.flatnonzero(self.computed[: self.decoding] >= self.room[: self.decoding])
        growing = [self.rows[row] for row in full.tolist()]
        if len(growing) > self.pool.free - self.holds.kept_blocks:
            growing.sort(key=_rank)
        for sequence in growing:
            while sequence.place.row != WAITING and not self.can_grow(sequence):
                self.preempt(self._give_way(sequence))
            if sequence.place.row != WAITING:
                self.publish(sequence)
                self.grow(sequence)
        self._make_way()
        self._keep_holds()

    @property
    def reads(self) -> bool:
        """Whether prompts are read or wait for that."""
        return bool(self._waiting) or len(self.rows) > self.decoding

    def can_grow(self, sequence: Sequence) -> bool:
        """Whether there is a block that a sequence may take."""
        return self.holds.open_blocks(self.pool.free, sequence.place.hold) > 0

    def grow(self, sequence: Sequence) -> None:
        """Give a sequence its next block."""
        place, block = sequence.place, self.pool.take()
        self.tables[place.row, len(place.blocks)] = block
        self.room[place.row] += self.pool.block_tokens
        place.blocks.append(block)
        if place.hold is not None:
            self.holds.take(place.hold, [block])
        if self.windows is not None:
            self.trim(sequence)
            self.windows.cover(sequence, int(self.room[place.row]))

    def trim(self, sequence: Sequence) -> None:
        """Let a running sequence give back what layers with a window do not see any more, which others may find."""
        if self.windows is not None:
            self.publish(sequence)
            self.windows.trim(sequence, int(self.computed[sequence.place.row]))

    def shrink(self, sequence: Sequence) -> None:
        """Take back the blocks of a sequence that hold nothing computed."""
        place = sequence.place
        used = self.pool.blocks_for(int(self.computed[place.row]))
        blocks = place.blocks[used:]
        self.tables[place.row, used:] = NO_BLOCK
        self.room[place.row] = used * self.pool.block_tokens
        del place.blocks[used:]
        self._release(sequence, blocks)
        if self.windows is not None:
            self.windows.shrink(sequence, used)

    def seat_alone(self, handle: int) -> bool:
        """Have a prompt of a task begun, whoever has to give way, others under leases apart; whether it is.

        Its own samples that have told something give way last: there may be fewer rows than samples. Where it would
        have no room even so, nobody gives way.
        """
        self._begin_step()
        if any(sequence.handle == handle for sequence in self.rows[self.decoding :]):
            return True
        sequence = self._waiting.of(handle)
        staying = [each for each in self.rows if each.place.hold is not None and each.handle != handle]
        if sequence is None or not self._admission.fits_beside(sequence, staying):  # no suspect makes those give way
            return False
        while not self._seat_waiting(sequence):
            others = (each for each in self.rows if each.place.hold is None or each.handle == handle)
            last = max(others, key=lambda each: (each.handle != handle, _rank(each)), default=None)
            if last is None:
                return False
            self.preempt(last)
        return True

    def begin_prompt(self, row: int, *, alone: int | None = None) -> bool:
        """Bring the next prompt to read into `row`, the first behind those in the step; False when there is none.

        It is the one whose turn it is, of those that were begun and those that may be.

        Args:
            row: That row.
            alone: The task that it must belong to, and that `seat_alone` was asked for; None for any.
        """
        if row == len(self.rows) and not self._waiting:
            return False
        if alone is not None:
            mine = next((each for each in self.rows[row:] if each.handle == alone), None) or self._waiting.of(alone)
            if mine is None or (mine.place.row == WAITING and not self._seat_waiting(mine)):
                return False
            self._swap(mine.place.row, row)
            return True
        key = self.turns.key
        begun = min(self.rows[row:], key=key) if row < len(self.rows) else None
        first = self._waiting.first()
        if first is not None and (begun is None or key(first) < key(begun)):
            new = self._admit()
            if begun is None or (new is not None and key(new) < key(begun)):
                begun = new
        if begun is None:
            return False
        self._swap(begun.place.row, row)
        return True

    def publish(self, sequence: Sequence) -> None:
        """Let the full blocks of a running sequence be found."""
        chain, place = sequence.chain, sequence.place
        if chain is None:
            return
        known = sequence.length - (sequence.output_tokens > 0)  # a step behind its last token may not be read yet
        full = min(int(self.computed[place.row]), known) // self.pool.block_tokens
        for block in range(place.published, full):
            digest = chain.digest(sequence.tokens, block)
            self.pool.publish(place.blocks[block], digest)
            if self.windows is not None:
                self.windows.publish(sequence, block, digest)
        place.publish(full)

    def _begin_step(self) -> None:
        self.begun, self.copies = [], []

    def _cross_border(self) -> None:
        """Have those computed anew that become longer than the session's border with their next token."""
        crossing = np.flatnonzero(self.computed[: self.decoding] >= self._border)
        for sequence in [self.rows[row] for row in crossing.tolist()]:
            if not sequence.place.beyond:
                self._begin_anew(sequence)

    def _keep_holds(self) -> None:
        """Take back what others have of what is held."""
        while self._most_rows - len(self.rows) < self.holds.kept_rows and self._preempt_last(Place.exceeds_rows):
            pass
        while self.pool.free < self.holds.kept_blocks and self._preempt_last(Place.exceeds_blocks):
            pass

    def _preempt_last(self, wanted: Callable[[Place], bool]) -> bool:
        """Preempt the one that ranks last of those that are wanted; False when there is none."""
        last = max((each for each in self.rows if wanted(each.place)), key=_rank, default=None)
        if last is not None:
            self.preempt(last)
        return last is not None

    def _give_way(self, growing: Sequence) -> Sequence:
        """Who is preempted for a sequence that may take no block: the last of those whose blocks it could have."""
        others = (each for each in self.rows if each.place.hold is growing.place.hold or each.place.exceeds_blocks())
        return max(others, key=_rank)

    def _make_way(self) -> None:
        """Preempt lower classes, but none under a lease, for those of class HIGH that wait: as many as fit then."""
        if not (highs := tuple(self._waiting.in_turn(least=Priority.HIGH)) if self._waiting else ()):
            return
        free_of_leases = (each for each in self.rows if each.place.hold is None)
        lower = sorted((each for each in free_of_leases if each.priority < Priority.HIGH), key=_rank)
        blocks = sum(len(each.place.blocks) for each in lower)  # that they would free if they shared none
        rows_taken = blocks_taken = 0
        admission = self._admission
        for high in highs:
            if not admission.fits_alone(high):
                continue
            found = admission.find_room(high, more=blocks - blocks_taken)
            if found is None or not admission.has_row(high, more=len(lower) - rows_taken):
                return
            while lower and not (
                admission.has_row(high, more=-rows_taken) and admission.find_room(high, more=-blocks_taken) is not None
            ):
                last = lower.pop()
                blocks -= len(last.place.blocks)
                self.preempt(last)
            rows_taken += 1
            blocks_taken += admission.least_blocks(high) - len(found) + self.pool.idle(found)

    def _admit(self) -> Sequence | None:
        """Give the first waiting sequence that there is room for a row behind the others.

        Where one waits for blocks, those behind it get none but those that are held for them.
        """
        held, wanted = bool(self.holds.rows or self.holds.blocks), False
        for sequence in self._waiting.in_turn():
            if wanted and sequence.place.hold is None:
                continue
            row = self._admission.has_row(sequence)
            found = self._admission.find_room(sequence, own=wanted) if row else None
            if found is not None:
                self._waiting.remove(sequence)
                self._seat(sequence, found)
                return sequence
            if not held:
                return None
            wanted = wanted or (row and self._admission.fits_alone(sequence))
        return None

    def _seat_waiting(self, sequence: Sequence) -> bool:
        """Give a waiting sequence a row if there is room; whether there was."""
        found = self._admission.find_room(sequence) if self._admission.has_row(sequence) else None
        if found is not None:
            self._waiting.remove(sequence)
            self._seat(sequence, found)
        return found is not None

    def _seat(self, sequence: Sequence, found: list[int]) -> None:
        """Give a waiting sequence the last row, the blocks that were found, and free ones for its other tokens."""
        need, row, place = self.pool.blocks_for(sequence.length), len(self.rows), sequence.place
        self.pool.share(found)
        place.seat(row, [*found, *(self.pool.take() for _ in range(need - len(found)))], found=len(found))
        if place.hold is not None:
            self.holds.take(place.hold, place.blocks, rows=1)
        self.rows.append(sequence)
        if self.windows is not None:
            self.windows.seat(sequence, len(found))
        begin = self._begin(sequence, found=len(found))
        used = self.pool.blocks_for(begin)
        self.computed[row] = begin
        self.room[row] = need * self.pool.block_tokens
        self.tables[row, :used] = place.blocks[:used]
        self._sampler.assign(
            row,
            sequence.sampling,
            rules=sequence.rules,
            tokens=sequence.tokens[: sequence.length],
            prompt_tokens=len(sequence.prompt),
            surprise=sequence.surprise,
        )

    def _begin(self, sequence: Sequence, *, found: int) -> int:
        """The first token that an admitted sequence computes, with `found` blocks from the cache."""
        tokens = found * self.pool.block_tokens
        leader, last = sequence.place.leader, len(sequence.prompt) - 1
        if leader is None and not sequence.place.interruptions:
            sequence.place.begin(tokens)
            self.begun.append(sequence)
        if leader is None or leader.place.row == WAITING or self.computed[leader.place.row] <= last:
            return tokens
        unlike = leader.place.beyond != sequence.place.beyond
        if found != last // self.pool.block_tokens or tokens == last or self._forward_only or unlike:
            return tokens
        # The rest of the prompt is in a block that its leader goes on to write: take over a copy.
        if self.windows is not None:
            if (pair := self.windows.copy(leader, sequence, found)) is None:
                return tokens
            self.copies.append(pair)
        self.copies.append((leader.place.blocks[found], sequence.place.blocks[found]))
        return last

    def _vacate(self, sequence: Sequence) -> None:
        """Free a sequence's row and its blocks."""
        row, blocks = sequence.place.row, sequence.place.blocks
        self.tables[row, : len(blocks)] = NO_BLOCK
        if self.windows is not None:
            self.windows.vacate(sequence)
        sequence.place.leave()
        self._release(sequence, blocks, rows=1)
        if row < self.decoding:  # keep the decoding rows together, then all rows
            self.decoding -= 1
            self._move(self.decoding, row)
            row = self.decoding
        self._move(len(self.rows) - 1, row)
        self.rows.pop()

    def _release(self, sequence: Sequence, blocks: list[int], *, rows: int = 0) -> None:
        self.pool.release(blocks)
        if sequence.place.hold is not None:
            self.holds.release(sequence.place.hold, blocks, rows=rows)

    def _move(self, source: int, target: int) -> None:
        """Move what a row holds to another row that holds nothing any more."""
        if source == target:
            return
        sequence = self.rows[target] = self.rows[source]
        sequence.place.move(target)
        self._sampler.move(source, target)
        for column in (self.computed, self.room, self.next):
            column[target] = column[source]
        for tables in self._all_tables:
            tables[target] = tables[source]
            tables[source] = NO_BLOCK

    def _swap(self, one: int, other: int) -> None:
        """Exchange what two rows hold."""
        if one == other:
            return
        rows = self.rows
        rows[one], rows[other] = rows[other], rows[one]
        rows[one].place.move(one)
        rows[other].place.move(other)
        self._sampler.swap(one, other)
        for column in (self.computed, self.room, self.next, *self._all_tables):
            column[[one, other]] = column[[other, one]]
