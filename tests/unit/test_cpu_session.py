"""The forward pass, on tiny models with made-up weights."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_models as tiny

from inferd.plugin import LoadRequest, TokenBatch, TokenSession
from inferd.plugin.backend import read_settings
from inferd.testing.batches import Part, compute, make_batch
from inferd_cpu import plan, workspace
from inferd_cpu.backend import CpuBackend
from inferd_cpu.plugin import SPEC

REFERENCE = Path(tiny.__file__).with_name("tiny_logits.json")
PROMPT = tiny.PROMPT
BLOCKS = list(range(39, -1, -1))  # in no natural order
TOLERANCE = 2e-4


def load(path: Path, **settings: str) -> TokenSession:
    request = LoadRequest(
        path=path,
        device="cpu:0",
        settings=read_settings(SPEC, {"kv_tokens": "640", **settings}),
        capacity_bytes=1 << 30,
    )
    return CpuBackend().load(request, lambda _: None).session


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.write_model(tiny.MODELS["llama"], tmp_path_factory.mktemp("tiny") / "llama.gguf")


@pytest.fixture
def session(llama: Path) -> Iterator[TokenSession]:
    session = load(llama)
    yield session
    session.close()


def part(ids: list[int], blocks: list[int], begin: int = 0) -> Part:
    return Part(token_ids=ids, blocks=blocks, begin=begin)


def run_alone(session: TokenSession, ids: list[int]) -> np.ndarray[Any, Any]:
    """Logits of every row of one sequence that is computed in one step."""
    (logits,) = compute(session, part(ids, BLOCKS[-8:]))
    return logits


@pytest.mark.parametrize("name", tiny.MODELS)
def test_equals_transformers(tmp_path: Path, name: str) -> None:
    """Each architecture and each kind of rotary scaling gives the logits that transformers computes."""
    session = load(tiny.write_model(tiny.MODELS[name], tmp_path / "tiny.gguf"))
    logits = run_alone(session, PROMPT)
    for row, expected in json.loads(REFERENCE.read_text(encoding="utf-8"))[name].items():
        np.testing.assert_allclose(logits[int(row)], expected, atol=TOLERANCE)


@pytest.mark.parametrize("chunks", [[1] * 40, [16, 24], [17, 1, 22], [39, 1]], ids=str)
def test_chunks_equal_one_step(session: TokenSession, chunks: list[int]) -> None:
    """A prompt computed in pieces, of any size, gives the logits of one step."""
    expected = run_alone(session, PROMPT)
    past = 0
    for count in chunks:
        (logits,) = compute(session, part(PROMPT[past : past + count], BLOCKS, past))
        np.testing.assert_allclose(logits, expected[past : past + count], atol=TOLERANCE)
        past += count


def test_ragged_batch_equals_single_runs(session: TokenSession) -> None:
    """Prompts, pieces of prompts and single tokens of several lengths share steps; each gets its own logits."""
    prompts = [PROMPT[:1], PROMPT[3:33], PROMPT[:20], PROMPT[5:22], PROMPT[10:40]]
    expected = [run_alone(session, ids) for ids in prompts]
    tables = [BLOCKS[8 * i : 8 * i + 8] for i in range(5)]
    past = [0, 0, 0, 0, 0]
    for counts in ([1, 29, 7, 0, 0], [0, 1, 12, 16, 29], [0, 0, 1, 1, 1]):
        at = [i for i, count in enumerate(counts) if count]
        step = [part(prompts[i][past[i] : past[i] + counts[i]], tables[i], past[i]) for i in at]
        for i, logits in zip(at, compute(session, *step), strict=True):
            np.testing.assert_allclose(logits, expected[i][past[i] : past[i] + counts[i]], atol=TOLERANCE)
        past = [done + count for done, count in zip(past, counts, strict=True)]


def test_small_workspace_changes_nothing(llama: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """When little fits into the workspace, rows attend in more groups, with the same result."""
    prompts = [part(PROMPT[:30], BLOCKS[:8]), part(PROMPT[:9], BLOCKS[8:16])]
    singles = [part([5], BLOCKS[:8], 30), part([6], BLOCKS[8:16], 9)]
    wide = load(llama)
    expected = [compute(wide, *step) for step in (prompts, singles)]
    monkeypatch.setattr(workspace, "SCORES", 1)
    monkeypatch.setattr(workspace, "MIN_GATHERED_TOKENS", 1)
    narrow = load(llama, context_tokens="32")
    for step, wanted in zip((prompts, singles), expected, strict=True):
        made = plan.make_plan(make_batch(step), narrow.limits, gathered_blocks=2, scores_per_head=32)
        assert len(made.groups[0]) > 1
        for logits, good in zip(compute(narrow, *step), wanted, strict=True):
            np.testing.assert_allclose(logits, good, atol=TOLERANCE)


def test_logit_rows(session: TokenSession) -> None:
    """Logits are given for the rows that are asked for only, in their order; there may be none."""
    expected = run_alone(session, PROMPT)
    batch = make_batch([part(PROMPT, BLOCKS)])
    for rows in ([], [0], [3, 39], list(range(40))):
        asked = replace(batch, logit_rows=np.array(rows, np.int32))
        logits = session.step(asked).logits
        assert logits.shape == (len(rows), tiny.VOCABULARY_SIZE)
        np.testing.assert_allclose(logits, expected[rows], atol=TOLERANCE)


def test_same_batch_same_bits(session: TokenSession) -> None:
    """The same batch gives the same logits to the bit."""
    assert run_alone(session, PROMPT).tobytes() == run_alone(session, PROMPT).tobytes()


def test_shared_and_copied_blocks(session: TokenSession) -> None:
    """A block can be read by two sequences, and a copy of a block serves as well as the block."""
    expected = run_alone(session, [*PROMPT[:17], 9])[17]
    compute(session, part(PROMPT[:17], [0, 1]))
    session.copy_blocks([(1, 7), (7, 2), (0, 7)])
    _, shared = compute(session, part([8], [0, 1], 17), part([9], [0, 2], 17))
    np.testing.assert_allclose(shared[0], expected, atol=TOLERANCE)
    (copied,) = compute(session, part([9], [7, 2], 17))
    np.testing.assert_allclose(copied[0], expected, atol=TOLERANCE)


def test_refuses_to_copy_outside_the_pool(session: TokenSession) -> None:
    """A pair outside the pool is refused before anything is copied."""
    with pytest.raises(ValueError, match="bad pair: block 40; it must be from 0 to 39"):
        session.copy_blocks([(0, 1), (0, 40)])


GOOD = make_batch([part(PROMPT[:20], [3, 4]), part([1], [5, 6], 16)])
BAD = {
    "no tokens": ({"token_ids": [], "positions": []}, "0 tokens; a step takes 1 to 512"),
    "id too large": ({"token_ids": [96] * 21}, "token id 96; it must be from 0 to 95"),
    "id below 0": ({"token_ids": [-1] * 21}, "token id -1; it must be"),
    "positions missing": ({"positions": [0]}, r"positions, starts and block_tables of shapes \(\(1,\), "),
    "positions not consecutive": ({"positions": [0] * 21}, "positions are not consecutive"),
    "positions below 0": ({"lengths": [20, 0]}, "length 0; it must be from 1 to 256"),
    "length past the context": ({"lengths": [20, 257]}, "length 257; it must be from 1 to 256"),
    "length too short": ({"lengths": [19, 17]}, "positions are not consecutive"),
    "starts falling": ({"starts": [0, 22, 21]}, r"starts \[0, 22, 21\]; they must rise from 0 to 21"),
    "starts too short": ({"starts": [0, 20, 20]}, "they must rise from 0 to 21"),
    "table too narrow": ({"block_tables": [[3], [5]]}, "block tables of 1 blocks for sequences of 2"),
    "block missing": ({"block_tables": [[3, -1], [5, 6]]}, "block -1; it must be from 0 to 39"),
    "block outside": ({"block_tables": [[3, 40], [5, 6]]}, "block 40; it must be from 0 to 39"),
    "logit row outside": ({"logit_rows": [21]}, "logit row 21; it must be from 0 to 20"),
}


@pytest.mark.parametrize(("change", "message"), BAD.values(), ids=BAD)
def test_refuses_bad_batches(session: TokenSession, change: dict[str, Any], message: str) -> None:
    """A batch that breaks a promise is refused with the figure, and the session computes on as before."""
    before = session.step(GOOD).logits.copy()
    bad = replace(GOOD, **{name: np.array(value, np.int32) for name, value in change.items()})
    with pytest.raises(ValueError, match=f"bad batch: .*{message}"):
        session.step(bad)
    assert session.step(GOOD).logits.tobytes() == before.tobytes()


def test_refuses_more_than_the_limits(llama: Path) -> None:
    """More tokens or sequences than the limits say are refused with both numbers."""
    session = load(llama, max_sequences="2", max_step_tokens="4")
    assert session.limits.max_sequences == 2

    def step(*counts: int) -> TokenBatch:
        return make_batch([part(PROMPT[:count], [i]) for i, count in enumerate(counts)])

    with pytest.raises(ValueError, match="5 tokens; a step takes 1 to 4"):
        session.step(step(4, 1))
    with pytest.raises(ValueError, match="3 sequences; a step takes at most 2"):
        session.step(step(1, 1, 1))
    assert session.step(step(3, 1)).logits.shape == (4, tiny.VOCABULARY_SIZE)


def test_hidden_states_are_those_behind_the_logits(session: TokenSession) -> None:
    """The hidden states of any rows, times the output matrix, are the logits of these rows."""
    batch = make_batch([part(PROMPT[:20], BLOCKS[:8]), part(PROMPT[5:16], BLOCKS[8:16])])
    rows = np.array([0, 7, 19, 20, 30], np.int32)
    expected = np.array(session.step(replace(batch, logit_rows=rows)).logits)
    result = session.step(replace(batch, logit_rows=rows[:2], hidden_rows=rows))
    assert result.hidden is not None
    assert result.logits is not None
    assert result.hidden.shape == (5, session.limits.embedding_size)
    head: Any = session._weights.head  # type: ignore[attr-defined]
    np.testing.assert_allclose(result.hidden @ head.T, expected, atol=TOLERANCE)
    np.testing.assert_allclose(result.logits, expected[:2], atol=TOLERANCE)
    with pytest.raises(ValueError, match="hidden row 31"):
        session.step(replace(batch, hidden_rows=np.array([31], np.int32)))
