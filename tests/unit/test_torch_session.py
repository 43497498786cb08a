"""Steps: hidden states, what a batch may be, failures inside, recorded inputs."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch", reason="torch is not installed: pip install 'inferd[torch]'")

import tiny_networks as tiny
import torch

from inferd.plugin import DeviceSampling, TokenBatch, TokenLimits
from inferd.testing.batches import Part, compute, make_batch
from inferd_torch import attention
from inferd_torch.capacity import choose_rows, choose_tokens
from inferd_torch.cuda_graphs import compute_filled, compute_recorded
from inferd_torch.decode_inputs import CHANGES, DecodeInputs
from inferd_torch.plan import make_plan
from inferd_torch.pool import LayerShape
from inferd_torch.sampling import draw_sorted
from inferd_torch.session import TorchSession
from inferd_torch.spans import attend_spans
from inferd_torch.split import attend_split
from inferd_torch.step_inputs import StepInputs

CPU = torch.device("cpu")
LIMITS = TokenLimits(
    vocabulary_size=tiny.VOCABULARY,
    context_tokens=128,
    block_tokens=8,
    blocks=64,
    max_sequences=8,
    max_step_tokens=128,
    embedding_size=64,
)
IDS = list(range(30, 60))


@pytest.fixture(scope="module")
def network() -> Any:
    return tiny.make_network("llama")


@pytest.fixture
def session(network: Any) -> Iterator[TorchSession]:
    attention.register()
    network.set_attn_implementation(attention.NAME)
    shapes = [LayerShape(heads=2, key_width=16, value_width=16)] * 3
    attend = (attend_split, attend_spans)
    yield TorchSession(network, shapes=shapes, limits=LIMITS, device=CPU, dtype=torch.float32, attend=attend)
    network.set_attn_implementation("eager")


def one_sequence() -> TokenBatch:
    return make_batch([Part(token_ids=IDS, blocks=range(4), wanted=[len(IDS) - 1])])


def test_hidden_states_are_those_behind_the_last_norm(session: TorchSession, network: Any) -> None:
    """The hidden states of the rows that were asked for are transformers' own, and none come unasked."""
    rows = np.array([0, 7, 29], np.int32)
    given = session.step(replace(one_sequence(), hidden_rows=rows))
    network.set_attn_implementation("eager")
    with torch.inference_mode():
        expected = network.base_model(input_ids=torch.tensor([IDS])).last_hidden_state[0]
    assert given.hidden is not None
    np.testing.assert_allclose(given.hidden, expected[rows.tolist()], atol=1e-4)
    assert given.logits.shape == (1, LIMITS.vocabulary_size)


def test_no_hidden_states_unasked(session: TorchSession) -> None:
    """A step that asks for no hidden states gives none."""
    assert session.step(one_sequence()).hidden is None


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"token_ids": np.full(30, 320, np.int32)}, "token id 320; it must be from 0 to 319"),
        ({"positions": np.zeros(30, np.int32)}, "positions are not consecutive"),
        ({"lengths": np.array([129], np.int32)}, "length 129; it must be from 1 to 128"),
        ({"block_tables": np.array([[0, 1, 2, 64]], np.int32)}, "block 64; it must be from 0 to 63"),
        ({"block_tables": np.array([[0, 1, 2, -1]], np.int32)}, "block -1"),
        ({"block_tables": np.array([[0, 1, 2]], np.int32)}, "blocks of a sequence 4; it must be from 1 to 3"),
        ({"starts": np.array([0, 29], np.int32)}, "must rise from 0 to 30"),
        ({"logit_rows": np.array([30], np.int32)}, "logit row 30"),
        ({"hidden_rows": np.array([-1], np.int32)}, "hidden row -1"),
    ],
)
def test_a_bad_batch_is_refused_before_anything_is_computed(
    session: TorchSession, changes: dict[str, Any], words: str
) -> None:
    """A batch that points outside the model or the pool is a ValueError with both numbers, and changes nothing."""
    before = session.step(one_sequence()).logits
    with pytest.raises(ValueError, match=words):
        session.step(replace(one_sequence(), **changes))
    assert np.array_equal(session.step(one_sequence()).logits, before)


def test_a_failure_inside_a_step_leaves_the_session_usable(
    session: TorchSession, network: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What raises in the middle of the network is passed on, and the next step computes as before."""
    before = session.step(one_sequence()).logits
    with monkeypatch.context() as patch:
        patch.setattr(network.model.layers[1].mlp, "forward", lambda _: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            session.step(one_sequence())
    assert np.array_equal(session.step(one_sequence()).logits, before)


def test_recorded_inputs_compute_what_a_plain_step_does(session: TorchSession) -> None:
    """Decode steps with inputs at fixed addresses, with rows to spare, give the logits of plain steps, and again."""
    width = LIMITS.context_tokens // LIMITS.block_tokens
    inputs = DecodeInputs(rows=8, width=width, pool=session._pool, tokens=session._tokens)
    prompts = {0: IDS[:8], 4: IDS[:19], 9: IDS[:1]}
    parts = [Part(token_ids=ids, blocks=range(first, first + 4)) for first, ids in prompts.items()]
    compute(session, *parts)
    spare = [keys[: LIMITS.blocks].clone() for keys, _ in session._pool.layers]
    for count in (3, 2, 1):
        some = list(prompts.items())[:count]
        batch = make_batch([Part(token_ids=[5], begin=len(ids), blocks=range(first, first + 4)) for first, ids in some])
        expected = session.step(batch).logits
        for (keys, _), clean in zip(session._pool.layers, spare, strict=True):
            clean.copy_(keys[: LIMITS.blocks])
        inputs.fill(batch)
        with torch.inference_mode():
            inputs.settle()
            given = session._forward(inputs.plan(8))
        np.testing.assert_allclose(given[:count], expected, atol=1e-4)
        assert torch.isfinite(given).all()
        for (keys, _), clean in zip(session._pool.layers, spare, strict=True):
            torch.testing.assert_close(keys[: LIMITS.blocks], clean, rtol=0, atol=1e-4)


def single_rows(counts: dict[int, int], *, blocks: int = 4) -> TokenBatch:
    """A token behind so many of each sequence, in blocks from the number that it is named by, to be drawn."""
    parts = [
        Part(token_ids=[7], begin=begin, blocks=range(first, first + max(blocks, begin // 8 + 1)))
        for first, begin in counts.items()
    ]
    batch = make_batch(parts)
    rows = len(parts)
    drawn = DeviceSampling(
        temperatures=np.full(rows, 0.9),
        top_k=np.array([first // 8 % 2 * 40 for first in counts]),
        top_p=np.full(rows, 0.95),
        min_p=np.full(rows, 0.01),
        points=np.array([(first + 5) / 64 for first in counts]),
    )
    return replace(batch, sampling=drawn)


def test_a_recorded_step_draws_as_a_plain_one_does_in_any_batch(session: TorchSession) -> None:
    """What tokens are chosen by is staged with the step: a replay gives those of plain steps, whoever is beside."""
    inputs = DecodeInputs(rows=8, width=16, pool=session._pool, tokens=session._tokens)
    counts = {0: 9, 8: 17, 16: 3, 24: 30, 32: 12}
    for first, begin in counts.items():
        compute(session, Part(token_ids=IDS[:begin] or IDS, blocks=range(first, first + 4)))
    plain = {}
    for first, begin in counts.items():
        plain[first] = int(session.step(single_rows({first: begin})).token_ids[0])
    assert len(set(plain.values())) > 1
    tokens = session._tokens
    for some in ([0, 8, 16, 24, 32], [32, 0], [24], [8, 16, 32, 0]):
        inputs.fill(single_rows({first: counts[first] for first in some}))
        with torch.inference_mode():
            compute_recorded(session._forward, draw_sorted, inputs, 8, tokens)
        assert tokens.cells[: len(some)].tolist() == [plain[first] for first in some]


def test_a_recorded_step_finds_tokens_that_nobody_has_read(session: TorchSession) -> None:
    """Tokens that the step before left on the device are those of a step that is told them; one that is none is 0."""
    inputs = DecodeInputs(rows=8, width=16, pool=session._pool, tokens=session._tokens)
    counts = {0: 9, 8: 17, 16: 3}
    for first, begin in counts.items():
        compute(session, Part(token_ids=IDS[:begin], blocks=range(first, first + 4)))
    known = single_rows(counts)
    expected = session.step(replace(known, token_ids=np.array([31, 7, 0], np.int32), sampling=None)).logits
    ahead = replace(known, token_ids=np.array([0, 7, 0], np.int32), origins=np.array([1, -1, 0], np.int32))
    inputs.fill(ahead)
    with torch.inference_mode():
        session._tokens.cells[:2] = torch.tensor([-1, 31])
        given = compute_recorded(session._forward, draw_sorted, inputs, 8, session._tokens)
        session._tokens.cells[:2] = torch.tensor([-1, 31])
    np.testing.assert_allclose(given[:3], expected, atol=1e-4)
    given = session.compute(replace(ahead, sampling=None)).logits
    np.testing.assert_allclose(given, expected, atol=1e-4)


@pytest.mark.parametrize("counts", [[30], [1, 20, 1], [5, 1, 2, 9], [1, 1]])
def test_a_step_that_is_filled_up_computes_what_a_plain_one_does(session: TorchSession, counts: list[int]) -> None:
    """Prompts beside rows that decode, filled up to a number of tokens, get the logits and tokens of plain steps."""
    inputs = StepInputs(tokens=64, limits=LIMITS, pool=session._pool, last=session._tokens)
    begins = [12 if count < 9 else 0 for count in counts]
    parts = []
    for place, (count, begin) in enumerate(zip(counts, begins, strict=True)):
        blocks = range(8 * place, 8 * place + 6)
        if begin:
            compute(session, Part(token_ids=IDS[:begin], blocks=blocks))
        parts.append(Part(token_ids=IDS[:count], begin=begin, blocks=blocks, wanted=[count - 1]))
    drawn = single_rows(dict.fromkeys(range(0, 8 * len(counts), 8), 0)).sampling
    batch = replace(make_batch(parts), sampling=drawn)
    expected = session.step(replace(batch, sampling=None)).logits
    tokens = session.step(batch).token_ids
    known = [keys[: LIMITS.blocks].clone() for keys, _ in session._pool.layers]
    assert inputs.fits(batch)
    for _ in range(3):  # what was filled before is not seen
        inputs.fill(batch)
        with torch.inference_mode():
            given = compute_filled(session._forward, draw_sorted, inputs, session._tokens)
        np.testing.assert_allclose(given[: len(counts)], expected, atol=1e-4)
        assert session._tokens.cells[: len(counts)].tolist() == tokens.tolist()
        inputs.fill(make_batch([Part(token_ids=IDS, blocks=range(50, 54), wanted=[3])]))
    for (keys, _), clean in zip(session._pool.layers, known, strict=True):
        torch.testing.assert_close(keys[: LIMITS.blocks], clean, rtol=0, atol=1e-4)


def test_steps_of_few_tokens_are_recorded() -> None:
    """There are recordings for steps with prompts as far as launching them takes longer than computing them."""
    assert choose_tokens(2048) == [64, 128, 256, 512]
    assert choose_tokens(100) == [64]
    assert choose_tokens(8) == []


def test_only_what_changed_of_block_tables_crosses(session: TorchSession) -> None:
    """The tables on the device are those of the batch, though all of them cross only where much has changed."""
    inputs = DecodeInputs(rows=8, width=16, pool=session._pool, tokens=session._tokens)

    def settle(counts: dict[int, int], **more: int) -> int:
        batch = single_rows(counts, **more)
        inputs.fill(batch)
        inputs.settle()
        tables = inputs.plan(8).rows.tables[: len(counts)]
        known = batch.block_tables
        assert (tables[:, : known.shape[1]].numpy() == known)[known >= 0].all()
        return inputs.whole

    assert settle({0: 9, 8: 17, 16: 3}) == 0
    assert settle({0: 9, 8: 17, 16: 3}) == 0
    assert settle({16: 3, 8: 17}) == 0  # a row goes, and another takes its place
    assert settle(dict.fromkeys(range(0, 56, 7), 20), blocks=CHANGES + 1) == 1
    assert settle({0: 9}) == 1
    inputs.doubt()
    assert settle({0: 9, 8: 17}) == 1
    assert settle({20: 60}) == 1


def test_recorded_steps_and_others_have_indices_of_one_type(session: TorchSession) -> None:
    """A kernel is compiled for tables and lengths of one type, however a step came to be."""
    inputs = DecodeInputs(rows=1, width=16, pool=session._pool, tokens=session._tokens)
    some = make_plan(make_batch([Part(token_ids=[5], blocks=range(1))]), LIMITS, CPU, by_tables=True)
    for plan in (inputs.plan(1), some):
        assert plan.rows is not None
        assert plan.rows.tables.dtype == plan.rows.lengths.dtype == torch.int32
        assert plan.slots.dtype == plan.positions.dtype == torch.int64


@pytest.mark.parametrize(("most", "rows"), [(1, [1]), (2, [1, 2]), (64, [1, 2, 4, 8, 16, 32, 64]), (6, [1, 2, 4, 6])])
def test_recordings_hold_every_number_of_rows(most: int, rows: list[int]) -> None:
    """There are recordings for powers of two and for the most rows."""
    assert choose_rows(most) == rows


def test_pairs_outside_the_pool_change_nothing(session: TorchSession) -> None:
    """Copying to a block that is not there is a ValueError, and no pair has been copied."""
    before = session.step(one_sequence()).logits
    with pytest.raises(ValueError, match="block 64; it must be from 0 to 63"):
        session.copy_blocks([(9, 0), (0, 64)])
    last = make_batch([Part(token_ids=IDS[-1:], begin=len(IDS) - 1, blocks=range(4))])
    np.testing.assert_allclose(session.step(last).logits, before, atol=1e-4)
