"""A pool of their own for layers with a window: smaller, and with it the same results."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from inferd.engine.token.limits import Bounds, EngineLimits
from inferd.plugin import LoadRequest, MemoryNeed, TokenLimits, TokenSession, least_window_blocks
from inferd.plugin.backend import read_settings
from inferd.testing.batches import Part, compute, make_batch
from inferd_cpu.backend import CpuBackend
from inferd_cpu.capacity import KvBytes, derive_limits
from inferd_cpu.families import FAMILIES
from inferd_cpu.native import LIBRARY
from inferd_cpu.plugin import SPEC
from inferd_cpu.rope import Rope
from inferd_cpu.shapes import Architecture, LayerShape

pytest.importorskip("torch")
pytest.importorskip("transformers")
import tiny_family
from network_to_gguf import write_network

COMPUTES = ["exact", *(["native"] if LIBRARY.exists() else [])]
IDS = np.random.default_rng(5).integers(3, tiny_family.VOCABULARY, size=240).tolist()
SMALL = {"max_sequences": "2", "max_step_tokens": "48"}
BLOCK = 16
Floats = np.ndarray[Any, Any]


@pytest.fixture
def sessions() -> Iterator[list[TokenSession]]:
    opened: list[TokenSession] = []
    yield opened
    for session in opened:
        session.close()


def load(path: Path, **settings: str) -> TokenSession:
    given = read_settings(SPEC, {"kv_tokens": "1024", "quantization": "8bit", "threads": "2", **settings})
    request = LoadRequest(path=path, device="cpu:0", settings=given, capacity_bytes=1 << 30)
    return CpuBackend().load(request, lambda _: None).session


def seen_blocks(limits: TokenLimits, begin: int, end: int, free: Sequence[int]) -> list[int]:
    """A table in which only the blocks that tokens from `begin` to `end` see are there, taking turns in `free`."""
    first = max(0, begin + 1 - limits.window_tokens) // BLOCK
    return [free[place % len(free)] if place >= first else -1 for place in range(-(-end // BLOCK))]


def read_on(session: TokenSession, chunks: Sequence[int], *, blocks: range, free: Sequence[int] | None) -> Floats:
    """Logits of all tokens, read in chunks; with `free` the blocks of windows take turns in those."""
    rows, past = [], 0
    for count in chunks:
        window = None if free is None else seen_blocks(session.limits, past, past + count, free)
        part = Part(token_ids=IDS[past : past + count], begin=past, blocks=blocks, window=window)
        rows += compute(session, part)
        past += count
    return np.concatenate(rows)


@pytest.mark.parametrize("compute_by", COMPUTES)
@pytest.mark.parametrize(("name", "window"), [("gemma2", 20), ("gpt_oss", 33), ("mistral", 5)])
def test_what_is_out_of_the_window_is_not_needed(
    tmp_path: Path, sessions: list[TokenSession], *, name: str, window: int, compute_by: str
) -> None:
    """Blocks that nothing sees are given to tokens that come later, and every logit is the same to the bit."""
    path = tmp_path / "tiny.gguf"
    write_network(name, path, spread=0.1, window=window)
    whole, small = load(path, compute=compute_by), load(path, compute=compute_by, **SMALL)
    sessions += [whole, small]
    limits = small.limits
    assert whole.limits.window_blocks == 0
    assert (limits.window_tokens, limits.blocks) == (window, 64)
    assert 0 < limits.window_blocks < 16
    chunks = (48, 1, 1, 30, 48, 1, 47, 16, 48)
    expected = read_on(whole, chunks, blocks=range(64), free=None)
    turns = range(limits.window_blocks // 2, limits.window_blocks)  # of one sequence
    assert read_on(small, chunks, blocks=range(64), free=turns).tobytes() == expected.tobytes()
    other = range(limits.window_blocks // 2)
    assert read_on(small, chunks, blocks=range(20, 40), free=other).tobytes() == expected.tobytes()


@pytest.mark.parametrize("compute_by", COMPUTES)
def test_a_need_tells_what_windows_save(tmp_path: Path, compute_by: str) -> None:
    """The pool of a small gemma3 and what it saves are the pool that keeps every token; that one saves nothing."""
    path = tmp_path / "tiny.gguf"
    write_network("gemma3", path, spread=0.1, window=20)

    def measure(**settings: str) -> MemoryNeed:
        given = read_settings(SPEC, {"kv_tokens": "1024", "compute": compute_by, **settings})
        return CpuBackend().measure(LoadRequest(path=path, device="cpu:0", settings=given, capacity_bytes=1 << 30))

    whole, small = measure(), measure(**SMALL)
    assert whole.kv_saved_bytes == 0
    assert 0.4 * whole.kv_bytes < small.kv_saved_bytes == whole.kv_bytes - small.kv_bytes
    assert small.total_bytes == small.weights_bytes + small.kv_bytes + small.workspace_bytes


@pytest.mark.parametrize("compute_by", COMPUTES)
def test_a_table_without_what_is_seen_is_refused(tmp_path: Path, sessions: list[TokenSession], compute_by: str) -> None:
    """A block that the window needs and that is not there, or no table at all, is an error that names it."""
    path = tmp_path / "tiny.gguf"
    write_network("gemma2", path, spread=0.1, window=20)
    session = load(path, compute=compute_by, **SMALL)
    sessions.append(session)
    part = Part(token_ids=IDS[:20], begin=20, blocks=range(3), window=[-1, 0, 1])
    with pytest.raises(ValueError, match="bad batch: window block -1; it must be from 0 to"):
        session.step(make_batch([part], windows=True))
    with pytest.raises(ValueError, match="bad batch: window tables of shape None"):
        session.step(make_batch([part]))
    most = session.limits.window_blocks
    outside = replace(part, window=[0, 1, most])
    with pytest.raises(ValueError, match=f"bad batch: window block {most}; it must be from 0 to {most - 1}"):
        session.step(make_batch([outside], windows=True))


@pytest.mark.parametrize("compute_by", COMPUTES)
def test_copies_stay_in_their_pool(tmp_path: Path, sessions: list[TokenSession], compute_by: str) -> None:
    """Numbers from that of all blocks on are those of windows; a pair of both pools is refused."""
    path = tmp_path / "tiny.gguf"
    write_network("gemma2", path, spread=0.1, window=20)
    session = load(path, compute=compute_by, **SMALL)
    sessions.append(session)
    blocks, windows = session.limits.blocks, session.limits.window_blocks
    (expected,) = compute(session, Part(token_ids=IDS[:20], blocks=[0, 1], window=[0, 1]))
    session.copy_blocks([(0, 8), (blocks, blocks + 3)])
    again = Part(token_ids=IDS[16:20], begin=16, blocks=[8, 9], window=[3, 4])
    np.testing.assert_allclose(compute(session, again)[0], expected[16:], atol=1e-4 if compute_by == "exact" else 0)
    with pytest.raises(ValueError, match="one block is of the pool of windows, whose first is 64"):
        session.copy_blocks([(0, blocks)])
    with pytest.raises(ValueError, match=f"block {blocks + windows}; it must be from 0 to {blocks + windows - 1}"):
        session.copy_blocks([(blocks, blocks + windows)])


def make_architecture(name: str, *, windows: Sequence[int], kv_heads: int, width: int, context: int) -> Architecture:
    """The sizes that count for a pool."""
    shape = LayerShape(heads=kv_heads, kv_heads=kv_heads, key_width=width, value_width=width, feed_width=32)
    return Architecture(
        name=name,
        family=FAMILIES[name],
        layers=tuple(replace(shape, window=window) for window in windows),
        width=640,
        context_tokens=context,
        epsilon=1e-6,
        ropes=(Rope(width=width, base=10000.0),),
        attention_scale=1.0,
    )


GEMMA3_270M = make_architecture(
    "gemma3", windows=[512 * (i % 6 < 5) for i in range(18)], kv_heads=1, width=256, context=32768
)
GEMMA3_4B = make_architecture(
    "gemma3", windows=[1024 * (i % 6 < 5) for i in range(34)], kv_heads=4, width=256, context=131072
)
GPT_OSS_20B = make_architecture("gpt-oss", windows=[128, 0] * 12, kv_heads=8, width=64, context=131072)


@pytest.mark.parametrize(
    ("architecture", "settings", "share"),
    [
        (GEMMA3_270M, {"kv_tokens": "131072"}, 0.395),
        (GEMMA3_270M, {"kv_tokens": "65536", "max_sequences": "16"}, 0.284),
        (GEMMA3_4B, {"kv_tokens": "131072", "context_tokens": "131072", "max_sequences": "8"}, 0.205),
        (GPT_OSS_20B, {"kv_tokens": "32768"}, 0.664),
        (GPT_OSS_20B, {"kv_tokens": "131072", "context_tokens": "131072"}, 0.541),
    ],
)
def test_a_pool_is_smaller_by_what_windows_save(
    architecture: Architecture, settings: dict[str, str], share: float
) -> None:
    """With so many tokens, layers with a window keep those of their windows; the whole takes about this share."""
    given = read_settings(SPEC, settings)
    kv = KvBytes.of(architecture)
    limits = derive_limits(
        Path("m.gguf"), architecture, given, vocabulary_size=9, weights_bytes=0, capacity_bytes=1 << 40, kv=kv
    )
    assert limits.blocks * limits.block_tokens == int(settings["kv_tokens"])
    assert kv.pool(limits) == pytest.approx(share * limits.blocks * BLOCK * architecture.kv_token_bytes, rel=0.01)


def test_a_budget_holds_more_tokens_where_windows_save() -> None:
    """Of the same gigabyte a long context gets more of its tokens; without windows it is as before."""
    given = read_settings(SPEC, {"max_sequences": "4", "context_tokens": "32768"})
    sizes = {"vocabulary_size": 9, "weights_bytes": 0, "capacity_bytes": 8 << 30}
    kept = []
    for each in (GPT_OSS_20B, replace(GPT_OSS_20B, layers=(GPT_OSS_20B.layers[1],) * 24)):
        kv = KvBytes.of(each)
        assert kv.pool(derive_limits(Path("m.gguf"), each, given, kv=kv, **sizes)) <= 6 << 30
        kept.append(kv.afford(1 << 30, 4 * 10 * 16 + 512 if kv.windows else 0))
    assert kept[0] > 1.85 * kept[1]


def test_a_session_must_have_room_for_all_windows() -> None:
    """Too small a pool of windows is refused when the session is taken up, with both numbers."""
    least = least_window_blocks(window_tokens=33, block_tokens=16, sequences=4, step_tokens=64)
    assert least == 4 * 4 + 4
    limits = TokenLimits(
        vocabulary_size=9,
        context_tokens=512,
        block_tokens=16,
        blocks=128,
        max_sequences=4,
        max_step_tokens=64,
        window_tokens=33,
        window_blocks=least,
    )
    assert Bounds.of(limits, EngineLimits()).window_blocks == least
    with pytest.raises(ValueError, match=r"window_blocks is 19; for 4 sequences with windows of 33 tokens .* least 20"):
        Bounds.of(replace(limits, window_blocks=least - 1), EngineLimits())
