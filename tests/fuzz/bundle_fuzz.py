"""Manifests of bundles that are wrong and yet signed by who is trusted, and containers that are wrong around them.

    python tests/fuzz/bundle_fuzz.py BUNDLES [FIRST]

Each is read, or is a typed error; nothing else is raised, and no piece is given that is not what its digest says.
Prints how many ended with which reason; the number of one that did not ends the run, and makes the same bundle again.
"""

import json
import random
import sys
from collections import Counter
from hashlib import sha256
from io import BytesIO
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from inferd.bundle_settings import Bundles
from inferd.cli.bundles.archive import BundleReader, BundleWriter
from inferd.cli.bundles.manifest import BundleFile, Facts, Manifest
from inferd.cli.bundles.signing import sign
from inferd.cli.output import CommandError

KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
PIECE_BYTES = 512
BOUNDS = Bundles(manifest_bytes=1 << 16, bundle_bytes=1 << 20)
FINE = {"BUNDLE_DAMAGED", "BUNDLE_UNKNOWN", "BUNDLE_NOT_TRUSTED", "LIMIT_EXCEEDED"}
ODD: list[Any] = [
    None,
    True,
    -1,
    0,
    1,
    2**31,
    2**63,
    1e308,
    0.5,
    "",
    "..",
    "/etc/passwd",
    "a\0b",
    "é" * 200,
    [],
    {},
    [[[]]],
]


def made(chance: random.Random) -> bytes:
    """A bundle of which something is wrong, or nothing."""
    contents = {f"file{number}": chance.randbytes(chance.randint(1, 3000)) for number in range(chance.randint(1, 4))}
    files = [file(name, data) for name, data in contents.items()]
    written = json.loads(Manifest(model=Facts(name="m"), piece_bytes=PIECE_BYTES, files=tuple(files)).write())
    for _ in range(chance.randint(0, 3)):
        wound(written, chance)
    data = bytearray(json.dumps(written).encode())
    if chance.random() < 0.2:
        data[chance.randrange(len(data))] = chance.randrange(256)
    target = BytesIO()
    writer = BundleWriter(target, bytes(data), sign(bytes(data), KEY))
    for each in files:
        writer.add(each.entry, each.size_bytes, [contents[each.name]])
    writer.end()
    whole = bytearray(target.getvalue())
    if chance.random() < 0.3:
        at = chance.randrange(len(whole))
        whole[at : at + chance.randint(0, 600)] = chance.randbytes(chance.randint(0, 600))
    return bytes(whole)


def file(name: str, data: bytes) -> BundleFile:
    """What a manifest says of a file."""
    pieces = [sha256(data[at : at + PIECE_BYTES]).hexdigest() for at in range(0, len(data), PIECE_BYTES)]
    digest = sha256(data).hexdigest()
    return BundleFile(name=name, sha256=digest, size_bytes=len(data), pieces=tuple(pieces))


def wound(value: Any, chance: random.Random) -> None:
    """Exchange, drop, double or add something, at any depth."""
    if isinstance(value, dict | list) and value:
        key = chance.choice(list(value) if isinstance(value, dict) else range(len(value)))
        if isinstance(value[key], dict | list) and value[key] and chance.random() < 0.8:
            wound(value[key], chance)
            return
        match chance.randrange(4):
            case 0:
                del value[key]
            case 1 if isinstance(value, list):
                value.append(value[key])
            case 2 if isinstance(value, dict):
                value[chance.choice(("size", "path", "x"))] = chance.choice(ODD)
            case _:
                value[key] = chance.choice(ODD)


def read(data: bytes) -> str:
    """How reading a bundle ends."""
    try:
        reader = BundleReader(BytesIO(data), [KEY.public_key()], BOUNDS)
        for each in reader.manifest.files:
            for number, piece in reader.pieces(each):
                if sha256(piece).hexdigest() != each.pieces[number]:
                    return "another piece"
        reader.end()
    except CommandError as error:
        return error.reason
    return "whole"


def main(count: int, first: int) -> None:
    """Read so many; see above."""
    ended: Counter[str] = Counter()
    for number in range(first, first + count):
        how = read(made(random.Random(number)))
        if how not in FINE | {"whole"}:
            raise AssertionError(f"bundle {number} ended with {how}")
        ended[how] += 1
    sys.stdout.write(json.dumps(ended) + "\n")


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 0)
