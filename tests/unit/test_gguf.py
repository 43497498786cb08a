"""The GGUF reader, on files made byte by byte."""

import struct
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from inferd.plugin import LoadError, UnsupportedModelError
from inferd_weights.gguf import GgufFile
from inferd_weights.metadata import Kind, Metadata

WILD = 1 << 60


def text(value: str | bytes) -> bytes:
    raw = value.encode() if isinstance(value, str) else value
    return struct.pack("<Q", len(raw)) + raw


def pair(key: str, kind: int, payload: bytes) -> bytes:
    return text(key) + struct.pack("<I", kind) + payload


def array(key: str, item: int, count: int, payload: bytes) -> bytes:
    return pair(key, Kind.ARRAY, struct.pack("<IQ", item, count) + payload)


def described(name: str, *, dimensions: tuple[int, ...] = (8,), type_number: int = 0, offset: int = 0) -> bytes:
    shape = struct.pack(f"<I{len(dimensions)}Q", len(dimensions), *dimensions)
    return text(name) + shape + struct.pack("<IQ", type_number, offset)


def gguf(
    *pairs: bytes,
    tensors: tuple[bytes, ...] = (),
    data: bytes = b"",
    version: int = 3,
    pair_count: int | None = None,
    tensor_count: int | None = None,
) -> bytes:
    counts = (len(tensors) if tensor_count is None else tensor_count, len(pairs) if pair_count is None else pair_count)
    head = b"GGUF" + struct.pack("<IQQ", version, *counts) + b"".join(pairs) + b"".join(tensors)
    return head + bytes(-len(head) % 32) + data


def opened(tmp_path: Path, content: bytes) -> GgufFile:
    path = tmp_path / "model.gguf"
    path.write_bytes(content)
    return GgufFile(path)


@pytest.mark.parametrize("version", [2, 3])
def test_reads_values_and_tensors(tmp_path: Path, version: int) -> None:
    """A sound file of either version gives its values with their types, and its tensors without a copy."""
    numbers = np.arange(8, dtype="<f4")
    file = opened(
        tmp_path,
        gguf(
            pair("a.count", Kind.U32, struct.pack("<I", 7)),
            pair("a.share", Kind.F32, struct.pack("<f", 0.5)),
            pair("a.flag", Kind.BOOL, b"\1"),
            pair("a.name", Kind.STRING, text("größe 🐢")),
            array("a.words", Kind.STRING, 2, text("x") + text("")),
            array("a.ids", Kind.I16, 3, struct.pack("<3h", 1, -2, 3)),
            array("a.none", Kind.F64, 0, b""),
            tensors=(described("one", dimensions=(4, 2)), described("two", offset=32, type_number=1)),
            data=numbers.tobytes() + numbers.astype("<f2").tobytes(),
            version=version,
        ),
    )
    values = file.metadata
    assert (values.integer("a.count"), values.positive("a.share"), values.flag("a.flag")) == (7, 0.5, True)
    assert (values.text("a.name"), values.texts("a.words")) == ("größe 🐢", ["x", ""])
    assert (values.integers("a.ids"), values.numbers("a.none")) == ([1, -2, 3], [])
    one, two = file.tensors.values()
    assert (one.shape, two.shape) == ((2, 4), (8,))
    assert one.format.decode(file.blocks(one)).ravel().tolist() == numbers.tolist()
    assert two.format.decode(file.blocks(two)).ravel().tolist() == numbers.tolist()


BROKEN = {
    "empty": (b"", "is empty"),
    "not GGUF": (b"PK\3\4" + bytes(40), "not a GGUF file: it begins with b'PK"),
    "cut in the header": (gguf()[:10], "tensor count at byte 8 needs 8 bytes, but the file ends after 2"),
    "version 4": (gguf(version=4), "version 4 at byte 4; supported are 1 to 3"),
    "version 99": (gguf(version=99), "version 99 at byte 4"),
    "big-endian, version 4": (gguf(version=4 << 24), f"version {4 << 24} at byte 4; supported are 1 to 3"),
    "wild tensor count": (gguf(tensor_count=WILD), f"tensor count = {WILD} at byte 8 needs"),
    "wild metadata count": (gguf(pair_count=WILD), f"metadata count = {WILD} at byte 16 needs"),
    "wild key": (gguf(struct.pack("<Q", WILD), data=b"12345"), f"metadata key 0 of 1 at byte 24 needs {WILD} bytes"),
    "wild text": (gguf(pair("k", Kind.STRING, struct.pack("<Q", WILD))), f"value of 'k' at byte 37 needs {WILD} bytes"),
    "wild array": (gguf(array("k", Kind.U8, WILD, b"")), f"length of 'k' = {WILD} at byte"),
    "wild array of texts": (gguf(array("k", Kind.STRING, WILD, b"")), f"length of 'k' = {WILD} at byte"),
    "unknown value type": (gguf(pair("k", 13, bytes(8))), "type of 'k' at byte .* is 13; the known types are 0 to 12"),
    "nested array": (gguf(array("k", Kind.ARRAY, 1, bytes(12))), "array of arrays"),
    "bad UTF-8": (gguf(pair("k", Kind.STRING, text(b"ab\xff"))), "at byte 45 is not UTF-8: byte 2 of it is 0xff"),
    "bad UTF-8 in an array": (gguf(array("k", Kind.STRING, 2, text("ab") + text(b"a\xff"))), "is not UTF-8: byte 1"),
    "wild text in an array": (
        gguf(array("k", Kind.STRING, 2, text("ab") + struct.pack("<Q", WILD))),
        f"value of 'k' at byte 59 needs {WILD} bytes",
    ),
    "key twice": (gguf(*[pair("k", Kind.U8, b"\0")] * 2), "'k' at byte .* is there twice"),
    "alignment 0": (gguf(pair("general.alignment", Kind.U32, bytes(4))), "'general.alignment' is 0; it must be from 1"),
    "alignment 3": (gguf(pair("general.alignment", Kind.U32, b"\3\0\0\0")), "is 3; it must be a power of 2"),
    "alignment of text": (gguf(pair("general.alignment", Kind.STRING, text("x"))), "is of type STRING"),
    "no dimensions": (gguf(tensors=(described("t", dimensions=()),)), "dimensions of 't' at byte .* are 0"),
    "five dimensions": (gguf(tensors=(described("t", dimensions=(1,) * 5),)), "are 5; they must be 1 to 4"),
    "dimension 0": (gguf(tensors=(described("t", dimensions=(4, 0)),)), r"shape of 't' .* is \[4, 0\]"),
    "wild dimensions": (gguf(tensors=(described("t", dimensions=(WILD, WILD)),)), "of shape .* but the file has 96"),
    "half a block": (gguf(tensors=(described("t", dimensions=(48,), type_number=8),)), r"multiple of 32 \(Q8_0\)"),
    "unsupported type": (gguf(tensors=(described("t", type_number=9),)), r"'t' .* is 9 \(Q8_1\).* F32, F16"),
    "unknown type": (gguf(tensors=(described("t", type_number=999),)), r"is 999 \(unknown\)"),
    "crooked offset": (gguf(tensors=(described("t", offset=4),)), "is 4, not a multiple of the alignment 32"),
    "wild offset": (gguf(tensors=(described("t", offset=1 << 63),)), "tensor 't' .* ends at byte"),
    "cut data": (gguf(tensors=(described("t"),), data=bytes(31)), "'t' .* ends at byte 96, but the file has 95"),
    "tensor twice": (gguf(tensors=(described("t"), described("t")), data=bytes(64)), "'t' at byte .* is there twice"),
    "overlap": (
        gguf(tensors=(described("t", dimensions=(16,)), described("u", offset=32)), data=bytes(64)),
        "'u' begins at byte 128, inside 't', which ends at 160",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("content", "message"), BROKEN.values(), ids=BROKEN)
def test_refuses_broken_files(tmp_path: Path, content: bytes, message: str) -> None:
    """Each kind of damage is one LoadError that names the file, the field and both numbers, and takes no memory."""
    tracemalloc.start()
    try:
        with pytest.raises(LoadError, match=message) as raised:
            opened(tmp_path, content)
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()
    assert str(tmp_path / "model.gguf") in str(raised.value)


@pytest.mark.parametrize("name", ["absent.gguf", "."])
def test_refuses_what_cannot_be_read(tmp_path: Path, name: str) -> None:
    """A file that is absent, and a folder, are LoadErrors that say so."""
    with pytest.raises(LoadError, match=r"cannot be read: (No such file|Is a directory)"):
        GgufFile(tmp_path / name)


def test_checks_types_and_bounds_of_values(tmp_path: Path) -> None:
    """Reading a value of another type, outside its bounds, or absent, names the key and what is expected."""
    file = opened(
        tmp_path,
        gguf(
            pair("count", Kind.I32, struct.pack("<i", -1)),
            pair("nan", Kind.F32, struct.pack("<f", float("nan"))),
            pair("word", Kind.STRING, text("x")),
            array("numbers", Kind.F32, 2, struct.pack("<2f", 1, float("inf"))),
        ),
    )
    values = file.metadata
    for read, key, message in (
        (values.integer, "count", "'count' is -1; it must be from 0 to 2147483647"),
        (values.integer, "word", "'word' is of type STRING; it must be a whole number"),
        (values.integer, "absent", "'absent' is missing"),
        (values.positive, "nan", "'nan' is nan; it must be a finite number above 0"),
        (values.flag, "count", "'count' is of type I32; it must be true or false"),
        (values.text, "count", "'count' is of type I32; it must be text"),
        (values.texts, "word", "'word' is of type STRING; it must be an array of texts"),
        (values.texts, "numbers", "'numbers' is an array of F32; it must be an array of texts"),
        (values.integers, "numbers", "it must be an array of whole numbers"),
        (values.numbers, "numbers", "'numbers' has inf; its numbers must be finite"),
    ):
        with pytest.raises(LoadError, match=message):
            read(key)
    assert (values.integer("absent", 5), values.flag("absent", True)) == (5, True)


def test_what_another_backend_may_run_is_told_from_damage(tmp_path: Path) -> None:
    """Metadata that this backend cannot use is an error by itself; a file that is cut short is none of that kind."""
    assert isinstance(Metadata(tmp_path, {}).error("general.architecture", "is 'x'"), UnsupportedModelError)
    cut = tmp_path / "cut.gguf"
    cut.write_bytes(b"GGUF\3\0\0\0")
    with pytest.raises(LoadError) as caught:
        GgufFile(cut)
    assert not isinstance(caught.value, UnsupportedModelError)
