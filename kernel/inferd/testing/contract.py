"""The acceptance suite of backends, for pytest.

class TestMine(BackendContract):
    @pytest.fixture(scope="class")
    def backend(self) -> Backend:
        return MyBackend()

    @pytest.fixture(scope="class")
    def load_request(self) -> LoadRequest:
        return LoadRequest(path=…, device="mine:0", settings={…}, capacity_bytes=1 << 30)
"""

from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import pytest

from inferd.engine.text.tokenizer import Tokenizer
from inferd.engine.token.limits import Bounds, EngineLimits
from inferd.engine.token.sampler import Sampler
from inferd.plugin import AheadSession, Backend, KeepingSession, LoadedModel, LoadRequest, TokenSession
from inferd.plugin.checks import check_language_model
from inferd.plugin.session import StepResult, TokenBatch, TokenLimits
from inferd.sampling import Sampling
from inferd.testing.batches import Part, compute, copy_blocks, make_batch
from inferd.testing.contents import find_dependence
from inferd.testing.growth import ROUND, STEADY_BYTES, measure_repeats
from inferd.testing.loading_contract import LoadingContract, expect, refused

if TYPE_CHECKING:
    from collections.abc import Callable

SEED = 2011
BEHIND = 5  # tokens of a text behind its first block, and places in that, where copies are looked at
STEPS_AHEAD = 4
SAME_TOKENS = 0.98  # the rest may lie where two sums that differ in their last bit meet


class BackendContract(LoadingContract):
    """What every backend with token sessions must do.

    The fixtures `backend` and `load_request` come from the file of the subclass, with class scope or wider.

    Attributes:
        tolerance: Largest difference between logits that are computed in two ways. The default suits float32.
    """

    tolerance: ClassVar[float] = 2e-3

    @pytest.fixture(scope="class")
    @classmethod
    def session(cls, model: LoadedModel) -> TokenSession:
        """Its session."""
        return model.session

    @pytest.fixture(scope="class")
    @classmethod
    def limits(cls, session: TokenSession) -> TokenLimits:
        """Its limits."""
        return session.limits

    @pytest.fixture(scope="class")
    @classmethod
    def texts(cls, limits: TokenLimits) -> list[list[int]]:
        """Random token ids: ragged sequences, with lengths around the size of a block."""
        size = limits.block_tokens
        generator = np.random.default_rng(SEED)
        lengths = [n for n in (2 * size + 3, 1, size, size + 1, 2 * size - 1) if n <= limits.context_tokens]
        return [generator.integers(limits.vocabulary_size, size=n).tolist() for n in lengths[: limits.max_sequences]]

    def test_limits_are_possible(self, session: TokenSession) -> None:
        """The engine accepts the limits, and none changes from one reading to the next."""
        limits = session.limits
        Bounds.of(limits, EngineLimits())  # raises ValueError
        expect(session.limits == limits, "TokenSession.limits gives others when it is asked again")

    def test_vocabulary_makes_a_tokenizer(self, model: LoadedModel, limits: TokenLimits) -> None:
        """The vocabulary gives a tokenizer whose tokens, and the tokens that end a text, have logits."""
        ids = Tokenizer(model.vocabulary, size=limits.vocabulary_size).encode("Hello, world!")
        expect(ids != [], "with LoadedModel.vocabulary of Backend.load a text has no tokens")
        outside = [n for n in (*ids, *model.vocabulary.eos_ids) if not 0 <= n < limits.vocabulary_size]
        expect(
            not outside, f"tokens {outside} of LoadedModel.vocabulary are outside the {limits.vocabulary_size} logits"
        )

    def test_batch_equals_single_runs(self, session: TokenSession, texts: list[list[int]]) -> None:
        """Several ragged sequences in one step give the logits that each gives alone."""
        alone = [self._alone(session, text) for text in texts]
        blocks = _Blocks(session.limits)
        together = compute(session, *(Part(token_ids=text, blocks=blocks.take(len(text))) for text in texts))
        for one, other in zip(together, alone, strict=True):
            self._same(one, other)

    def test_sampled_tokens_are_those_of_its_logits(self, session: TokenSession, texts: list[list[int]]) -> None:
        """A session that samples chooses the tokens that the engine would choose from its logits."""
        if not session.limits.samples:
            pytest.skip("the session leaves sampling to the engine")
        blocks = _Blocks(session.limits)
        parts = [Part(token_ids=text, blocks=blocks.take(len(text))) for text in texts]
        batch = make_batch(parts, windows=session.limits.window_blocks > 0)
        count = len(batch.logit_rows)
        sampler = Sampler(rows=count, vocabulary_size=session.limits.vocabulary_size)
        kinds: tuple[dict[str, Any], ...] = ({"temperature": 0.0}, {"top_k": 5}, {"top_p": 0.8}, {"min_p": 0.2}, {})
        for row in range(count):
            sampler.assign(row, Sampling(seed=row, **kinds[row % len(kinds)]))
        logits = session.step(batch).logits
        expect(logits is not None, "TokenSession.step gave no logits, though TokenBatch.sampling was None")
        logits = np.array(logits)
        expected = sampler.choose(logits, batch.positions)
        result = session.step(replace(batch, sampling=sampler.for_device(batch.positions)))
        expect(
            result.token_ids is not None,
            "TokenSession.step gave no token_ids, though TokenBatch.sampling asked for them",
        )
        same = float(np.mean(np.array(result.token_ids) == expected))
        expect(same >= SAME_TOKENS, f"only {same:.0%} of the token_ids of TokenSession.step are those of its logits")
        if not session.limits.mixes:
            return
        shown = np.arange(0, count, 3, dtype=np.int32)
        result = session.step(replace(batch, sampling=sampler.for_device(batch.positions), shown=shown))
        self._same(result.logits, logits[shown])
        chosen = np.setdiff1d(np.arange(count), shown)
        same = float(np.mean(np.array(result.token_ids)[chosen] == expected[chosen]))
        expect(same >= SAME_TOKENS, f"only {same:.0%} of the token_ids beside TokenBatch.shown are those of its logits")

    def test_steps_go_on_from_tokens_that_nobody_has_read(self, session: TokenSession, texts: list[list[int]]) -> None:
        """Steps that are launched before the tokens of the last one are read give the tokens of one after the other."""
        if not session.limits.ahead:
            pytest.skip("the session computes one step after the other")
        if not isinstance(session, AheadSession):
            pytest.fail("TokenLimits.ahead is set, and the session is no AheadSession")
        blocks = _Blocks(session.limits)
        rows = {row: (text, blocks.take(len(text) + STEPS_AHEAD)) for row, text in enumerate(texts)}
        sampler = Sampler(rows=len(rows), vocabulary_size=session.limits.vocabulary_size)
        for row in rows:
            sampler.assign(row, Sampling(seed=row, **({"temperature": 0.0}, {"top_p": 0.9}, {"top_k": 9})[row % 3]))

        def make(order: list[int], step: int, known: dict[int, int]) -> TokenBatch:
            parts = []
            for row in order:
                text, own = rows[row]
                begin = len(text) + step - 1 if step else 0
                tokens = [known.get(row, 0)] if step else text
                parts.append(Part(token_ids=tokens, begin=begin, blocks=own, wanted=[len(tokens) - 1]))
            batch = make_batch(parts, windows=session.limits.window_blocks > 0)
            return replace(batch, sampling=sampler.for_device(batch.lengths, rows=np.array(order)))

        orders = [list(rows), list(rows), list(rows)[::-1], list(rows)[::-1][: max(1, len(rows) - 1)]]
        told: list[dict[int, int]] = []
        for step, order in enumerate(orders):
            ids = session.step(make(order, step, told[-1] if told else {})).token_ids
            told.append(dict(zip(order, np.array(ids).tolist(), strict=True)))
        waiting: list[Callable[[], StepResult]] = []
        given: list[list[int]] = []
        for step, order in enumerate(orders):
            batch = make(order, step, {})
            if step:
                origins = np.array([orders[step - 1].index(row) for row in order], np.int32)
                batch = replace(batch, origins=origins)
            waiting.append(session.launch(batch))
            if step:
                given.append(np.array(waiting.pop(0)().token_ids).tolist())
        given.append(np.array(waiting.pop(0)().token_ids).tolist())
        expected = [list(tokens.values()) for tokens in told]
        expect(given == expected, f"AheadSession.launch gave {given}; one step after the other gives {expected}")

    @pytest.mark.parametrize("border", [-1, 0, 1])
    def test_chunks_equal_one_step(self, session: TokenSession, texts: list[list[int]], border: int) -> None:
        """A prompt that is read in chunks, around a block's border, gives the logits of one that is read at once."""
        text, chunk = texts[0], max(1, session.limits.block_tokens + border)
        expected = self._alone(session, text)
        blocks = _Blocks(session.limits).take(len(text))
        for begin in range(0, len(text), chunk):
            some = text[begin : begin + chunk]
            self._same(compute(session, Part(token_ids=some, begin=begin, blocks=blocks))[0], expected[begin:][:chunk])

    def test_token_by_token_beside_a_prompt(self, session: TokenSession, texts: list[list[int]]) -> None:
        """A sequence that grows by one token a step beside another's prompt gives the logits of one step alone."""
        text, other = texts[-1], texts[0]
        expected, beside = self._alone(session, text), self._alone(session, other)
        blocks = _Blocks(session.limits)
        own, others = blocks.take(len(text)), blocks.take(len(other))
        for place in range(min(len(text), len(other))):
            growing = Part(token_ids=text[place : place + 1], begin=place, blocks=own)
            prompt = Part(token_ids=other[place : place + 1], begin=place, blocks=others)
            one, two = compute(session, growing, prompt)
            self._same(one, expected[place : place + 1])
            self._same(two, beside[place : place + 1])

    def test_blocks_may_lie_anywhere(self, session: TokenSession, texts: list[list[int]]) -> None:
        """Blocks that are neither neighbours nor in order give the same logits."""
        text = texts[0]
        blocks = _Blocks(session.limits).take(2 * len(text))[::-2][: len(_Blocks(session.limits).take(len(text)))]
        self._same(compute(session, Part(token_ids=text, blocks=blocks))[0], self._alone(session, text))

    def test_blocks_may_be_used_again(self, session: TokenSession, texts: list[list[int]]) -> None:
        """What a block held before, for another sequence, changes nothing."""
        expected = self._alone(session, texts[-1])
        compute(session, Part(token_ids=texts[0], blocks=_Blocks(session.limits).take(len(texts[0]))))
        again = compute(session, Part(token_ids=texts[-1], blocks=_Blocks(session.limits).take(len(texts[-1]))))
        self._same(again[0], expected)

    def test_blocks_may_be_shared(self, session: TokenSession, texts: list[list[int]]) -> None:
        """Two sequences that read one block of the same beginning go on as each would alone."""
        size = session.limits.block_tokens
        begin, ends = texts[0][:size], (texts[0][size:], texts[-1][:3])
        blocks = _Blocks(session.limits)
        shared = blocks.take(size)
        compute(session, Part(token_ids=begin, blocks=shared))
        parts = [Part(token_ids=end, begin=size, blocks=[*shared, *blocks.take(len(end))]) for end in ends]
        for one, end in zip(compute(session, *parts), ends, strict=True):
            self._same(one, self._alone(session, [*begin, *end])[size:])

    def test_copied_blocks_are_independent(self, session: TokenSession, texts: list[list[int]]) -> None:
        """A sequence goes on from copies of its blocks, whatever happens to the blocks that were copied."""
        size, blocks = session.limits.block_tokens, _Blocks(session.limits)
        text = texts[0][: size + BEHIND]
        old, new = blocks.take(len(text)), blocks.take(len(text))
        halves = [*range(size + 1, len(text)), *range(1, len(text))[:size][-BEHIND:]]
        found = find_dependence(session, text, new, halves=halves, tolerance=self.tolerance, seed=SEED)
        if found is None:
            pytest.skip(
                "the logits were the same whatever the blocks held, so that copies cannot be told from none; "
                "take a model whose next token depends on more of the text"
            )
        compute(session, Part(token_ids=found.text[: found.half], blocks=old, wanted=[]))
        copy_blocks(session, list(zip(old, new, strict=True)))  # over what the decoy left
        compute(session, Part(token_ids=found.decoy, blocks=old, wanted=[]))
        gone_on = compute(session, Part(token_ids=found.text[found.half :], begin=found.half, blocks=new))[0]
        self._same(gone_on, found.expected, "TokenSession.step after copy_blocks")

    def test_kept_blocks_go_on_in_another_session(
        self, backend: Backend, load_request: LoadRequest, session: TokenSession, texts: list[list[int]]
    ) -> None:
        """A sequence goes on in a session that was loaded anew, from blocks that were taken out of the one before."""
        if not isinstance(session, KeepingSession):
            pytest.skip("the session's blocks cannot be taken out of it")
        text, half = texts[0], session.limits.block_tokens
        blocks = _Blocks(session.limits)
        old, rest = blocks.take(half), blocks.take(len(text) - half)
        expected = self._alone(session, text, first=old[0])[half:]
        layout, windows = session.kv_layout, session.limits.window_blocks > 0
        pools = [(0, layout.block_bytes), *([(session.limits.blocks, layout.window_block_bytes)] if windows else [])]
        kept = [(first, bytes(session.export_block(first + old[0]))) for first, _ in pools]
        for (_, size_bytes), (_, data) in zip(pools, kept, strict=True):
            expect(
                len(data) == size_bytes,
                f"KeepingSession.export_block gave {len(data)} bytes; kv_layout says {size_bytes}",
            )
        other = check_language_model(backend.load(load_request, lambda _: None)).session
        expect(
            isinstance(other, KeepingSession) and other.kv_layout == layout,
            "KeepingSession.kv_layout of a session that was loaded anew differs from that of the one before",
        )
        if isinstance(other, KeepingSession):
            new = rest[-1] + 1 if rest[-1] + 1 < other.limits.blocks else old[0]  # where it was not before
            for first, data in kept:
                other.import_block(first + new, data)
            gone_on = compute(other, Part(token_ids=text[half:], begin=half, blocks=[new, *rest]))[0]
            self._same(gone_on, expected, "TokenSession.step after import_block")
        other.close()

    def test_steps_do_not_add_up_in_memory(self, session: TokenSession, texts: list[list[int]]) -> None:
        """The same steps and copies, over and over, do not make the process larger and larger."""
        old, new = (_Blocks(session.limits, first=first).take(1) for first in (0, 1))

        def repeat() -> None:
            compute(session, Part(token_ids=texts[0][:1], blocks=old))
            copy_blocks(session, [(old[0], new[0])])

        grown = measure_repeats(repeat)
        expect(
            sorted(grown)[len(grown) // 2] < STEADY_BYTES,
            f"the process grew by {grown} bytes in {len(grown)} rounds of at most {ROUND} equal calls of "
            "TokenSession.step and copy_blocks; what a step takes has to be given back or used again",
        )

    def test_prefix_is_reused(self, session: TokenSession, texts: list[list[int]]) -> None:
        """Blocks of a sequence that has ended serve others with the same beginning, one step and many steps later."""
        size = session.limits.block_tokens
        begin, ends = texts[0][: 2 * size], (texts[0][2 * size :], texts[-1][:2])
        blocks = _Blocks(session.limits)
        kept = blocks.take(len(begin))
        compute(session, Part(token_ids=begin, blocks=kept, wanted=[]))
        for end in ends:
            own = blocks.take(len(end))
            again = compute(session, Part(token_ids=end, begin=len(begin), blocks=[*kept, *own]))[0]
            self._same(again, self._alone(session, [*begin, *end], first=own[-1] + 1)[len(begin) :])

    @pytest.mark.parametrize("kept", [0, 1])
    def test_preempted_sequence_resumes(self, session: TokenSession, texts: list[list[int]], kept: int) -> None:
        """A sequence whose blocks went to another, all or all but the first, goes on when they are computed again."""
        text, size = texts[0], session.limits.block_tokens
        expected = self._alone(session, text)
        blocks = _Blocks(session.limits)
        old, new = blocks.take(len(text)), blocks.take(len(text))
        compute(session, Part(token_ids=text[:-1], blocks=old, wanted=[]))
        taken = old[kept:]
        compute(session, Part(token_ids=texts[-1][: len(taken) * size], blocks=taken, wanted=[]))
        begin = kept * size
        resumed = Part(token_ids=text[begin:], begin=begin, blocks=[*old[:kept], *new[kept:]])
        self._same(compute(session, resumed)[0], expected[begin:])

    def test_guessed_tokens_may_be_replaced(self, session: TokenSession, texts: list[list[int]]) -> None:
        """Tokens that were computed and thrown away leave nothing behind when others take their positions."""
        text, half = texts[0], len(texts[0]) // 2
        if session.limits.forward_only:  # whole blocks are replaced
            half -= half % session.limits.block_tokens
        expected = self._alone(session, text)
        blocks = _Blocks(session.limits).take(len(text))
        if half:
            compute(session, Part(token_ids=text[:half], blocks=blocks))
        compute(session, Part(token_ids=text[half:][::-1], begin=half, blocks=blocks))
        for place in range(half, len(text)):
            one = compute(session, Part(token_ids=text[place : place + 1], begin=place, blocks=blocks))[0]
            self._same(one, expected[place : place + 1])

    def test_only_wanted_logits(self, session: TokenSession, texts: list[list[int]]) -> None:
        """Any part of the logits can be asked for, none of them too."""
        size = session.limits.vocabulary_size
        blocks = _Blocks(session.limits)
        wanted = [[0, len(text) - 1] if len(text) > 1 else [] for text in texts]
        parts = [
            Part(token_ids=text, blocks=blocks.take(len(text)), wanted=some)
            for text, some in zip(texts, wanted, strict=True)
        ]
        for one, text, some in zip(compute(session, *parts), texts, wanted, strict=True):
            expect(
                one.shape == (len(some), size),
                f"TokenSession.step gave logits of shape {one.shape}, not {(len(some), size)}",
            )
            self._same(one, self._alone(session, text)[some])
        nothing = compute(
            session, Part(token_ids=texts[0], blocks=_Blocks(session.limits).take(len(texts[0])), wanted=[])
        )
        expect(nothing[0].shape == (0, size), f"no logits were wanted, TokenSession.step gave {nothing[0].shape}")

    def test_most_sequences(self, session: TokenSession, limits: TokenLimits) -> None:
        """A step takes as many sequences as the limits say."""
        count = min(limits.max_sequences, limits.max_step_tokens, limits.blocks)
        ids = np.random.default_rng(SEED).integers(limits.vocabulary_size, size=count).tolist()
        logits = compute(session, *(Part(token_ids=[number], blocks=[row]) for row, number in enumerate(ids)))
        for row in {0, count // 2, count - 1}:
            self._same(logits[row], self._alone(session, [ids[row]]))

    def test_most_tokens(self, session: TokenSession, limits: TokenLimits) -> None:
        """A step takes as many tokens as the limits say, in as few sequences as can hold them."""
        count, most = limits.max_step_tokens, min(limits.context_tokens, limits.blocks * limits.block_tokens)
        blocks = _Blocks(limits)
        parts: list[Part] = []
        ids = np.random.default_rng(SEED).integers(limits.vocabulary_size, size=count).tolist()
        while count > 0 and len(parts) < limits.max_sequences:
            room = (limits.blocks - blocks.taken) * limits.block_tokens
            if not (length := min(count, most, room)):
                break
            count -= length
            parts.append(Part(token_ids=ids[count : count + length], blocks=blocks.take(length), wanted=[length - 1]))
        last = compute(session, *parts)[-1]
        self._same(last, self._alone(session, list(parts[-1].token_ids), wanted=[len(parts[-1].token_ids) - 1]))

    def test_same_step_same_bits(self, session: TokenSession, texts: list[list[int]]) -> None:
        """The same step gives the same bits."""
        one, two = self._alone(session, texts[0]), self._alone(session, texts[0])
        expect(
            np.array_equal(one, two),
            f"twice the same TokenSession.step: the logits differ by up to {np.abs(one - two).max()}",
        )

    def test_logits_are_float32(self, session: TokenSession, texts: list[list[int]]) -> None:
        """Logits are finite float32 numbers."""
        logits = self._alone(session, texts[0])
        expect(logits.dtype == np.float32, f"TokenSession.step gave logits of {logits.dtype}, not float32")
        expect(bool(np.isfinite(logits).all()), "TokenSession.step gave logits that are not finite")

    @pytest.mark.parametrize("outside", ["above", "below"])
    def test_wrong_ids_leave_the_session_usable(
        self, session: TokenSession, texts: list[list[int]], outside: str
    ) -> None:
        """A token outside the vocabulary is an exception, after which the session computes as before."""
        expected = self._alone(session, texts[-1])
        wrong = session.limits.vocabulary_size if outside == "above" else -1
        with refused("TokenSession.step", f"token {wrong}"):
            self._alone(session, [*texts[-1][:1], wrong])
        self._same(self._alone(session, texts[-1]), expected)

    def test_failed_step_leaves_other_blocks_alone(self, session: TokenSession, texts: list[list[int]]) -> None:
        """A step that raises damages no sequence that was not in it: those go on from their blocks."""
        text, half = texts[0], len(texts[0]) // 2
        expected = self._alone(session, text)
        blocks = _Blocks(session.limits)
        own, other = blocks.take(len(text)), blocks.take(2)
        compute(session, Part(token_ids=text[:half], blocks=own, wanted=[]))
        with refused("TokenSession.step", f"token {session.limits.vocabulary_size}"):
            compute(session, Part(token_ids=[texts[-1][0], session.limits.vocabulary_size], blocks=other))
        self._same(compute(session, Part(token_ids=text[half:], begin=half, blocks=own))[0], expected[half:])

    def test_load_and_close_again(self, backend: Backend, load_request: LoadRequest, texts: list[list[int]]) -> None:
        """A second session can be loaded, computes, and is closed without a word."""
        session = check_language_model(backend.load(load_request, lambda _: None)).session
        self._alone(session, texts[-1])
        session.close()

    def _alone(self, session: TokenSession, text: list[int], *, first: int = 0, wanted: list[int] | None = None) -> Any:
        """Logits of one sequence that is computed in one step, in the blocks from `first` on; all by default."""
        blocks = _Blocks(session.limits, first=first).take(len(text))
        return compute(session, Part(token_ids=text, blocks=blocks, wanted=wanted))[0]

    def _same(self, one: Any, other: Any, method: str = "TokenSession.step") -> None:
        np.testing.assert_allclose(one, other, rtol=0, atol=self.tolerance, err_msg=f"{method} gave other logits")


class _Blocks:
    """Hands out the blocks of a pool in order; `taken` is the next one."""

    def __init__(self, limits: TokenLimits, *, first: int = 0) -> None:
        self._limits = limits
        self.taken = first

    def take(self, tokens: int) -> list[int]:
        """The next blocks that hold so many tokens."""
        first, self.taken = self.taken, self.taken - (-tokens // self._limits.block_tokens)
        if self.taken > self._limits.blocks:
            pytest.skip(f"the pool of {self._limits.blocks} blocks is too small for this check")
        return list(range(first, self.taken))
