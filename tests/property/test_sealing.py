"""What is sealed: the published vectors, and that nothing opens but what was sealed, where it was sealed."""

import itertools
import os
import secrets
from base64 import b64encode
from pathlib import Path

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from inferd.store.codec import Place, PlainCodec
from inferd.store.sealing.data_keys import DataKeys, ShreddedKeyError
from inferd.store.sealing.key_source import MARK, Kek, KeyFile, keys_of
from inferd.store.sealing.sealed_codec import SEALED_KEYS, SealedCodec
from inferd.store.sealing.sealed_file import CHUNK_BYTES, HEADER_BYTES, MORE_BYTES, Owner, SealedFile
from inferd.store.sealing.xaes import HEAD_BYTES, NONCE_BYTES, Xaes, bound
from inferd.store.store import Kind, SealError

PLACES = st.builds(
    Place,
    st.text(max_size=4),
    st.sampled_from([kind.value for kind in Kind]),
    st.text(max_size=4),
    st.none() | st.integers(0, 1 << 40),
)


class Given:
    """A source of keys that tests give."""

    name, path = "the test", None

    def __init__(self, *keks: Kek) -> None:
        self.keks = list(keks)

    def read(self) -> list[Kek]:
        return self.keks


KEK = Kek(b"k" * 32)
KEYS = DataKeys("s", Given(KEK), (), makes=True)
CODEC = SealedCodec(KEYS, seals=True)
CODEC.lenient = False


@pytest.mark.parametrize(
    ("key", "said", "sealed"),
    [
        (b"\1", b"", "ce546ef63c9cc60765923609b33a9a1974e96e52daf2fcf7075e2271"),
        (b"\3", b"c2sp.org/XAES-256-GCM", "986ec1832593df5443a179437fd083bf3fdb41abd740a21f71eb769d"),
    ],
)
def test_the_cipher_is_xaes_256_gcm(key: bytes, said: bytes, sealed: str) -> None:
    """The vectors of https://c2sp.org/XAES-256-GCM come out, and open."""
    nonce, cipher = b"ABCDEFGHIJKLMNOPQRSTUVWX", Xaes(key * 32)
    made = cipher.of(nonce[:HEAD_BYTES]).encrypt(nonce[HEAD_BYTES:], b"XAES-256-GCM", said)
    assert made.hex() == sealed
    assert cipher.open(nonce + made, said) == b"XAES-256-GCM"


@given(st.binary(max_size=200), PLACES)
def test_what_is_sealed_opens_where_it_was_sealed(value: bytes, place: Place) -> None:
    """Any value at any place comes back, is nowhere in what is written, and is written differently each time."""
    written = CODEC.write(place, value)
    assert CODEC.read(place, written) == value
    assert len(value) < 8 or value not in written
    assert CODEC.write(place, value)[5 : 5 + NONCE_BYTES] != written[5 : 5 + NONCE_BYTES]


@given(st.binary(max_size=60), PLACES, st.data())
def test_a_changed_bit_is_found(value: bytes, place: Place, data: st.DataObject) -> None:
    """Whichever bit is another one, and wherever it is cut off, nothing is read."""
    written = bytearray(CODEC.write(place, value))
    at = data.draw(st.integers(0, 8 * len(written) - 1))
    written[at // 8] ^= 1 << at % 8
    with pytest.raises(ValueError, match=r"damaged|not sealed|not there|shredded"):
        CODEC.read(place, bytes(written))
    written[at // 8] ^= 1 << at % 8
    with pytest.raises(ValueError, match=r"damaged|cut off|not sealed|not there|shredded"):
        CODEC.read(place, bytes(written[: data.draw(st.integers(0, len(written) - 1))]))


@given(st.binary(max_size=60), PLACES, PLACES)
def test_a_value_opens_nowhere_else(value: bytes, place: Place, other: Place) -> None:
    """Not for another tenant, kind, key or number, nor as a piece what was a record; nor what nobody has sealed."""
    assume(place != other)
    with pytest.raises(ValueError, match=r"another's place|not there"):
        CODEC.read(other, CODEC.write(place, value))
    with pytest.raises(ValueError, match="is not sealed"):
        CODEC.read(place, PlainCodec().write(place, value))


@given(st.lists(st.binary(max_size=3), max_size=4), st.lists(st.binary(max_size=3), max_size=4))
def test_no_two_lists_are_bound_alike(one: list[bytes], other: list[bytes]) -> None:
    """What a value is bound to has one meaning."""
    assert (bound(*one) == bound(*other)) == (one == other)


@given(st.text(max_size=8), st.text(max_size=8), st.sampled_from(sorted(SEALED_KEYS)), st.text(min_size=1, max_size=90))
def test_names_of_two_tenants_do_not_say_that_they_are_one(one: str, other: str, kind: str, key: str) -> None:
    """A digest is written alike for its tenant, is read again, and is another name for another tenant."""
    assume(one != other and not key.startswith("~"))
    written = CODEC.write_key(one, kind, key)
    assert written == CODEC.write_key(one, kind, key)
    assert CODEC.read_key(one, kind, written) == key
    assert written != CODEC.write_key(other, kind, key)
    assert CODEC.read_key(other, kind, written) == written


def test_keys_are_turned_over_and_shredded() -> None:
    """What older keys sealed opens until they go; a shredded tenant opens nothing, and has no number twice."""
    keys = DataKeys("s", Given(KEK), (), makes=True)
    codec, place = SealedCodec(keys, seals=True), Place("a", "task", "t")
    old = codec.write(place, b"1")
    keys.rotate("a")
    new = codec.write(place, b"2")
    assert (codec.read(place, old), codec.read(place, new), old[1:5] == new[1:5]) == (b"1", b"2", False)
    assert keys.retire("a") == 1
    with pytest.raises(ValueError, match="not there"):
        codec.read(place, old)
    assert keys.shred("a") == 1
    for each in (old, new):
        with pytest.raises(ShreddedKeyError):
            codec.read(place, each)
    rows = [(*name, wrapped) for name, wrapped in keys.unkept.items()]
    assert [row for row in rows if row[1] and row[2]] == []
    again = DataKeys("s", Given(KEK), rows, makes=True)
    assert int.from_bytes(SealedCodec(again, seals=True).write(place, b"3")[1:5]) > int.from_bytes(new[1:5])
    with pytest.raises(ShreddedKeyError):
        SealedCodec(again, seals=True).read(place, new)


def test_a_wrapped_key_is_its_tenants() -> None:
    """In another tenant's row, or under another number, a key is none; others are as they were."""
    keys = DataKeys("s", Given(KEK), (), makes=True)
    for tenant in "ab":
        keys.current(tenant)
    rows = dict(keys.unkept)
    one, other = rows["a", 1], rows["b", 1]
    swapped = DataKeys("s", Given(KEK), [("a", 1, other), ("b", 1, one), ("a", 2, one), ("c", 1, one)], makes=True)
    for tenant, number in (("a", 1), ("b", 1), ("a", 2), ("c", 1)):
        with pytest.raises(ValueError, match="damaged"):
            swapped.get(tenant, number)


def test_all_keys_are_wrapped_anew_and_the_old_one_opens_none() -> None:
    """After `rewrap` the new key opens all, and whoever has the one before alone is refused with both names."""
    keys = DataKeys("s", Given(KEK), (), makes=True)
    codec, place, new = SealedCodec(keys, seals=True), Place("a", "task", "t"), Kek(b"n" * 32)
    written = codec.write(place, b"value")
    keys.kept()
    assert keys.rewrap([new, KEK]) == 1
    rows = [(*name, wrapped) for name, wrapped in keys.unkept.items()]
    assert SealedCodec(DataKeys("s", Given(new), rows, makes=True), seals=True).read(place, written) == b"value"
    with pytest.raises(SealError, match=f"{new.id.hex()}.*{KEK.id.hex()}") as caught:
        DataKeys("s", Given(KEK), rows, makes=True)
    assert caught.value.metadata["cause"] == "wrong key"
    with pytest.raises(SealError, match="put that file back") as caught:
        DataKeys("s", Given(), rows, makes=True)
    assert caught.value.metadata["cause"] == "lost key"


@pytest.mark.parametrize(
    "text",
    ["", "# none", MARK, f"{MARK} AAAA", f"other {b64encode(bytes(32)).decode()}", f"{MARK} {'A' * 44} more", "ÿ" * 99],
)
def test_what_is_no_key_is_refused(text: str, tmp_path: Path) -> None:
    """A file that is empty, cut off, or something else is no key, and is told without what is in it."""
    path = tmp_path / "store.key"
    path.write_text(text, encoding="utf-8")
    path.chmod(0o600)
    with pytest.raises(SealError, match=r"is no key|has 0 keys") as caught:
        KeyFile(path).read()
    assert "AAAA" not in caught.value.message
    with pytest.raises(SealError):
        keys_of(f"{MARK} {b64encode(bytes(32)).decode()}\n".encode() * 17, "many")


def sealed_file(folder: Path, data: bytes, *, finishes: bool = True) -> tuple[int, SealedFile]:
    """A file with these bytes, given in parts; whoever has it closes it."""
    keys = KEYS
    keys.current("t")
    file = os.open(folder / f"f{secrets.token_hex(4)}", os.O_RDWR | os.O_CREAT)
    sealed, at = SealedFile.begun(file, keys, OWNER), 0
    for size in itertools.cycle((1, CHUNK_BYTES - 1, 70_000, 5)):
        if at >= len(data):
            break
        sealed.write(at, data[at : at + size])
        at = min(len(data), at + size)
    if finishes:
        sealed.finish()
    return file, sealed


OWNER = Owner("t", "d")
SIZES = (1, CHUNK_BYTES - 1, CHUNK_BYTES, CHUNK_BYTES + 1, 2 * CHUNK_BYTES, 3 * CHUNK_BYTES + 77)


@pytest.mark.parametrize("size", SIZES)
def test_a_sealed_file_gives_what_was_written(size: int, tmp_path: Path) -> None:
    """Of any size and given in any parts, read at any place, while it grows and when it is whole, by who opens it."""
    data = os.urandom(size)
    for finishes in (False, True):
        file, sealed = sealed_file(tmp_path, data, finishes=finishes)
        again = SealedFile.opened(file, KEYS, OWNER)
        assert (sealed.size_bytes, again.read(0, size + 9, grows=not finishes)) == (size, data)
        for start in {0, size // 2, size - 1, max(0, size - CHUNK_BYTES)}:
            assert again.read(start, 70_000, grows=not finishes) == data[start : start + 70_000]
        content = os.pread(file, 1 << 20, 0)
        assert size < 16 or data[:16] not in content
        os.close(file)


def test_each_chunk_of_a_file_that_is_changed_is_found(tmp_path: Path) -> None:
    """A byte changed in each chunk and in the header, chunks left out, moved, exchanged or cut off: none is read."""
    data = os.urandom(3 * CHUNK_BYTES + 77)
    file, sealed = sealed_file(tmp_path, data)
    other, _ = sealed_file(tmp_path, os.urandom(3 * CHUNK_BYTES + 77))
    content, stride = os.pread(file, 1 << 20, 0), CHUNK_BYTES + MORE_BYTES
    chunks = [content[HEADER_BYTES:][at : at + stride] for at in range(0, len(content) - HEADER_BYTES, stride)]
    flips = [content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :] for at in range(0, len(content), 5_000)]
    flips += [content[:at] + bytes([content[at] ^ 0x80]) + content[at + 1 :] for at in range(HEADER_BYTES)]
    moved = [
        [chunks[1], chunks[0], *chunks[2:]],
        chunks[:-1],
        chunks[:1],
        [*chunks[:1], *chunks[2:]],
        [*chunks, chunks[-1]],
        [os.pread(other, stride, HEADER_BYTES), *chunks[1:]],
    ]
    cut = [content[:at] for at in range(HEADER_BYTES + 1, len(content), 9_973)]
    for wrong in (*flips, *(content[:HEADER_BYTES] + b"".join(each) for each in moved), *cut):
        os.ftruncate(file, 0)
        os.pwrite(file, wrong, 0)
        with pytest.raises(ValueError, match=r"what was written|not there|no sealed file|shredded"):
            SealedFile.opened(file, KEYS, OWNER).read(0, len(data))
    os.pwrite(file, content, 0)
    CODEC.write_key("names alone", min(SEALED_KEYS), "k")  # its first key is for names, and longer
    for owner in (Owner("t", "e"), Owner("nobody", "d"), Owner("names alone", "d")):
        with pytest.raises(ValueError, match=r"not what was written|not there"):
            SealedFile.opened(file, KEYS, owner).read(0, 9)
    assert sealed.read(0, len(data)) == data
    os.close(file)
    os.close(other)


def test_a_file_goes_on_behind_what_was_torn(tmp_path: Path) -> None:
    """What a cut left of the last write is not read, and is written anew; no chunk is ever written alike twice."""
    data = os.urandom(2 * CHUNK_BYTES)
    file, _ = sealed_file(tmp_path, data[: CHUNK_BYTES + 100], finishes=False)
    size = os.fstat(file).st_size
    before = os.pread(file, 1 << 20, HEADER_BYTES + CHUNK_BYTES + MORE_BYTES)
    os.pwrite(file, b"torn", size - 20)
    again = SealedFile.opened(file, KEYS, OWNER)
    assert again.read(0, 1 << 20, grows=True) == data[:CHUNK_BYTES]
    again.write(CHUNK_BYTES, data[CHUNK_BYTES : CHUNK_BYTES + 100])
    assert os.pread(file, 1 << 20, HEADER_BYTES + CHUNK_BYTES + MORE_BYTES)[:28] != before[:28]
    again.write(CHUNK_BYTES + 100, data[CHUNK_BYTES + 100 :])
    again.finish()
    assert SealedFile.opened(file, KEYS, OWNER).read(0, 1 << 20) == data
    os.close(file)
