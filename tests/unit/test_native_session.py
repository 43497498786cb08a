"""What the native session computes, on every instruction set that runs here: near to fp32, and the same bits always."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_models as tiny
from native_models import BLOCKS, find_missing, load, part, run_alone, set_widths, write
from rounded_network import RoundedNetwork, Rounding

from inferd.engine.token.sampler import Sampler
from inferd.plugin import TokenSession
from inferd.sampling import Sampling
from inferd.testing.batches import compute, make_batch

SPREAD = (
    1.25  # of the size of an error: that of some thousand numbers whose roundings are drawn anew, with those behind
)

pytestmark = pytest.mark.skipif(bool(find_missing("auto")), reason="the native library is not built: make native")


@pytest.fixture(scope="module")
def qwen(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write("qwen3", tmp_path_factory.mktemp("tiny") / "qwen3.gguf")


@pytest.fixture
def session(qwen: Path, isa: str) -> Iterator[TokenSession]:
    session = load(qwen, isa=isa).session
    yield session
    session.close()


@pytest.mark.parametrize("kv_format", ["i8", "bf16", "f32"])
@pytest.mark.parametrize("name", tiny.MODELS)
def test_logits_are_as_near_to_fp32_as_their_formats_permit(
    tmp_path: Path, isa: str, name: str, kv_format: Any
) -> None:
    """Each architecture, rotary scaling and KV format is off by what rounding at the same places in fp64 costs."""
    path = write(name, tmp_path / "tiny.gguf")
    exact, native = load(path, compute="exact").session, load(path, isa=isa, kv_format=kv_format)
    assert native.description.compute_format.endswith(f", KV {kv_format}")
    expected = run_alone(exact, tiny.PROMPT)
    off = run_alone(native.session, tiny.PROMPT) - expected
    native.session.close()
    with pytest.MonkeyPatch.context() as patch:
        set_widths(patch)
        assert measure(RoundedNetwork(tiny.MODELS[name], Rounding()).compute(tiny.PROMPT) - expected) < 1e-5
        rounding = Rounding(products="bf16" if isa == "amx" else "int8", kv=kv_format)
        rounded = RoundedNetwork(tiny.MODELS[name], rounding).compute(tiny.PROMPT) - expected
    assert 1 / SPREAD < measure(off) / measure(rounded) < SPREAD


def measure(off: np.ndarray[Any, Any]) -> float:
    """The size of errors."""
    return float(np.sqrt(np.mean(off.astype(np.float64) ** 2)))


def test_keys_and_values_have_eight_bits_where_sets_multiply_bytes(qwen: Path, isa: str) -> None:
    """With AVX2, AVX-512 and AMX, unless another format is asked for; with the others bf16."""
    loaded = load(qwen, isa=isa)
    loaded.session.close()
    assert loaded.description.compute_format.endswith(", KV i8" if isa in {"avx2", "avx512", "amx"} else ", KV bf16")


@pytest.mark.parametrize("name", tiny.MODELS)
def test_four_bits_are_near_eight(tmp_path: Path, isa: str, name: str) -> None:
    """Logits with 4 bits, 17 times as coarse, are near those with 8, and the same with any number of threads."""
    path = write(name, tmp_path / "tiny.gguf")
    found = []
    for quantization, threads in (("8bit", "1"), ("4bit", "1"), ("4bit", "3")):
        loaded = load(path, isa=isa, quantization=quantization, threads=threads)
        found.append(run_alone(loaded.session, tiny.PROMPT))
        loaded.session.close()
    assert ", 4-bit and 8-bit weights, KV " in loaded.description.compute_format
    assert 0 < np.sqrt(np.mean((found[1] - found[0]) ** 2)) < 0.5 * found[0].std()
    assert found[1].tobytes() == found[2].tobytes()


@pytest.mark.parametrize("threads", ["1", "5"])
def test_bits_do_not_depend_on_threads(qwen: Path, isa: str, session: TokenSession, threads: str) -> None:
    """Any number of threads gives the same bits."""
    changed = load(qwen, isa=isa, threads=threads).session
    assert run_alone(changed, tiny.PROMPT).tobytes() == run_alone(session, tiny.PROMPT).tobytes()
    changed.close()


@pytest.mark.parametrize("kv_format", ["i8", "bf16", "f32"])
@pytest.mark.skipif(bool(find_missing("avx512")), reason="the processor has no AVX-512")
def test_instruction_sets_with_the_same_arithmetic_give_the_same_bits(qwen: Path, kv_format: str) -> None:
    """AVX2 and AVX-512, both int8 with fused multiplication, give the same bits."""
    wide, narrow = (load(qwen, isa=isa, kv_format=kv_format).session for isa in ("avx512", "avx2"))
    assert run_alone(wide, tiny.PROMPT).tobytes() == run_alone(narrow, tiny.PROMPT).tobytes()
    wide.close()
    narrow.close()


@pytest.mark.parametrize("chunks", [[1] * 40, [16, 24], [17, 1, 22], [2, 37, 1]], ids=str)
def test_chunks_give_the_bits_of_one_step(session: TokenSession, chunks: list[int]) -> None:
    """A prompt computed in pieces, of any size, gives the bits of one step."""
    expected = run_alone(session, tiny.PROMPT)
    past = 0
    for count in chunks:
        (logits,) = compute(session, part(tiny.PROMPT[past : past + count], BLOCKS, past))
        assert logits.tobytes() == expected[past : past + count].tobytes()
        past += count


@pytest.mark.parametrize("head_width", [16, 32, 48, 96, 128])
@pytest.mark.parametrize(("kv_format", "block_tokens"), [("i8", "16"), ("i8", "20"), ("i8", "48"), ("bf16", "20")])
def test_a_long_sequence_beside_others_has_the_bits_of_one_alone(
    tmp_path: Path, isa: str, head_width: int, kv_format: str, block_tokens: str
) -> None:
    """Over several segments of keys: alone, in pieces, in a small step and in a large one, tokens get the same bits.

    In the first step each of two threads has so many rows that it keeps them for itself, with AMX.
    """
    path = write("qwen3", tmp_path / "wide.gguf", head_width=head_width)
    given = {"kv_format": kv_format, "block_tokens": block_tokens, "threads": "2", "isa": isa}
    session = load(path, kv_tokens="16384", max_step_tokens="640", **given).session
    ids = np.random.default_rng(5).integers(tiny.VOCABULARY_SIZE, size=250).tolist()
    own, spare = list(range(100, 116)), list(range(200, 256))
    whole = compute(session, part(ids[:37], spare), part(ids, own), part(ids[::-1], list(range(50, 66))))[1]
    past = 0
    for count in (1, 2, 3, 37, 128, 79):
        (pieces,) = compute(session, part(ids[past : past + count], own, past))
        assert pieces.tobytes() == whole[past : past + count].tobytes()
        past += count
    expected = compute(session, part(ids, own))[0][-1]
    for others in (0, 2, 30):
        beside = [part([n % tiny.VOCABULARY_SIZE], [spare[n]]) for n in range(others)]
        logits = compute(session, *beside, part(ids[-1:], own, len(ids) - 1))[-1]
        assert logits[0].tobytes() == expected.tobytes()
    session.close()


def test_hundreds_of_sequences_have_the_bits_of_each_alone(qwen: Path, isa: str) -> None:
    """So many that each of two threads keeps its own rows, with AMX."""
    given = {"kv_tokens": "4800", "max_step_tokens": "300", "max_sequences": "300", "threads": "2", "isa": isa}
    session = load(qwen, **given).session
    ids = np.random.default_rng(6).integers(tiny.VOCABULARY_SIZE, size=(299, 2)).tolist()
    for begin in range(2):
        logits = compute(session, *(part([pair[begin]], [block], begin) for block, pair in enumerate(ids)))
    for block, pair in enumerate(ids):
        (alone,) = compute(session, part(pair, [block]))
        assert alone[1].tobytes() == logits[block][0].tobytes()
    session.close()


def test_hidden_states_are_as_near_to_fp32_as_their_formats_permit(qwen: Path, isa: str, session: TokenSession) -> None:
    """Hidden states of any rows, in small steps and large ones."""
    exact = load(qwen, compute="exact").session
    off, rounded = [], []
    with pytest.MonkeyPatch.context() as patch:
        set_widths(patch)
        formats = Rounding(products="bf16" if isa == "amx" else "int8", kv="i8" if isa in ("avx512", "amx") else "bf16")
        reference = RoundedNetwork(tiny.MODELS["qwen3"], formats)
        for count in (1, 2, 3, 7, 30):
            rows = np.array([0, count - 1], np.int32)
            batch = replace(make_batch([part(tiny.PROMPT[:count], BLOCKS)]), hidden_rows=rows)
            expected, hidden = exact.step(batch).hidden, session.step(batch).hidden
            assert expected is not None
            assert hidden is not None
            off.append(hidden - expected)
            rounded.append(reference.compute_hidden(tiny.PROMPT[:count])[rows] - expected)
    assert 1 / SPREAD < measure(np.array(off)) / measure(np.array(rounded)) < SPREAD


@pytest.mark.parametrize("count", [1, 4, 40])
def test_the_best_token_is_found_without_logits(session: TokenSession, count: int) -> None:
    """Greedy rows get the token of their largest logit; rows that are drawn beside them change nothing in it."""
    batch = make_batch([part(tiny.PROMPT[:count], BLOCKS)])
    logits = np.array(session.step(batch).logits)
    sampler = Sampler(rows=64, vocabulary_size=tiny.VOCABULARY_SIZE)
    for drawn in (False, True):
        for row in range(count):
            sampler.assign(row, Sampling(temperature=0.8 if drawn and row % 2 else 0.0, seed=row))
        sampling = sampler.for_device(batch.positions)
        ids = session.step(replace(batch, sampling=sampling)).token_ids
        assert ids is not None
        assert ids.tolist() == sampler.choose(logits, batch.positions).tolist()
