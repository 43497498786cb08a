"""`inferd models export`: what a kernel tells of a model becomes one signed file."""

from __future__ import annotations

from datetime import UTC, datetime
from hashlib import sha256
from typing import TYPE_CHECKING, NamedTuple

from google.protobuf.json_format import MessageToDict

from inferd.bundle_settings import Bundles
from inferd.cli.bundles.archive import BundleReader, BundleWriter
from inferd.cli.bundles.manifest import ADAPTER, Base, BundleFile, Facts, Manifest, Run, read_manifest
from inferd.cli.bundles.opening import Begun, opened
from inferd.cli.bundles.sealing import Opener
from inferd.cli.bundles.signing import sign
from inferd.cli.bundles.streams import read_all
from inferd.cli.output import CommandError
from inferd.runtime.model_files import check_names

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from pathlib import Path

    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

    from inferd.cli.bundles.streams import Target
    from inferd_api.v1.bundle_pb2 import ExportedFile, ExportModelResponse, ExportModelStart

DIGEST_BYTES = 32


class Told(NamedTuple):
    """What a kernel says of a model before its bytes."""

    start: ExportModelStart
    files: Sequence[ExportedFile]


class Against(NamedTuple):
    """What a bundle leaves out: the pieces that its base has."""

    base: Base
    piece_bytes: int
    pieces: Mapping[str, tuple[str, int]]

    @property
    def had(self) -> bytes:
        """As a kernel is told."""
        return bytes.fromhex("".join(self.pieces))


def read_base(path: Path, trusted: Ed25519PublicKey) -> Against:
    """The bundle that another is to be the change of, signed with the same key, or its manifest alone.

    Raises:
        CommandError: It is neither.
    """
    bounds = Bundles()
    with opened(path, Opener()) as source:
        first = source.read(1)
        if first == b"{":
            data = read_all(Begun(first, source), bounds.manifest_bytes)
            manifest, digest = read_manifest(data, bounds), sha256(data).hexdigest()
        else:
            reader = BundleReader(Begun(first, source), [trusted], bounds)
            manifest, digest = reader.manifest, reader.digest
    pieces = {piece: (digest, number) for piece, digest, number in manifest.places()}
    return Against(Base(name=manifest.model.name, manifest=digest), manifest.piece_bytes, pieces)


def hear(messages: Iterator[ExportModelResponse]) -> Told:
    """What comes before the bytes.

    Raises:
        CommandError: The kernel ended before.
    """
    start = _next(messages).start
    return Told(start, [_next(messages).file for _ in range(start.files)])


def manifest_of(told: Told, card: tuple[str, bytes] | None, against: Against | None) -> Manifest:
    """The manifest of a bundle.

    Raises:
        CommandError: The card has the name of a file that is there, or none that a file can have.
    """
    model, piece_bytes = told.start.model, told.start.piece_bytes
    if against is not None and against.piece_bytes != piece_bytes:
        raise CommandError(
            f"the base has pieces of {against.piece_bytes} bytes and this kernel has {piece_bytes}; export it whole",
            reason="USAGE",
        )
    files = [_file(each, against) for each in told.files]
    if card is not None:
        name, data = card
        check_names([name])
        if name.lower() in [file.name.lower() for file in files if not file.setting]:
            raise CommandError(f"the model has a file {name}; give the card another name", reason="USAGE")
        digest = sha256(data).hexdigest()
        own = sum(not file.setting for file in files)
        files.insert(own, BundleFile(name=name, sha256=digest, size_bytes=len(data), pieces=(digest,)))
    names = [file.name for file in files if not file.setting]
    paths = frozenset(told.start.path_settings)
    facts = Facts(
        name=model.name,
        backend=model.backend,
        settings={name: model.settings[name] for name in sorted(model.settings) if name not in paths},
        sampling=MessageToDict(model.sampling_defaults, preserving_proto_field_name=True),
        card=card[0] if card is not None else next((name for name in names if name.lower() == "readme.md"), ""),
        left_out=tuple(sorted(paths - {ADAPTER})),
        version=model.version,
        time=datetime.now(UTC).isoformat(timespec="seconds"),
    )
    base = None if against is None or not any(file.from_base for file in files) else against.base
    return Manifest(model=facts, piece_bytes=piece_bytes, files=tuple(files), base=base)


def _file(file: ExportedFile, against: Against | None) -> BundleFile:
    given = file.piece_digests
    pieces = tuple(given[at : at + DIGEST_BYTES].hex() for at in range(0, len(given), DIGEST_BYTES))
    if not file.size_bytes:
        raise CommandError(f"{file.name} has no bytes, which no file of a given model can have", reason="USAGE")
    return BundleFile(
        name=file.name,
        sha256=file.digest.removeprefix("sha256:"),
        size_bytes=file.size_bytes,
        pieces=pieces,
        setting=file.setting,
        from_base=() if against is None else tuple(_runs(pieces, against.pieces)),
    )


def _runs(pieces: Sequence[str], had: Mapping[str, tuple[str, int]]) -> Iterator[Run]:
    """The pieces that a base has, as many in a row as lie so in one file of it."""
    run: Run | None = None
    for number, piece in enumerate(pieces):
        place = had.get(piece)
        if run is not None and place == (run.sha256, run.base_first + run.count) and run.first + run.count == number:
            run = Run(run.first, run.count + 1, run.sha256, run.base_first)
            continue
        if run is not None:
            yield run
        run = None if place is None else Run(number, 1, *place)
    if run is not None:
        yield run


def write_bundle(
    target: Target,
    manifest: Manifest,
    key: Ed25519PrivateKey,
    messages: Iterator[ExportModelResponse],
    *,
    card: bytes,
    progress: Callable[[str, int], None],
) -> None:
    """Write a bundle while its bytes come, each piece checked.

    Raises:
        CommandError: The kernel ended before, or gave other bytes than it said.
    """
    data = manifest.write()
    writer = BundleWriter(target, data, sign(data, key))
    piece_bytes = manifest.piece_bytes
    described = manifest.own()[-1] if card else None
    for file in manifest.files:
        source = iter([card]) if file is described else _pieces(messages, file, piece_bytes, progress)
        if size_bytes := file.given_bytes(piece_bytes):
            writer.add(file.entry, size_bytes, source)
    writer.end()


def _pieces(
    messages: Iterator[ExportModelResponse], file: BundleFile, piece_bytes: int, progress: Callable[[str, int], None]
) -> Iterator[bytes]:
    left_out, done = file.left_out, 0
    for number, digest in enumerate(file.pieces):
        if number in left_out:
            continue
        data = bytearray()
        size = file.piece_size(number, piece_bytes)
        while len(data) < size:
            data += _next(messages).chunk
        if len(data) != size or sha256(data).hexdigest() != digest:
            raise CommandError(f"the kernel gave other bytes of {file.name} than it said", reason="CHECKSUM_MISMATCH")
        done += size
        progress(file.name, done)
        yield bytes(data)


def _next(messages: Iterator[ExportModelResponse]) -> ExportModelResponse:
    message = next(messages, None)
    if message is None:
        raise CommandError("the kernel ended while it gave the model; try again", reason="KERNEL_ENDED")
    return message
