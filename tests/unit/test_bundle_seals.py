"""Sealed bundles: what opens them, and what is noticed."""

import re
from collections.abc import Callable
from io import BytesIO

import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from hypothesis import example, given
from hypothesis import strategies as st

from inferd.cli.bundles.sealing import (
    HEADER_BYTES,
    MAGIC,
    PART_BYTES,
    TAG_BYTES,
    Opener,
    SealedReader,
    SealedWriter,
    Sealer,
)
from inferd.cli.output import CommandError

KEY = X25519PrivateKey.from_private_bytes(bytes(range(32)))
MINE = Opener(keys=[X25519PrivateKey.generate(), KEY])


def sealed(data: bytes, sealer: Sealer, part: int = 10_000) -> bytes:
    target = BytesIO()
    writer = SealedWriter(target, sealer)
    for at in range(0, len(data), part):
        writer.write(data[at : at + part])
    writer.end()
    return target.getvalue()


def opened(data: bytes, opener: Opener) -> bytes:
    source = BytesIO(data)
    assert source.read(len(MAGIC)) == MAGIC
    reader, parts = SealedReader(source, opener), []
    while part := reader.read(50_000):
        parts.append(part)
    return b"".join(parts)


@pytest.mark.parametrize("size", [0, 1, PART_BYTES - 1, PART_BYTES, PART_BYTES + 1, 3 * PART_BYTES])
def test_what_is_sealed_opens(size: int) -> None:
    """The bytes come back, whatever their number is to that of a part."""
    data = bytes(size)
    made = sealed(data, Sealer(recipient=KEY.public_key()))
    assert opened(made, MINE) == data
    assert len(made) == HEADER_BYTES + size + TAG_BYTES * max(1, -(-size // PART_BYTES))


def test_what_does_not_open_says_why() -> None:
    """Without a key, with a wrong one, and with a wrong passphrase it is BUNDLE_SEALED; the right ones open."""
    by_key, by_word = sealed(b"la", Sealer(recipient=KEY.public_key())), sealed(b"la", Sealer(passphrase=b"word"))
    wrong: list[tuple[bytes, Opener, str]] = [
        (by_key, Opener(passphrase=b"word"), "is sealed with a key; give it with --unseal KEY.pem"),
        (by_key, Opener(keys=MINE.keys[:1]), "the key does not open the bundle"),
        (by_word, MINE, "is sealed with a passphrase; give it with --passphrase-file FILE"),
        (by_word, Opener(passphrase=b"Word"), "the passphrase does not open the bundle"),
    ]
    for data, opener, why in wrong:
        with pytest.raises(CommandError, match=re.escape(why)) as caught:
            opened(data, opener)
        assert caught.value.reason == "BUNDLE_SEALED"
    assert opened(by_word, Opener(passphrase=b"word")) == b"la"


SEALED = sealed(bytes(range(256)) * 600, Sealer(recipient=KEY.public_key()))
CUT = HEADER_BYTES + PART_BYTES + TAG_BYTES  # behind the first part


def flipped(at: int) -> bytes:
    data = bytearray(SEALED)
    data[at] ^= 1
    return bytes(data)


def cut(at: int) -> bytes:
    return SEALED[:at]


@given(at=st.integers(len(MAGIC), len(SEALED) - 1), wound=st.sampled_from([flipped, cut]))
@example(at=HEADER_BYTES, wound=cut)  # all of its parts
def test_what_is_changed_or_cut_off_is_noticed(at: int, wound: Callable[[int], bytes]) -> None:
    """Any byte that is another one, and any end that is too early, is a typed error."""
    with pytest.raises(CommandError) as caught:
        opened(wound(at), MINE)
    assert caught.value.reason in ("BUNDLE_DAMAGED", "BUNDLE_SEALED")


def test_parts_stay_where_they_are() -> None:
    """A bundle that is cut off between two parts, and one whose parts have changed places, are damaged."""
    second = CUT + PART_BYTES + TAG_BYTES
    moved = SEALED[:HEADER_BYTES] + SEALED[CUT:second] + SEALED[HEADER_BYTES:CUT] + SEALED[second:]
    for data in (SEALED[:CUT], moved, SEALED + b"more"):
        with pytest.raises(CommandError, match="it is not what was sealed"):
            opened(data, MINE)
