"""Damaged headers of safetensors files."""

import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from amounts import examples
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from inferd.plugin import LoadError
from inferd_weights.quants import FORMATS
from inferd_weights.safetensors import MAX_HEADER_BYTES, read_safetensors

SHAPES = {"a.weight": (4, 6), "b.weight": (3,), "c.weight": (2, 1, 5)}
damage = settings(deadline=None, max_examples=examples(40), suppress_health_check=[HealthCheck.function_scoped_fixture])


def write(header: Any, data: bytes, *, length: int | None = None) -> bytes:
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(raw) if length is None else length) + raw + data


def describe() -> tuple[dict[str, Any], bytes]:
    """A sound header, and numbers of three kinds behind each other."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    data = b""
    for (name, shape), (kind, size) in zip(SHAPES.items(), (("F32", 4), ("F16", 2), ("BF16", 2)), strict=True):
        numbers = bytes(range(1, 1 + size * int(np.prod(shape))))
        header[name] = {"dtype": kind, "shape": list(shape), "data_offsets": [len(data), len(data) + len(numbers)]}
        data += numbers
    return header, data


def read(path: Path, content: bytes) -> bool:
    """Whether a file is read; then all its tensors lie in it. Anything but a LoadError goes to the caller."""
    path.write_bytes(content)
    try:
        _, tensors = read_safetensors(path, 0)
    except LoadError as error:
        return str(path) not in str(error)  # the file is named
    assert all(each.offset >= 0 and each.offset + each.size_bytes <= len(content) for each in tensors.values())
    return True


def test_a_sound_file(tmp_path: Path) -> None:
    """Names, shapes, formats and places are those of the header."""
    header, data = describe()
    path = tmp_path / "sound.safetensors"
    path.write_bytes(write(header, data))
    _, tensors = read_safetensors(path, 3)
    assert {name: each.shape for name, each in tensors.items()} == SHAPES
    assert [each.format for each in tensors.values()] == [FORMATS[0], FORMATS[1], FORMATS[30]]
    assert [each.offset - tensors["a.weight"].offset for each in tensors.values()] == [0, 96, 102]
    assert {each.part for each in tensors.values()} == {3}


@damage
@given(st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), min_size=1, max_size=4))
def test_changed_bytes(tmp_path: Path, changes: list[tuple[float, int]]) -> None:
    """Whatever bytes of the head are changed, the file is read or refused with a LoadError that names it."""
    header, data = describe()
    content = bytearray(write(header, data))
    for place, value in changes:
        content[int(place * (len(content) - len(data)))] = value
    read(tmp_path / "changed.safetensors", bytes(content))


@damage
@given(st.floats(0, 1, exclude_max=True))
@example(0.0)
def test_cut_files(tmp_path: Path, place: float) -> None:
    """A file that is cut anywhere is refused."""
    content = write(*describe())
    assert not read(tmp_path / "cut.safetensors", content[: int(place * len(content))])


VALUES: st.SearchStrategy[Any] = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(1 << 70), 1 << 70),
    st.floats(),
    st.text(max_size=3),
    st.lists(st.one_of(st.integers(-2, 1 << 64), st.none(), st.booleans(), st.floats()), max_size=6),
)


@damage
@given(st.sampled_from(list(SHAPES)), st.sampled_from(["dtype", "shape", "data_offsets"]), VALUES)
def test_wild_values(tmp_path: Path, name: str, key: str, value: Any) -> None:
    """No value of a description is believed that does not fit the others and the file."""
    header, data = describe()
    same = header[name][key] == value and type(value) is type(header[name][key])
    header[name][key] = value
    assert read(tmp_path / "wild.safetensors", write(header, data)) <= same or key == "shape"


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"\x01", "it has 1 bytes, too few for the length of its header"),
        (write({}, b"", length=MAX_HEADER_BYTES + 1), f"the header needs {MAX_HEADER_BYTES + 1} bytes"),
        (write(b'{"a":[' + b"[]," * (1 << 20) + b"[]]}", b""), r"has '\[' 1048578 times; at most 524290 are read"),
        (write(b"{", b""), "the header is no JSON"),
        (write(b"[]", b""), "the header is a list; it must be an object"),
        (write(b'{"a":{},"a":{}}', b""), "a name is there twice"),
        (write({"a": 3}, b""), "'a' is described by a int; it must be an object"),
        (write({"a": {"dtype": "F8"}}, b""), "'a' is of 'F8'; supported are F32, F16, BF16"),
        (write({"a": {"dtype": "F32", "shape": [1] * 5, "data_offsets": [0, 4]}}, b""), "it must be up to 4 whole"),
        (write({"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 4]}}, b"x" * 4), "2 numbers of F32 take 8"),
        (write({"a": {"dtype": "F32", "shape": [1], "data_offsets": [4, 8]}}, b"x" * 8), "the one before it ends at"),
        (write({"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}, b"x" * 8), "tensors end at byte"),
    ],
)
def test_what_is_wrong_is_said(tmp_path: Path, content: bytes, words: str) -> None:
    """The error has the file, the field and both numbers."""
    path = tmp_path / "wrong.safetensors"
    path.write_bytes(content)
    with pytest.raises(LoadError, match=words):
        read_safetensors(path, 0)
