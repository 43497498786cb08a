"""Which tokens the next step computes; touches no tensor."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from inferd.engine.token.draft_model import Asked
from inferd.engine.token.place import WAITING
from inferd.engine.token.places import Places
from inferd.engine.token.step import Pooled, Scored, Step
from inferd.engine.token.wholes import least, uncut
from inferd.plugin import TokenBatch

if TYPE_CHECKING:
    from inferd.engine.token.draft_model import DraftModel
    from inferd.engine.token.limits import Bounds
    from inferd.engine.token.sampler import Ids, Sampler
    from inferd.engine.token.sequence import Sequence
    from inferd.plugin.session import BoolArray, Int32Array


NO_DRAFTS: Final[list[Int32Array]] = []


class Batcher:
    """One token budget per step: sequences that decode first, then prompts in turn.

    A prompt of more tokens than a step has goes behind those that end in the step, with at most as many tokens as they
    had read: so whoever comes while it is read has its first token when the step that runs has ended, and then one of
    at most twice its own tokens, if it is its turn.

    A prompt that fits into a step, but not beside the sequences that decode, is read in one without them: cut in two it
    would take longer than they wait for it, and its first token would come a step later. They are in the next one.

    One writer: the thread that runs the steps. `schedule`, then `commit`; places change only between steps. Where a
    step is computed before the tokens of the one before are known, `advance` when it begins, `settle` when they are.

    Attributes:
        places: Who has a row and KV blocks, and who waits for them.
    """

    def __init__(self, *, bounds: Bounds, sampler: Sampler, draft: DraftModel | None = None) -> None:
        self.places = Places(bounds=bounds, sampler=sampler)
        self._bounds = bounds
        self._draft = draft
        self._waited = 0  # tokens of the last step, if those that decode waited for it
        self._guessed: list[Sequence] = []  # in the last step; their windows hold what they do not see any more
        # of the step that is being scheduled
        self._reserved = 0  # tokens of it that are not for guesses
        rows, tokens = bounds.rows, bounds.step_tokens
        self._index = np.arange(tokens + 1, dtype=np.int32)
        self._token_ids = np.zeros(tokens, np.int32)
        self._positions = np.zeros(tokens, np.int32)
        self._starts = np.zeros(rows + 1, np.int32)
        self._lengths = np.zeros(rows, np.int32)
        self._logit_rows = np.zeros(tokens, np.int32)

    @property
    def kv_tokens(self) -> int:
        """Tokens of the KV pool that sequences hold, in whole blocks."""
        return self.places.pool.held * self._bounds.block_tokens

    @property
    def reading(self) -> list[tuple[Sequence, float]]:
        """The sequences whose prompt is being read for the first time, and how much of it has been, 0 to 1."""
        places = self.places
        rows = [sequence for sequence in places.rows[places.decoding :] if not sequence.output_tokens]
        return [(s, int(places.computed[s.place.row]) / len(s.prompt)) for s in rows if s.place.leader is None]

    def schedule(self, *, prompt_tokens: int | None = None, alone_tokens: int = 0) -> Step | None:
        """The next step, or None when there is nothing to compute.

        Args:
            prompt_tokens: Most tokens of prompts beside sequences that decode, one block at least; None for as many as
                fit.
            alone_tokens: Most tokens of a prompt for which those that decode wait.
        """
        places = self.places
        self._trim_guessed()  # before others need the blocks
        places.make_room()
        self._reserved = self._reserve()
        most = self._bounds.step_tokens
        if prompt_tokens is not None:
            most = max(prompt_tokens - self._waited, self._bounds.block_tokens)
        whole = self._find_whole(alone_tokens)
        tokens, drafts = (0, NO_DRAFTS) if whole else self._place_decoding(most_read=prompt_tokens)
        end = min(self._bounds.step_tokens, tokens + max(most, whole)) if places.decoding else self._bounds.step_tokens
        step = self._place_prompts(tokens, end, first=places.decoding if whole else 0, drafts=drafts)
        self._waited = len(step.batch.token_ids) if whole and step is not None else 0
        return step

    def schedule_alone(self, handle: int) -> Step | None:
        """A step for the prompts of one task and nothing else, or None when there is no room for any of them."""
        places = self.places
        self._trim_guessed()
        if not places.seat_alone(handle):
            return None
        first = places.decoding
        return self._place_prompts(0, self._bounds.step_tokens, first=first, drafts=NO_DRAFTS, alone=handle)

    def schedule_behind(self, before: Step) -> Step | None:
        """The step behind one whose tokens nobody has read: the next tokens of those that decode; None where it waits.

        It does where prompts are to be read, where a sequence needs a block that is not free, and where most of them
        end with the step before, as far as that is known. Whatever else ends with it is computed in vain.
        """
        places = self.places
        count = places.decoding
        if not count or places.reads or self._draft is not None:  # a model guesses behind the last token
            return None
        if 2 * sum(s.length < s.most_tokens for s in places.rows[:count]) < count:
            return None
        computed = places.computed[:count]
        if computed.max() >= self._bounds.sequence_tokens or not self._grow_all(computed):
            return None
        tokens, drafts = self._place_decoding()
        step = self._place_prompts(tokens, tokens, first=0, drafts=drafts)
        return None if step is None else step.behind(before)

    def _grow_all(self, computed: Int32Array) -> bool:
        """Give those that decode the blocks that their next tokens need, if nobody has to give way for them."""
        places = self.places
        growing = [places.rows[row] for row in np.flatnonzero(computed >= places.room[: len(computed)]).tolist()]
        if len(growing) > places.pool.free - places.holds.kept_blocks or not all(map(places.can_grow, growing)):
            return False
        for sequence in growing:
            places.grow(sequence)
        return True

    def commit(self, step: Step, token_ids: Ids) -> list[list[int]] | None:
        """A step was computed and gave `token_ids` to its sequences.

        Returns:
            With drafts the tokens that each sequence gets; None without: one for each.
        """
        self.advance(step)
        return self.settle(step, token_ids)

    def advance(self, step: Step) -> None:
        """A step is computed: what comes behind it finds its keys and values."""
        places, first = self.places, step.first_row
        scheduled = first + len(step.sequences)
        places.computed[first:scheduled] = step.batch.lengths
        for sequence in places.rows[places.decoding : scheduled]:
            places.publish(sequence)
            places.trim(sequence)
        places.decoding = first + len(step.sampled)

    def settle(self, step: Step, token_ids: Ids) -> list[list[int]] | None:
        """The tokens of a step are known; see `commit`. Each of those that are sampled has a row."""
        verified = self._verify(step, token_ids.tolist()) if step.drafts else None
        rows = [sequence.place.row for sequence in step.sampled]
        self.places.next[rows] = token_ids if verified is None else [tokens[-1] for tokens in verified]
        return verified

    def _place_prompts(
        self, tokens: int, end: int, *, first: int, drafts: list[Int32Array], alone: int | None = None
    ) -> Step | None:
        """Put prompts into the step behind `tokens` of sequences that decode, up to `end`; the step, if it has any.

        Args:
            tokens: So many are there.
            end: Most tokens of the step.
            first: The first row in it: 0, or the first that does not decode.
            drafts: What is guessed for those that decode.
            alone: The task that alone it is for; None for any.
        """
        places = self.places
        rows = complete = places.decoding
        decode_tokens = picked = tokens
        self._starts[rows] = tokens
        scored: list[Scored] = []
        pooled: list[Pooled] = []
        embeds = mute = False
        ending = 0  # tokens of the prompts that end in this step
        while complete == rows and tokens < end and places.begin_prompt(rows, alone=alone):
            sequence = places.rows[rows]
            if self._bounds.whole_prompts and sequence.length > end - tokens:
                break  # it comes in the next step
            begin = int(places.computed[rows])
            fit = self._limit(sequence, end - tokens, begin=begin, ending=ending)
            if self._bounds.whole_pictures:
                room = self._bounds.step_tokens if rows == places.decoding else end
                if not (fit := uncut(sequence, begin, fit, room=room - tokens)):
                    break  # it comes in a step that has more room
            scored += _score(sequence, begin, at=tokens, most=fit)
            pooled += _pool_prompt(sequence, begin, at=tokens, most=fit)
            embeds = embeds or sequence.pool is not None
            mute = mute or sequence.mute
            taken = self._place_prompt(sequence, at=tokens, most=fit)
            tokens += taken
            if self._lengths[rows] == sequence.length:  # else it is the last row
                self._logit_rows[picked] = tokens - 1
                picked += 1
                complete += 1
                ending += taken if sequence.place.turn is None else sequence.place.turn.read
            rows += 1
            self._starts[rows] = tokens
        if rows == first:
            return None
        picks = self._logit_rows[:picked]
        sequences = places.rows[first:rows]
        batch = TokenBatch(
            token_ids=self._token_ids[:tokens],
            positions=self._positions[:tokens],
            starts=self._starts[first : rows + 1],
            lengths=self._lengths[first:rows],
            block_tables=places.tables[first:rows],
            window_tables=None if places.windows is None else places.windows.tables[first:rows],
            logit_rows=self._list_logits(picks, scored),
            beyond=self._list_beyond(first, rows),
            hidden_rows=np.concatenate([self._index[p.place : p.place + p.count] for p in pooled]) if pooled else None,
            pictures=[s.pictures for s in sequences] if any(s.pictures for s in sequences) else None,
        )
        return Step(
            batch=batch,
            sequences=sequences,
            sampled=sequences if complete == rows else sequences[: complete - first],
            first_row=first,
            decode_tokens=decode_tokens,
            picks=picks,
            drafts=drafts,
            scored=scored,
            pooled=pooled,
            embeds=embeds,
            mute=mute,
            copies=places.copies,
            begun=places.begun,
            alone=alone,
        )

    def _reserve(self) -> int:
        """Tokens that guesses leave to the next prompt: of a picture that may not be cut all, else a block."""
        places, bounds = self.places, self._bounds
        row = places.decoding
        if not bounds.draft_tokens or not row or not places.begin_prompt(row):
            return 0
        picture = least(places.rows[row], int(places.computed[row])) if bounds.whole_pictures else 0
        return max(bounds.block_tokens, picture)

    def _find_whole(self, most: int) -> int:
        """Tokens of the next prompt if they fit into a step, but not beside the sequences that decode; else 0.

        Those of a picture that may not be cut, too.

        Args:
            most: Of how many. Those that are less than half of a step wait for fewer that decode.
        """
        places, step_tokens = self.places, self._bounds.step_tokens
        row = places.decoding
        if not row or self._waited or not places.begin_prompt(row):
            return 0
        sequence, begin = places.rows[row], int(places.computed[row])
        if self._bounds.whole_pictures and (count := least(sequence, begin)) > step_tokens - row:
            return count
        left = sequence.length - begin
        return left if max(step_tokens - row, step_tokens // 2) < left <= min(most, step_tokens) else 0

    def _limit(self, sequence: Sequence, most: int, *, begin: int, ending: int) -> int:
        """Tokens of a prompt, from `begin` on, that may go into a step, of `most` that fit, behind what ends in it."""
        if sequence.surprise is not None and not self._bounds.whole_prompts:  # each row to learn from again costs much
            first, count = sequence.surprise.count(begin, begin + most, sequence.length)
            most = min(most, first - begin + self._bounds.block_tokens) if count else most
        if not ending or sequence.length <= self._bounds.step_tokens:
            return most
        return min(most, max(ending, self._bounds.block_tokens))

    def _place_decoding(self, *, most_read: int | None = None) -> tuple[int, list[Int32Array]]:
        """Put the next token of every decoding row into the step, with what is guessed to follow.

        Args:
            most_read: Most tokens of prompts that a model reads which guesses; None for as many as fit.

        Returns:
            How many tokens these are, and the guesses.
        """
        places = self.places
        count = places.decoding
        computed = places.computed[:count]
        drafts = self._propose(most_read) if self._bounds.draft_tokens else NO_DRAFTS
        if drafts:
            return self._place_drafts(computed, drafts), drafts
        self._token_ids[:count] = places.next[:count]
        self._positions[:count] = computed
        np.add(computed, 1, out=self._lengths[:count])
        self._starts[: count + 1] = self._index[: count + 1]
        self._logit_rows[:count] = self._index[:count]
        return count, drafts

    def _propose(self, most_read: int | None) -> list[Int32Array]:
        """A guess for every row that decodes; nothing when there is none for any."""
        drafts: list[Int32Array] = []
        asked: list[tuple[int, Asked]] = []
        places = self.places
        left = max(0, self._bounds.step_tokens - places.decoding - self._reserved)
        for sequence in places.rows[: places.decoding]:
            draft = self._index[:0]
            if sequence.drafter is not None:
                most = min(left, sequence.most_output - sequence.output_tokens - 1)
                if self._bounds.border_tokens and not sequence.place.beyond:
                    most = min(most, self._bounds.border_tokens - sequence.length)
                draft = sequence.drafter.propose(sequence.tokens[: sequence.length], most=most)
                draft = draft[: self._widen(sequence, len(draft))]
                left -= len(draft)
                if self._draft is not None and not len(draft) and (count := sequence.drafter.ask(most=most)):
                    asked.append((len(drafts), Asked(sequence.drafter, sequence.tokens[: sequence.length], count)))
                    left -= count
            drafts.append(draft)
        if self._draft is not None and asked:
            rows = places.rows[: places.decoding]
            present = [row.drafter for row in rows]
            guesses = self._draft.guess([each for _, each in asked], present=present, most_read=most_read)
            for (row, _), guess in zip(asked, guesses, strict=True):
                drafts[row] = guess[: self._widen(rows[row], len(guess))]
        return drafts if any(map(len, drafts)) else NO_DRAFTS

    def _widen(self, sequence: Sequence, count: int) -> int:
        """Make room in free blocks for `count` tokens behind a sequence's next one; for how many there is some."""
        places, row = self.places, sequence.place.row
        while places.room[row] <= places.computed[row] + count and places.can_grow(sequence):
            places.grow(sequence)
        return min(count, int(places.room[row] - places.computed[row]) - 1)

    def _place_drafts(self, computed: Int32Array, drafts: list[Int32Array]) -> int:
        """As `_place_decoding`, with the guess behind each row's next token."""
        count = len(computed)
        counts = np.array([1 + len(draft) for draft in drafts], np.int32)
        starts = self._starts[: count + 1]
        counts.cumsum(out=starts[1:])
        for row, draft in enumerate(drafts):
            self._token_ids[starts[row] + 1 : starts[row + 1]] = draft
        self._token_ids[starts[:-1]] = self.places.next[:count]
        tokens = int(starts[-1])
        self._positions[:tokens] = np.repeat(computed - starts[:-1], counts) + self._index[:tokens]
        np.add(computed, counts, out=self._lengths[:count])
        self._logit_rows[:tokens] = self._index[:tokens]
        return tokens

    def _verify(self, step: Step, chosen: list[int]) -> list[list[int]]:
        """What was chosen for each row, as far as its guess was right, and one token more."""
        verified, at = [], 0
        for row, sequence in enumerate(step.sampled):
            draft = step.drafts[row].tolist() if row < len(step.drafts) else []
            right = 0
            while right < len(draft) and draft[right] == chosen[at + right] and chosen[at + right + 1] >= 0:
                right += 1  # where there is no token to choose, the next step finds that out
            if draft:
                self._take_back(sequence, drafted=len(draft), accepted=right)
            verified.append(chosen[at : at + right + 1])
            at += 1 + len(draft)
        return verified

    def _take_back(self, sequence: Sequence, *, drafted: int, accepted: int) -> None:
        """Take back the tokens that were guessed wrong, and the blocks that only they needed."""
        if sequence.drafter is not None:
            sequence.drafter.learn(drafted=drafted, accepted=accepted)
        self.places.computed[sequence.place.row] -= drafted - accepted
        self.places.shrink(sequence)
        self._guessed.append(sequence)

    def _trim_guessed(self) -> None:
        """Guesses may have taken several blocks at once: those out of the windows go back."""
        for sequence in self._guessed:
            if sequence.place.row != WAITING:
                self.places.trim(sequence)
        self._guessed.clear()

    def _place_prompt(self, sequence: Sequence, *, at: int, most: int) -> int:
        """Put at most `most` of a sequence's tokens into the step; return how many."""
        places, row = self.places, sequence.place.row
        begin = int(places.computed[row])
        end = min(sequence.length, begin + most)
        old, new = places.pool.blocks_for(begin), places.pool.blocks_for(end)
        places.tables[row, old:new] = sequence.place.blocks[old:new]
        if places.windows is not None:
            places.windows.cover(sequence, end)
        taken = end - begin
        places.turns.read(sequence, taken, ends=end == sequence.length)
        self._token_ids[at : at + taken] = sequence.tokens[begin:end]
        self._positions[at : at + taken] = np.arange(begin, end)
        self._lengths[row] = end
        return taken

    def _list_beyond(self, first: int, end: int) -> BoolArray | None:
        """Which sequences of these rows are computed as longer than the session's border."""
        if not self._bounds.border_tokens:
            return None
        return np.array([sequence.place.beyond for sequence in self.places.rows[first:end]], np.bool_)

    def _list_logits(self, picks: Int32Array, scored: list[Scored]) -> Int32Array:
        """The tokens of the step whose logits are wanted."""
        if not scored:
            return picks
        wanted = [self._index[each.place : each.place + each.count] for each in scored]
        return np.sort(np.concatenate((picks, *wanted)))


def _score(sequence: Sequence, begin: int, *, at: int, most: int) -> list[Scored]:
    """What is wanted for the scores of a prompt, whose next tokens go into the step at `at`, and to learn from."""
    scores, surprise = sequence.report.scores, sequence.surprise
    first, count = (0, 0) if scores is None else scores.count(begin, begin + most)
    wanted = [Scored(scores, first, count, at + first - begin)] if scores is not None and count else []
    if surprise is not None:
        first, count = surprise.count(begin, begin + most, sequence.length)
        wanted += [Scored(surprise, first, count, at + first - begin)] if count else []
    return wanted


def _pool_prompt(sequence: Sequence, begin: int, *, at: int, most: int) -> list[Pooled]:
    """What is wanted for the embedding of a prompt, whose next tokens go into the step at `at`."""
    pool, end = sequence.pool, min(begin + most, sequence.length)
    wanted = () if pool is None else pool.wanted(begin, end)
    return [Pooled(pool, at + wanted[0] - begin, len(wanted))] if pool is not None and wanted else []
