"""`inferd models import`: the files of a bundle become blobs of a kernel, and these a model, or a version of one."""

from __future__ import annotations

import filecmp
import tempfile
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING

from google.protobuf.json_format import ParseDict, ParseError

from inferd.cli.bundles.faults import damaged, lacks_base
from inferd.cli.bundles.manifest import ADAPTER
from inferd.cli.output import CommandError
from inferd.runtime.model_files import SOURCE, ModelFile, write_list
from inferd_api.v1.blob_pb2 import BlobState
from inferd_api.v1.sampling_pb2 import SamplingDefaults
from inferd_client.errors import BlobNotFoundError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from inferd.cli.bundles.archive import BundleReader
    from inferd.cli.bundles.manifest import BundleFile, Manifest, Run
    from inferd_client import Client


def check_all(reader: BundleReader) -> None:
    """Read a bundle to its end, and keep nothing.

    Raises:
        CommandError: It is damaged.
    """
    for file in reader.manifest.files:
        digest = sha256()
        for _, data in reader.pieces(file):
            digest.update(data)
        if not file.from_base and digest.hexdigest() != file.sha256:
            raise damaged(f"{file.entry} has not the digest that its manifest says", part=file.entry)
    reader.end()


def _pass(pieces: Iterator[bytes]) -> None:
    """Read what is not needed: it is checked all the same."""
    for _ in pieces:
        pass


def _tell(progress: Callable[[str, int, int], None], name: str, done: int, size: int) -> None:
    progress(name, done, size)


def give(
    client: Client, reader: BundleReader, *, adapters: Path, progress: Callable[[str, int, int], None]
) -> tuple[str, Path | None]:
    """Give a kernel the files of a bundle; the source of the model that they are, and where its adapter is.

    What was given stays when this fails: asked for again it goes on behind it.

    Args:
        client: Of the kernel.
        reader: Of the bundle.
        adapters: The folder where adapters are kept, if there is one in the bundle.
        progress: Is told the name of a file, how many bytes of it are there, and how many there will be.

    Raises:
        CommandError: It is damaged, or what it is a change of is not there.
        InferdError: The kernel refuses it.
    """
    manifest = reader.manifest
    whole = _look(client, manifest)
    for file in manifest.own():
        if file.sha256 in whole:
            _pass(data for _, data in reader.pieces(file))
            continue
        pieces = _merged(client, reader, file)
        digest, far = f"sha256:{file.sha256}", partial(_tell, progress, file.name)
        client.put_chunks(digest, file.size_bytes, pieces, progress=far)
        _pass(pieces)  # another client may have given it meanwhile
    adapter = _unpack(client, reader, adapters) if manifest.own(ADAPTER) else None
    reader.end()
    listed = write_list([ModelFile(file.name, file.sha256, file.size_bytes) for file in manifest.own()])
    client.put_blob(listed)
    return SOURCE + sha256(listed).hexdigest(), adapter


def sampling_of(manifest: Manifest) -> SamplingDefaults:
    """The sampling defaults of a bundle.

    Raises:
        CommandError: They have fields that this inferd does not know.
    """
    try:
        return ParseDict(dict(manifest.model.sampling), SamplingDefaults())
    except ParseError as error:
        raise damaged(f"its sampling defaults cannot be read ({error})", part="manifest.json") from None


def _look(client: Client, manifest: Manifest) -> frozenset[str]:
    """Which files the kernel has; before anything is given, whether it has what others are changes of.

    Raises:
        CommandError: It does not.
    """
    base = manifest.base
    whole = frozenset(file.sha256 for file in manifest.own() if _has(client, file.sha256))
    for file in manifest.files:
        for digest in sorted({run.sha256 for run in file.from_base} - whole):
            if base is None or (file.sha256 in whole and not file.setting) or _has(client, digest):
                continue
            raise lacks_base(
                f"the bundle has only what changed since another one of model {base.name!r} (its manifest is"
                f" sha256:{base.manifest}), and this kernel lacks what {file.name} was then, the blob sha256:{digest};"
                " import that bundle first, or export the model whole, without --since",
                digest=f"sha256:{digest}",
                file=file.name,
                base=base.manifest,
            )
    return whole


def _has(client: Client, digest: str) -> bool:
    try:
        return client.get_blob(f"sha256:{digest}").state == BlobState.BLOB_STATE_WHOLE
    except BlobNotFoundError:
        return False


def _merged(client: Client, reader: BundleReader, file: BundleFile) -> Iterator[bytes]:
    """All bytes of a file: what the bundle has of it, and between that what the base has, from the kernel."""
    piece_bytes, runs = reader.manifest.piece_bytes, iter(file.from_base)
    run = next(runs, None)
    for number, data in reader.pieces(file):
        while run is not None and run.first < number:
            yield from _from_base(client, file, run, piece_bytes)
            run = next(runs, None)
        yield data
    while run is not None:
        yield from _from_base(client, file, run, piece_bytes)
        run = next(runs, None)


def _from_base(client: Client, file: BundleFile, run: Run, piece_bytes: int) -> Iterator[bytes]:
    """The pieces of a run, from a blob of the kernel."""
    sizes = [file.piece_size(number, piece_bytes) for number in range(run.first, run.first + run.count)]
    digest, start = f"sha256:{run.sha256}", run.base_first * piece_bytes
    chunks = client.read_blob(digest, offset_bytes=start, size_bytes=sum(sizes))
    for number, data in enumerate(_cut(chunks, sizes), run.first):
        if sha256(data).hexdigest() != file.pieces[number]:
            raise lacks_base(
                f"piece {number} of {file.name} is to be in the file {digest} of the base, and is not; export the model"
                " whole, without --since",
                digest=digest,
                file=file.name,
            )
        yield data


def _cut(chunks: Iterable[bytes], sizes: Iterable[int]) -> Iterator[bytes]:
    """The bytes of chunks in parts of these sizes; fewer where they end before."""
    came, data = iter(chunks), b""
    for size in sizes:
        taken = [data]
        have = len(data)
        while have < size and (chunk := next(came, b"")):
            taken.append(chunk)
            have += len(chunk)
        whole = b"".join(taken)
        data = whole[size:]
        yield whole[:size]


def _unpack(client: Client, reader: BundleReader, folder: Path) -> Path:
    """The adapter of a bundle as files of this host, in a folder by their digests; the file, or the folder.

    Raises:
        CommandError: It is damaged, or is there and was changed.
    """
    files = reader.manifest.own(ADAPTER)
    listed = write_list([ModelFile(file.name, file.sha256, file.size_bytes) for file in files])
    kept = folder / sha256(listed).hexdigest()[:32]
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder, prefix=".part-") as made:
        part = Path(made) / "files"
        part.mkdir()
        for file in files:
            with (part / file.name).open("xb") as into:
                for data in _merged(client, reader, file):
                    into.write(data)
        if not kept.is_dir():
            part.rename(kept)
        elif not all(filecmp.cmp(part / file.name, kept / file.name, shallow=False) for file in files):
            raise CommandError(
                f"the adapter in {kept} is not what it was when it was imported; remove that folder, and import again",
                reason="CHECKSUM_MISMATCH",
            )
    return kept / files[0].name if len(files) == 1 else kept
