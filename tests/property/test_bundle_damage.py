"""Whatever is changed in a bundle, or cut off it, is noticed before it is passed on, and told with a typed error."""

from hashlib import sha256
from io import BytesIO

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from inferd.bundle_settings import Bundles
from inferd.cli.bundles.archive import BundleReader, BundleWriter
from inferd.cli.bundles.importing import check_all
from inferd.cli.bundles.manifest import Base, BundleFile, Facts, Manifest, Run
from inferd.cli.bundles.signing import sign
from inferd.cli.output import CommandError

KEY = Ed25519PrivateKey.from_private_bytes(bytes(32))
PIECE_BYTES = 64
CONTENTS = {"model.gguf": bytes(range(200)), "README.md": b"It says la.", f"{'long' * 30}.txt": b"of a long name"}
OF_BUNDLES = {"BUNDLE_DAMAGED", "BUNDLE_UNKNOWN", "BUNDLE_NOT_TRUSTED", "LIMIT_EXCEEDED"}


def file(name: str, data: bytes, *, runs: tuple[Run, ...] = ()) -> BundleFile:
    parts = [data[at : at + PIECE_BYTES] for at in range(0, len(data), PIECE_BYTES)]
    pieces = tuple(sha256(part).hexdigest() for part in parts)
    digest = sha256(data).hexdigest()
    return BundleFile(name=name, sha256=digest, size_bytes=len(data), pieces=pieces, from_base=runs)


def manifest(*, changed: bool = False) -> Manifest:
    """Of all contents; `changed` for one that leaves the middle of the first file to a base."""
    runs = (Run(1, 2, "0" * 64, 0),) if changed else ()
    files = [file(name, data, runs=runs * (name == "model.gguf")) for name, data in CONTENTS.items()]
    base = Base(name="model", manifest="1" * 64) if changed else None
    return Manifest(model=Facts(name="model"), piece_bytes=PIECE_BYTES, files=tuple(files), base=base)


def bundle(made: Manifest, key: Ed25519PrivateKey = KEY) -> bytes:
    target, data = BytesIO(), made.write()
    writer = BundleWriter(target, data, sign(data, key))
    for each in made.files:
        whole = CONTENTS[each.name]
        parts = [whole[at : at + PIECE_BYTES] for at in range(0, len(whole), PIECE_BYTES)]
        given_parts = [part for number, part in enumerate(parts) if number not in each.left_out]
        writer.add(each.entry, each.given_bytes(PIECE_BYTES), given_parts)
    writer.end()
    return target.getvalue()


def read(data: bytes, bounds: Bundles | None = None) -> Manifest:
    reader = BundleReader(BytesIO(data), [KEY.public_key()], bounds or Bundles())
    check_all(reader)
    return reader.manifest


WHOLE = {changed: bundle(manifest(changed=changed)) for changed in (False, True)}


def test_what_is_whole_is_read() -> None:
    """A bundle says what it was made of, one that leaves parts to its base, too."""
    for changed, data in WHOLE.items():
        assert read(data) == manifest(changed=changed)


@given(changed=st.booleans(), at=st.integers(0, 1 << 30), mask=st.integers(1, 255))
def test_a_changed_byte_is_noticed(changed: bool, at: int, mask: int) -> None:  # noqa: FBT001 - drawn
    """Any byte that is another one is a typed error."""
    data = bytearray(WHOLE[changed])
    data[at % len(data)] ^= mask
    with pytest.raises(CommandError) as caught:
        read(bytes(data))
    assert caught.value.reason in OF_BUNDLES


@given(changed=st.booleans(), at=st.integers(0, 1 << 30), more=st.binary(min_size=1, max_size=600))
def test_what_is_cut_or_follows_is_noticed(changed: bool, at: int, more: bytes) -> None:  # noqa: FBT001 - drawn
    """A bundle that ends before, and one behind whose end something follows, is a typed error."""
    data = WHOLE[changed]
    for wrong in (data[: at % len(data)], data + more):
        with pytest.raises(CommandError) as caught:
            read(wrong)
        assert caught.value.reason in OF_BUNDLES


HOSTILE = [
    (b'"name":"README.md"', b'"name":"../../etc"', "is a label and no path"),
    (b'"format":"inferd bundle 1"', b'"format":"inferd bundle 2"', "and this inferd reads"),
    (b'"size_bytes":200', b'"size_bytes":2e9', "has size_bytes 2000000000.0"),
    (b'"size_bytes":200', b'"size_bytes":9999999', "has 4 pieces"),
    (b'"piece_bytes":64', b'"piece_bytes":0', "piece_bytes is 0"),
    (b'"setting":""', b'"setting":"etc"', "of a setting that has no files"),
    (b'"base":null', b'"basis":null', "cannot be read"),
    (b'"settings":{}', b'"settings":[]', "model.settings are no texts"),
    (b'"from_base":[]', b'"from_base":[{"first":0,"count":1,"sha256":"x","base_first":0}]', "has digest 'x'"),
]


@pytest.mark.parametrize(("was", "is_now", "why"), HOSTILE)
def test_who_is_trusted_may_be_wrong(was: bytes, is_now: bytes, why: str) -> None:
    """What a manifest says that cannot be is refused, with what it is, though its signature holds."""
    data, target = manifest().write().replace(was, is_now, 1), BytesIO()
    BundleWriter(target, data, sign(data, KEY)).end()
    with pytest.raises(CommandError, match=why):
        read(target.getvalue())


def test_bounds_hold_before_anything_is_kept() -> None:
    """Too large a manifest, too many files and too many bytes are refused by the names of the settings."""
    for bounds in ({"manifest_bytes": 1024}, {"files": 2}, {"bundle_bytes": 200}):
        (name,) = bounds
        with pytest.raises(CommandError, match=rf"bundles\.{name} is "):
            read(WHOLE[False], Bundles(**bounds))


def test_what_nobody_trusted_signed_is_not_read() -> None:
    """A bundle by another key names that key; one without a signature says that it has none."""
    unsigned = WHOLE[False].replace(b"manifest.sig", b"manifest.sog")
    for data in (bundle(manifest(), Ed25519PrivateKey.generate()), unsigned):
        with pytest.raises(CommandError) as caught:
            read(data)
        assert caught.value.reason == "BUNDLE_NOT_TRUSTED"
