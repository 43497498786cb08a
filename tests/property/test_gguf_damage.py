"""Damaged GGUF files."""

import struct
from pathlib import Path

import pytest
import tiny_models as tiny
from amounts import examples
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from inferd.plugin import LoadError, LoadRequest
from inferd.plugin.backend import read_settings
from inferd_cpu.backend import CpuBackend
from inferd_cpu.plugin import SPEC
from inferd_weights.gguf import GgufFile

WILD = tuple(
    struct.pack(form, number)
    for form, numbers in {
        "<I": (0, 1, 13, 0xFF, 1 << 31, (1 << 32) - 1),
        "<Q": (0, 1, 13, 0xFF, 1 << 31, 1 << 40, (1 << 63) - 1, (1 << 64) - 1),
    }.items()
    for number in numbers
)


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.write_model(tiny.MODELS["llama3"], tmp_path_factory.mktemp("gguf") / "sound.gguf")


@pytest.fixture(scope="module")
def head_bytes(sound: Path) -> int:
    """Bytes before the first weight."""
    return min(tensor.offset for tensor in GgufFile(sound).tensors.values())


def load(path: Path, content: bytes) -> bool:
    """Whether the file loads; anything but a load or a LoadError goes to the caller."""
    path.write_bytes(content)
    request = LoadRequest(
        path=path, device="cpu:0", settings=read_settings(SPEC, {"kv_tokens": "64"}), capacity_bytes=1 << 30
    )
    try:
        CpuBackend().load(request, lambda _: None).session.close()
    except LoadError:
        return False
    return True


damage = settings(
    deadline=None, max_examples=examples(100), suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@damage
@given(st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), min_size=1, max_size=4))
def test_changed_bytes(sound: Path, head_bytes: int, tmp_path: Path, changes: list[tuple[float, int]]) -> None:
    """Whatever bytes of the head are changed, the file loads or is refused with a LoadError."""
    content = bytearray(sound.read_bytes())
    for place, value in changes:
        content[int(place * head_bytes)] = value
    load(tmp_path / "changed.gguf", bytes(content))


@damage
@given(st.floats(0, 1, exclude_max=True), st.sampled_from(WILD))
def test_wild_numbers(sound: Path, head_bytes: int, tmp_path: Path, place: float, number: bytes) -> None:
    """A wild number anywhere in the head, be it a count, a length, a type or an offset, is never believed."""
    content = bytearray(sound.read_bytes())
    at = int(place * head_bytes)
    content[at : at + len(number)] = number
    load(tmp_path / "wild.gguf", bytes(content))


@damage
@given(st.floats(0, 1, exclude_max=True))
@example(0.0)
def test_cut_files(sound: Path, tmp_path: Path, place: float) -> None:
    """A file that is cut anywhere is refused, since its last tensor reaches to its end."""
    content = sound.read_bytes().rstrip(b"\0")
    assert not load(tmp_path / "cut.gguf", content[: int(place * len(content))])


@damage
@given(st.binary(max_size=400))
def test_noise(tmp_path: Path, noise: bytes) -> None:
    """Noise behind a sound beginning is refused."""
    assert not load(tmp_path / "noise.gguf", b"GGUF" + struct.pack("<I", 3) + noise)


def test_sound_file(sound: Path, tmp_path: Path) -> None:
    """The file that the others damage is sound."""
    assert load(tmp_path / "copy.gguf", sound.read_bytes())
