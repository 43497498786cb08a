import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from inferd.plugin import (
    LoadedModel,
    LoadError,
    LoadRequest,
    MemoryNeed,
    ModelDescription,
    StepResult,
    TokenBatch,
)
from inferd.plugin.checks import check_backend, check_model, check_need
from inferd.testing import growth
from inferd.testing.contract import BackendContract
from inferd.testing.fake import VOCABULARY, FakeBackend
from inferd.testing.fake_session import FakeSession
from inferd.testing.kernel import write_fake_model

GENERATOR = np.random.default_rng(0)


FAKE_STEP = FakeSession.step


def change(logits: Callable[[TokenBatch, Any], Any]) -> Callable[[FakeSession, TokenBatch], StepResult]:
    """A step that does something to the right logits."""
    return lambda session, batch: StepResult(logits=logits(batch, FAKE_STEP(session, batch).logits))


def forgetful(session: FakeSession, batch: TokenBatch) -> StepResult:
    """A step that computes token 0 for one that is outside the vocabulary."""
    batch.token_ids[(batch.token_ids < 0) | (batch.token_ids >= session.limits.vocabulary_size)] = 0
    return FAKE_STEP(session, batch)


def spiteful(session: FakeSession, batch: TokenBatch) -> StepResult:
    """A step that takes everything with it when it fails."""
    if batch.token_ids.max() >= session.limits.vocabulary_size:
        session._token[:] = 97
    return FAKE_STEP(session, batch)


KEPT: list[Any] = []


MUCH = 40 << 20  # malloc asks for more than 32 MiB anew, whatever the tests before have given back to it


def keeping(*, asked_only: bool) -> Callable[[FakeSession, TokenBatch], StepResult]:
    """A step that keeps 40 MiB, which it may never have written to."""

    def step(session: FakeSession, batch: TokenBatch) -> StepResult:
        KEPT.append(bytearray(MUCH) if asked_only else b"x" * MUCH)
        return FAKE_STEP(session, batch)

    return step


@pytest.fixture(autouse=True)
def give_back() -> Iterator[None]:
    """What sabotaged steps keep lasts for a test."""
    yield
    KEPT.clear()


@pytest.mark.parametrize(
    ("sabotage", "check", "extra"),
    [
        ({"step": keeping(asked_only=False)}, "test_steps_do_not_add_up_in_memory", ()),
        ({"step": keeping(asked_only=True)}, "test_steps_do_not_add_up_in_memory", ()),
        ({"copy_blocks": lambda *_: KEPT.append(b"x" * MUCH)}, "test_steps_do_not_add_up_in_memory", ()),
        ({"copy_blocks": lambda *_: None}, "test_copied_blocks_are_independent", ()),
        ({"step": change(lambda _, logits: logits[::-1])}, "test_batch_equals_single_runs", ()),
        ({"step": change(lambda _, logits: logits + GENERATOR.normal())}, "test_same_step_same_bits", ()),
        ({"step": change(lambda _, logits: logits.astype(np.float64))}, "test_logits_are_float32", ()),
        ({"step": change(lambda _, logits: logits / 0.0)}, "test_logits_are_float32", ()),
        ({"step": change(lambda _, logits: np.concatenate([logits, logits[:1]]))}, "test_only_wanted_logits", ()),
        ({"step": change(lambda batch, logits: logits + len(batch.lengths))}, "test_batch_equals_single_runs", ()),
        ({"step": change(lambda batch, logits: logits + batch.lengths[0])}, "test_chunks_equal_one_step", (1,)),
        ({"step": change(lambda batch, logits: logits + batch.block_tables.max())}, "test_blocks_may_lie_anywhere", ()),
        ({"step": change(lambda batch, logits: logits + batch.positions[0])}, "test_prefix_is_reused", ()),
        ({"step": change(lambda batch, logits: logits + batch.positions[0])}, "test_preempted_sequence_resumes", (1,)),
        (
            {"step": change(lambda batch, logits: logits + batch.block_tables[0, 0])},
            "test_preempted_sequence_resumes",
            (0,),
        ),
        ({"step": change(lambda _, logits: logits + len(logits))}, "test_guessed_tokens_may_be_replaced", ()),
        ({"step": spiteful}, "test_failed_step_leaves_other_blocks_alone", ()),
        ({"step": forgetful}, "test_wrong_ids_leave_the_session_usable", ("above",)),
    ],
)
@pytest.mark.filterwarnings("ignore:divide by zero", "ignore:invalid value")
def test_wrong_backend_does_not_pass(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sabotage: dict[str, Any], check: str, extra: tuple[Any, ...]
) -> None:
    """A session that does one thing wrong fails the check of that thing, which the right one passes."""
    request = LoadRequest(
        path=write_fake_model(tmp_path, block_tokens=4, blocks=64), device="fake:0", capacity_bytes=1 << 30
    )
    session = FakeBackend().load(request, lambda _: None).session
    texts = [[97 + n % 5 for n in range(length)] for length in (11, 1, 4, 5, 7)]
    run = getattr(BackendContract(), check)
    run(session, texts, *extra)
    for method, replacement in sabotage.items():
        monkeypatch.setattr(FakeSession, method, replacement)
    with pytest.raises((AssertionError, pytest.fail.Exception), match=r"TokenSession\.(step|copy_blocks)"):
        run(session, texts, *extra)


def test_a_model_that_does_not_look_back_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where no contents of blocks change the logits, the check of copies is skipped with the reason."""
    path = write_fake_model(tmp_path, block_tokens=4, blocks=64)
    session = (
        FakeBackend().load(LoadRequest(path=path, device="fake:0", capacity_bytes=1 << 30), lambda _: None).session
    )
    monkeypatch.setattr(FakeSession, "step", change(lambda _, logits: np.zeros_like(logits)))
    with pytest.raises(pytest.skip.Exception, match="take a model whose next token depends on more of the text"):
        BackendContract().test_copied_blocks_are_independent(session, [[97 + n % 5 for n in range(11)]])


GIVEN = {
    "probe": (lambda *_: None, "Backend.probe gave None; it must give a Probe"),
    "measure": (lambda *_: 7, "Backend.measure gave a builtins.int; it must give a MemoryNeed"),
    "load": (lambda *_: object(), "Backend.load gave a builtins.object; it must give a LoadedModel"),
}


@pytest.mark.parametrize("method", GIVEN)
def test_the_method_that_was_meant_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str) -> None:
    """What a method must not give is told with the method, in the suite and in a worker alike."""
    gives, message = GIVEN[method]
    monkeypatch.setattr(FakeBackend, method, gives)
    request = LoadRequest(path=write_fake_model(tmp_path), device="fake:0", capacity_bytes=1 << 30)
    suite = BackendContract()
    checks: dict[str, Callable[[], Any]] = {
        "probe": lambda: suite.test_probe_finds_devices(FakeBackend(), request),
        "measure": lambda: suite.test_measures_the_same_again(FakeBackend(), request),
        "load": lambda: check_model(FakeBackend().load(request, lambda _: None)),
    }
    with pytest.raises(TypeError, match=re.escape(message)):
        checks[method]()


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (None, "Backend.measure raised nothing for a file that is no model; it must raise LoadError"),
        (OSError("gone"), "Backend.measure raised OSError for a file that is no model; it must raise LoadError: gone"),
        (LoadError(""), "Backend.measure raised LoadError('') without a message"),
    ],
)
def test_a_wrong_refusal_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception | None, message: str
) -> None:
    """A backend that takes anything for a model, or raises something else, is told which method does so."""

    def measure(*_: Any) -> MemoryNeed:
        if error is not None:
            raise error
        return MemoryNeed(weights_bytes=1)

    monkeypatch.setattr(FakeBackend, "measure", measure)
    request = LoadRequest(path=write_fake_model(tmp_path), device="fake:0", capacity_bytes=1 << 30)
    with pytest.raises(pytest.fail.Exception, match=re.escape(message)):
        BackendContract().test_what_is_no_model_is_a_load_error(FakeBackend(), request, tmp_path, b"")


class Half:
    """A class that lacks most of what a backend or a session has."""

    def load(self, *_: Any) -> None: ...

    def step(self, *_: Any) -> None: ...


def test_checks_name_what_is_lacking() -> None:
    """Missing methods, parts of the wrong kind and numbers that are none are named, one by one."""
    with pytest.raises(TypeError, match=r"x:Half lacks Backend\.probe, Backend\.measure; it must have"):
        check_backend(Half(), "x:Half")
    for wrong, message in (
        (MemoryNeed(weights_bytes=1.5), "Backend.measure gave weights_bytes=1.5; it must be a whole number of bytes"),  # type: ignore[arg-type]
        (MemoryNeed(weights_bytes=1, kv_bytes=-1), "Backend.measure gave kv_bytes=-1; it must be at least 0"),
    ):
        with pytest.raises((TypeError, ValueError), match=re.escape(message)):
            check_need(wrong)
    assert check_need(MemoryNeed(weights_bytes=np.int64(7))) == MemoryNeed(weights_bytes=7)  # type: ignore[arg-type]
    model: Any = LoadedModel(session=Half(), vocabulary=VOCABULARY, description=None)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"gave None as LoadedModel\.description; it must give a ModelDescription"):
        check_model(model)
    description = ModelDescription(architecture="fake", parameters=0, weight_format="", compute_format="")
    with pytest.raises(TypeError, match=r"Half, lacks TokenSession\.copy_blocks, TokenSession\.close"):
        check_model(replace(model, description=description))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"algorithm": "wordpiece"}, "Vocabulary.algorithm is 'wordpiece'; it must be 'bpe', 'spm' or 'json'"),
        (
            {"kinds": (*VOCABULARY.kinds, 1)},
            "Vocabulary has 260 tokens and 261 kinds; there must be one for each token",
        ),
        ({"tokens": (*VOCABULARY.tokens, "x")}, "Vocabulary has 261 tokens and 260 kinds; there must be one for each"),
        ({"algorithm": "spm", "scores": (0.5,)}, "Vocabulary has 260 tokens and 1 scores; there must be one for each"),
        ({"kinds": (9, *VOCABULARY.kinds[1:])}, "Vocabulary.kinds has 9; each must be a TokenKind, from 0 to 6"),
        (
            {"tokens": VOCABULARY.tokens[:250], "kinds": VOCABULARY.kinds[:250]},
            "Vocabulary has 250 tokens and TokenLimits.vocabulary_size is 260: there must be a token for each logit",
        ),
        (
            {"tokens": (*VOCABULARY.tokens, "x"), "kinds": (*VOCABULARY.kinds, 1)},
            "Vocabulary has 261 tokens and TokenLimits.vocabulary_size is 260: there must be a token for each logit",
        ),
        (
            {"algorithm": "json"},
            "Vocabulary.definition is empty; with the algorithm 'json' it must be a tokenizer.json",
        ),
        ({"eos_ids": (259, 260)}, "Vocabulary.eos_ids names token 260; TokenLimits.vocabulary_size is 260"),
        ({"bos_id": -1}, "Vocabulary.bos_id names token -1; TokenLimits.vocabulary_size is 260"),
    ],
)
def test_a_vocabulary_that_contradicts_itself(tmp_path: Path, fields: dict[str, Any], message: str) -> None:
    """Counts that differ, among themselves or from the limits, are refused at the load with both numbers."""
    request = LoadRequest(path=write_fake_model(tmp_path), device="fake:0", capacity_bytes=1 << 30)
    model = check_model(FakeBackend().load(request, lambda _: None))
    with pytest.raises(ValueError, match=re.escape(message)):
        check_model(replace(model, vocabulary=replace(VOCABULARY, **fields)))


def test_what_is_given_back_hides_no_growth(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Steps that keep memory fail the check although something else in the process gives back as much, once."""
    request = LoadRequest(
        path=write_fake_model(tmp_path, block_tokens=4, blocks=64), device="fake:0", capacity_bytes=1 << 30
    )
    session = FakeBackend().load(request, lambda _: None).session
    others, collected = [b"x" * MUCH], count(1)

    def collect() -> None:
        if next(collected) == 2:  # at the end of a round: a thread of something else is over
            others.clear()

    monkeypatch.setattr(growth.gc, "collect", collect)
    monkeypatch.setattr(FakeSession, "step", keeping(asked_only=False))
    with pytest.raises(pytest.fail.Exception, match="the process grew by"):
        BackendContract().test_steps_do_not_add_up_in_memory(session, [[97]])
