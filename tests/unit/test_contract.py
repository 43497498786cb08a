from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from inferd.plugin import LoadRequest, StepResult, TokenBatch
from inferd.testing.contract import BackendContract
from inferd.testing.fake import FakeBackend
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


@pytest.mark.parametrize(
    ("sabotage", "check", "extra"),
    [
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
    with pytest.raises((AssertionError, pytest.fail.Exception)):
        run(session, texts, *extra)
