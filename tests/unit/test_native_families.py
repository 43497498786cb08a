"""Each architecture in the native session against the fp32 session, on every instruction set of this processor."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from inferd.engine.token.sampler import Sampler
from inferd.plugin import LoadError, LoadRequest, TokenSession
from inferd.plugin.backend import read_settings
from inferd.sampling import Sampling
from inferd.testing.batches import Part, compute, make_batch
from inferd_cpu.backend import CpuBackend
from inferd_cpu.families import FAMILIES
from inferd_cpu.native import Native, NativeMissing
from inferd_cpu.plugin import SPEC
from inferd_cpu.supported import is_compiled

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")
import tiny_families  # noqa: E402 - what is imported below needs both
import tiny_family  # noqa: E402
import tiny_gemma  # noqa: E402
import tiny_recurrent  # noqa: E402
import tiny_slopes  # noqa: E402
from network_to_gguf import write_network  # noqa: E402

torch.set_num_threads(1)  # of small products, more only wait for each other
ISAS = ("plain", "avx2", "avx512", "amx", "neon")
EXACT_ONLY = {
    "lfm2",
    "lfm2_moe",
    "deepseek_v2",
    "deepseek_v3",
    *tiny_recurrent.FAMILIES,
    *tiny_gemma.FAMILIES,
    *tiny_slopes.FAMILIES,
}
NATIVE = [name for name in tiny_families.FAMILIES if name not in EXACT_ONLY]
SPREAD = 0.1  # of weights: with wider ones small errors choose other keys
QUANTISATION = 0.06  # of the spread of logits: what 8-bit weights and activations of tiny models may change
IDS = np.random.default_rng(4).integers(3, tiny_family.VOCABULARY, size=250).tolist()
Floats = np.ndarray[Any, Any]


def is_usable(isa: str) -> bool:
    try:
        Native(isa)
    except NativeMissing:
        return False
    return True


pytestmark = pytest.mark.skipif(not is_usable("auto"), reason="the native library is not built")
USABLE = [isa for isa in ISAS if is_usable(isa)]


def load(path: Path, **settings: str) -> TokenSession:
    given = {"kv_tokens": "2048", "quantization": "8bit", "threads": "2", **settings}
    request = LoadRequest(path=path, device="cpu:0", settings=read_settings(SPEC, given), capacity_bytes=1 << 30)
    return CpuBackend().load(request, lambda _: None).session


def run(session: TokenSession, ids: Sequence[int], blocks: range, *, chunks: Sequence[int] = ()) -> Floats:
    """Logits of every token, computed at once or in chunks."""
    rows, past = [], 0
    for count in chunks or [len(ids)]:
        (logits,) = compute(session, Part(token_ids=ids[past : past + count], blocks=blocks, begin=past))
        rows.append(np.array(logits))
        past += count
    return np.concatenate(rows)


def off(logits: Floats, expected: Floats) -> float:
    """The error of a typical row: of two experts that are nearly as good, quantisation may choose the other."""
    return float(np.median(np.sqrt(np.mean((logits - expected) ** 2, axis=1))) / expected.std())


@pytest.fixture
def sessions() -> Iterator[list[TokenSession]]:
    opened: list[TokenSession] = []
    yield opened
    for session in opened:
        session.close()


def test_compiled_architectures_are_those_that_are_compared() -> None:
    """What is said to be compiled is compared here."""
    compared = {tiny_families.FAMILIES[name].architecture for name in NATIVE}
    compiled = {name for name, family in FAMILIES.items() if is_compiled(family)}
    assert compiled - compared == {"minicpm"}  # of the parts of granite
    assert compared <= compiled


@pytest.mark.parametrize("name", NATIVE)
def test_logits_are_those_of_fp32_but_for_quantisation(tmp_path: Path, sessions: list[TokenSession], name: str) -> None:
    """On every instruction set; in pieces of any size, in small steps and in larger ones, with the same bits."""
    path = tmp_path / "tiny.gguf"
    write_network(name, path, spread=SPREAD)
    sessions.append(load(path, compute="exact"))
    ids = IDS[:60]
    expected = run(sessions[0], ids, range(4))
    for isa in USABLE:
        session = load(path, compute="native", isa=isa)
        sessions.append(session)
        logits = run(session, ids, range(4))
        assert off(logits, expected) < QUANTISATION, isa
        far = np.sqrt(np.mean((logits - expected) ** 2, axis=1)) / expected.std() > 2 * QUANTISATION
        assert far.mean() <= 0.2, isa  # rows in which a near tie of a router chose another expert
        assert run(session, ids, range(8, 12), chunks=(1, 17, 2, 40)).tobytes() == logits.tobytes(), isa


@pytest.mark.parametrize("name", ["gemma2", "cohere2"])
@pytest.mark.parametrize("pool", [("i8", "16"), ("i8", "20"), ("bf16", "20"), ("f32", "48")], ids="-".join)
@pytest.mark.parametrize("window", [5, 130])
def test_windows_over_several_segments(
    tmp_path: Path, sessions: list[TokenSession], *, name: str, pool: tuple[str, str], window: int
) -> None:
    """Windows that begin within a segment of keys, in the one before or farther back, with soft caps or without."""
    kv_format, block_tokens = pool
    path = tmp_path / "tiny.gguf"
    write_network(name, path, spread=SPREAD, window=window)
    sessions.append(load(path, compute="exact", block_tokens=block_tokens))
    blocks = range(-(-len(IDS) // int(block_tokens)))
    expected = run(sessions[0], IDS, blocks)
    for isa in USABLE:
        session = load(path, compute="native", isa=isa, kv_format=kv_format, block_tokens=block_tokens)
        sessions.append(session)
        logits = run(session, IDS, blocks)
        assert off(logits, expected) < QUANTISATION, isa
        assert off(logits[200:], expected[200:]) < QUANTISATION, isa
        assert run(session, IDS, blocks, chunks=(1, 2, 130, 37, 1, 79)).tobytes() == logits.tobytes(), isa


@pytest.mark.parametrize("name", ["gemma2", "stablelm2", "starcoder2", "qwen2_moe", "glm4_moe", "gpt_oss"])
def test_rows_have_the_bits_of_each_alone(tmp_path: Path, sessions: list[TokenSession], name: str) -> None:
    """Sequences of several lengths in one step, single rows of some and pieces of others, and any number of threads."""
    path = tmp_path / "tiny.gguf"
    write_network(name, path, spread=SPREAD)
    for isa in USABLE:
        session, threads = (load(path, compute="native", isa=isa, threads=count) for count in ("2", "3"))
        sessions += [session, threads]
        alone = run(session, IDS[:60], range(4))
        other = run(session, IDS[100:190], range(4, 10))
        run(session, IDS[:50], range(10, 14))
        run(session, IDS[100:189], range(14, 20))
        parts = [
            Part(token_ids=IDS[50:60], blocks=range(10, 14), begin=50),
            Part(token_ids=IDS[189:190], blocks=range(14, 20), begin=89),
            Part(token_ids=IDS[:60], blocks=range(20, 24)),
        ]
        logits = compute(session, *parts)
        assert logits[0].tobytes() == alone[50:].tobytes(), isa
        assert logits[1].tobytes() == other[89:].tobytes(), isa
        assert logits[2].tobytes() == alone.tobytes(), isa
        assert run(threads, IDS[:60], range(4)).tobytes() == alone.tobytes(), isa


@pytest.mark.parametrize("name", ["command_r", "phi2", "gemma2"])
def test_the_best_token_is_that_of_the_logits(tmp_path: Path, sessions: list[TokenSession], name: str) -> None:
    """Greedy choices take biases of the head into account; scales and caps do not change them."""
    path = tmp_path / "tiny.gguf"
    write_network(name, path, spread=SPREAD)
    session = load(path, compute="native")
    sessions.append(session)
    batch = make_batch([Part(token_ids=IDS[:40], blocks=range(4))])
    logits = np.array(session.step(batch).logits)
    sampler = Sampler(rows=64, vocabulary_size=tiny_family.VOCABULARY)
    for row in range(40):
        sampler.assign(row, Sampling(temperature=0.0, seed=row))
    chosen = session.step(replace(batch, sampling=sampler.for_device(batch.positions))).token_ids
    assert chosen is not None
    assert chosen.tolist() == logits.argmax(axis=1).tolist()


@pytest.mark.parametrize(
    ("name", "why"), [("deepseek_v3", "the library has no query down"), ("lfm2", "the library has no convolution in")]
)
def test_what_the_library_lacks_is_said(tmp_path: Path, name: str, why: str) -> None:
    """What only the fp32 session computes is refused when the library is demanded, with what that lacks."""
    path = tmp_path / "tiny.gguf"
    write_network(name, path)
    with pytest.raises(LoadError, match=why):
        load(path, compute="native")
    load(path).close()
