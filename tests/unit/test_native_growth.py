"""What weights of a file take in memory, beside what they take in the file; and that they stay the same weights."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from native_models import find_missing
from stored_models import HEAD_WIDTH, VOCABULARY, Sizes, write_stored

from inferd.plugin import LoadRequest, TokenSession
from inferd.plugin.backend import read_settings
from inferd.testing.batches import Part, compute
from inferd.testing.growth import measure_growth
from inferd_cpu.backend import CpuBackend
from inferd_cpu.plugin import SPEC

pytestmark = pytest.mark.skipif(bool(find_missing("auto")), reason="the native library is not built: make native")
LINE = 1.15
DENSE, EXPERTS = Sizes(), Sizes(experts=8)
WIDE = Sizes(width=1024, experts=8)
FEW = Sizes(width=256, heads=4, feed=256)
FEW_EXPERTS = Sizes(width=256, heads=4, feed=256, experts=4)
CASES = {
    **{form: (form, DENSE) for form in ("Q8_0", "Q4_0", "Q4_1", "Q4_K", "IQ4_NL", "IQ4_XS")},
    **{f"experts of {form}": (form, EXPERTS) for form in ("MXFP4", "NVFP4", "Q4_0", "Q8_0")},
}
"""Files of 8 and 4 bits, without experts and with."""
NOISE_BYTES = 6 << 20  # of a process
IDS = np.random.default_rng(6).integers(0, VOCABULARY, 60).tolist()


def request(path: Path, **settings: str) -> LoadRequest:
    """A load with room for little beside the weights."""
    sizes = {"kv_tokens": "128", "context_tokens": "128", "max_step_tokens": "64", "max_sequences": "2", "threads": "2"}
    given = read_settings(SPEC, {**sizes, **settings})
    return LoadRequest(path=path, device="cpu:0", settings=given, capacity_bytes=4 << 30)


@pytest.fixture
def sessions() -> Iterator[list[TokenSession]]:
    opened: list[TokenSession] = []
    yield opened
    for session in opened:
        session.close()


@pytest.mark.parametrize("case", CASES)
def test_weights_take_what_their_file_has(tmp_path: Path, case: str) -> None:
    """What is told beforehand of weights of 4 and 8 bits is the file's size and 15 % at most."""
    form, sizes = CASES[case]
    path = write_stored(tmp_path / "m.gguf", form, sizes)
    need = CpuBackend().measure(request(path))
    assert 0.9 < need.weights_bytes / path.stat().st_size < LINE


@pytest.mark.parametrize(("form", "sizes"), [("IQ4_NL", Sizes(layers=4, width=1024, feed=3072)), ("MXFP4", WIDE)])
def test_a_process_takes_what_the_file_has(tmp_path: Path, form: str, sizes: Sizes) -> None:
    """A fresh process that has loaded it is larger by the file and 15 % at most, beside pool and workspace."""
    path = write_stored(tmp_path / "m.gguf", form, sizes)
    growth = measure_growth(CpuBackend(), request(path))
    size = path.stat().st_size
    assert size > 4 * NOISE_BYTES  # one twice as large would be found out
    beside = growth.need.kv_bytes + growth.need.workspace_bytes
    assert growth.grown_bytes < LINE * size + beside + NOISE_BYTES


@pytest.mark.parametrize(
    ("form", "sizes"),
    [("IQ4_XS", FEW), ("IQ3_XXS", FEW), ("Q3_K", FEW), ("IQ2_S", FEW), ("MXFP4", FEW_EXPERTS), ("NVFP4", FEW_EXPERTS)],
)
def test_codes_compute_what_their_numbers_do(
    isa: str, tmp_path: Path, sessions: list[TokenSession], form: str, sizes: Sizes
) -> None:
    """Logits are those of the unpacked numbers in fp32, within what activations of 8 bits round, as 8-bit weights."""
    path = write_stored(tmp_path / "m.gguf", form, sizes)
    errors, found = {}, {}
    for name, settings in {
        "exact": {"compute": "exact"},
        "8bit": {"isa": isa, "kv_format": "f32", "quantization": "8bit"},
        "codes": {"isa": isa, "kv_format": "f32"},
    }.items():
        session = CpuBackend().load(request(path, **settings), lambda _: None).session
        sessions.append(session)
        (found[name],) = compute(session, Part(token_ids=IDS, blocks=range(8)))
        errors[name] = float(np.sqrt(np.mean((found[name] - found["exact"]) ** 2) / np.mean(found["exact"] ** 2)))
    assert errors["codes"] < 1.2 * errors["8bit"]
    assert errors["codes"] < 0.1  # where experts are chosen by scores that are near each other


def test_values_of_more_bits_leave_queries_and_keys_theirs(
    isa: str, tmp_path: Path, sessions: list[TokenSession]
) -> None:
    """Values in 6 bits, as published files have them, take 8 in memory, queries and keys 4; all else is as above."""
    path = write_stored(tmp_path / "m.gguf", "IQ4_XS", FEW, values="Q6_K")
    same = write_stored(tmp_path / "same.gguf", "IQ4_XS", FEW)
    needs = [CpuBackend().measure(request(each, isa=isa)).weights_bytes for each in (path, same)]
    assert needs[0] - needs[1] == FEW.layers * FEW.width * FEW.kv_heads * HEAD_WIDTH // 2
    exact = CpuBackend().load(request(path, compute="exact"), lambda _: None).session
    session = CpuBackend().load(request(path, isa=isa, kv_format="f32"), lambda _: None).session
    sessions += [exact, session]
    (expected,) = compute(exact, Part(token_ids=IDS, blocks=range(4)))
    (whole,) = compute(session, Part(token_ids=IDS, blocks=range(4)))
    assert float(np.sqrt(np.mean((whole - expected) ** 2) / np.mean(expected**2))) < 0.03
    (first,) = compute(session, Part(token_ids=IDS[:17], blocks=range(4)))
    assert first.tobytes() == whole[:17].tobytes()
    (last,) = compute(session, Part(token_ids=IDS[17:18], begin=17, blocks=range(4)))
    assert last.tobytes() == whole[17:18].tobytes()


@pytest.mark.parametrize(("form", "sizes"), [("IQ4_NL", FEW), ("NVFP4", FEW), ("MXFP4", FEW_EXPERTS)])
def test_codes_give_the_same_bits_in_any_step(
    isa: str, tmp_path: Path, sessions: list[TokenSession], form: str, sizes: Sizes
) -> None:
    """A prompt in one step gives the bits that it gives in several, also beside another sequence."""
    session = (
        CpuBackend().load(request(write_stored(tmp_path / "m.gguf", form, sizes), isa=isa), lambda _: None).session
    )
    sessions.append(session)
    (whole,) = compute(session, Part(token_ids=IDS[:40], blocks=range(3)))
    at = 0
    for count in (1, 2, 17, 20):
        part = Part(token_ids=IDS[at : at + count], begin=at, blocks=range(3))
        found, _ = compute(session, part, Part(token_ids=IDS[40 : 40 + count], blocks=range(3, 6)))
        assert found.tobytes() == whole[at : at + count].tobytes()
        at += count
