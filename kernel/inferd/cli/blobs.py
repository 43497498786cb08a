"""`inferd blobs put`, `get`, `list` and `remove`."""

from __future__ import annotations

import sys
import time
from contextlib import contextmanager
from hashlib import file_digest
from typing import TYPE_CHECKING

from inferd.cli.amounts import size, span
from inferd.cli.asking import how_to_ask
from inferd.cli.kernel import connected
from inferd.cli.named import no_file
from inferd.cli.output import CommandError
from inferd.cli.plain import plain
from inferd.runtime.formats import model_name
from inferd_api.v1.blob_pb2 import BlobState

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from pathlib import Path

    from inferd.cli.output import Output
    from inferd_api.v1.blob_pb2 import Blob
    from inferd_client import Client

SHA256 = "sha256:"
HEX_DIGITS = 64
SHOWN = 4  # digests that begin alike


def put(output: Output, address: str, tenant: str, files: Sequence[Path]) -> None:
    """Give files and tell their digests.

    Raises:
        CommandError: One cannot be read, or is refused.
    """
    blobs: list[tuple[Path, Blob]] = []
    with connected(address, tenant) as client:
        for file in files:
            with _shown(output, f"giving {file.name}") as far:
                blobs.append((file, client.put_blob(_readable(file), progress=far)))
            if not output.json:
                output.text(f"{blobs[-1][1].digest}  {file}")
    if output.json:
        output.document({"blobs": [{"file": str(file), **plain(blob)} for file, blob in blobs]})


def upload(
    output: Output,
    address: str,
    tenant: str,
    path: Path,
    *,
    name: str,
    backend: str,
    device: str,
    settings: Mapping[str, str],
) -> None:
    """Give the files of a model and make it known.

    Raises:
        CommandError: They cannot be read, or are refused.
    """
    name = name or model_name(path.absolute().name, folder=path.is_dir())
    with connected(address, tenant) as client, output.status(f"giving {path}") as say:

        def far(file: str, done: int, whole: int) -> None:
            say(f"giving {file}: {size(done)} of {size(whole)}, {done * 100 // max(whole, 1)} %")

        try:
            model = client.upload_model(name, path, backend=backend, device=device, settings=settings, progress=far)
        except ValueError as error:
            raise CommandError(str(error), reason="USAGE") from None
    if output.json:
        output.document(plain(model))
    else:
        output.text(
            f"{model.name} is {model.source} ({size(model.size_bytes)}); ask it: {how_to_ask(model.name, path)}"
        )


def _readable(file: Path) -> Path:
    if not file.is_file():
        raise CommandError(no_file(file), reason="USAGE")
    return file


@contextmanager
def _shown(output: Output, what: str) -> Iterator[Callable[[int, int], None]]:
    """Show how far it is; the function given is told that, in bytes."""
    with output.status(what) as say:
        yield lambda done, whole: say(f"{what}: {size(done)} of {size(whole)}, {done * 100 // max(whole, 1)} %")


def get(output: Output, address: str, tenant: str, digest: str, file: Path) -> None:
    """Read a blob into a file, which is there when all of it is and its digest is right; or onto stdout.

    Raises:
        CommandError: There is none, it is damaged, or what was there before is not its beginning.
    """
    with connected(address, tenant) as client:
        blob = client.get_blob(_whole(client, digest))
        if str(file) == "-":
            for chunk in client.read_blob(blob.digest):
                sys.stdout.buffer.write(chunk)
            sys.stdout.buffer.flush()
            return
        part = file.with_name(f"{file.name}.{blob.digest.removeprefix(SHA256)[:12]}.part")
        with part.open("ab") as into, _shown(output, f"reading into {file.name}") as far:
            for chunk in client.read_blob(blob.digest, offset_bytes=min(into.tell(), blob.size_bytes)):
                into.write(chunk)
                far(into.tell(), blob.size_bytes)
    with part.open("rb") as whole:
        found = SHA256 + file_digest(whole, "sha256").hexdigest()
    if found != blob.digest:
        part.unlink()
        raise CommandError(
            f"{part} began with other bytes: it had digest {found}, and is removed; try again",
            reason="CHECKSUM_MISMATCH",
        )
    part.rename(file)
    if output.json:
        output.document({"file": str(file), **plain(blob)})
    else:
        output.text(f"{blob.digest}  {file}")


def list_blobs(output: Output, address: str, tenant: str) -> None:
    """List the tenant's blobs."""
    with connected(address, tenant) as client:
        blobs = list(client.list_blobs())
    if output.json:
        output.document({"blobs": [plain(blob) for blob in blobs]})
        return
    output.table(
        ("DIGEST", "SIZE", "STATE", "USED", "HELD BY"),
        (
            (
                blob.digest,
                size(blob.size_bytes),
                _state(blob),
                f"{span(max(0.0, time.time() - blob.use_time.ToMilliseconds() / 1000))} ago",
                ", ".join(blob.holders),
            )
            for blob in blobs
        ),
        empty="no blobs; give one with: inferd blobs put FILE",
        gives_way="HELD BY",
    )


def _state(blob: Blob) -> str:
    if blob.state == BlobState.BLOB_STATE_WHOLE:
        return "whole"
    return f"{blob.received_bytes * 100 // max(blob.size_bytes, 1)} %"


def remove(output: Output, address: str, tenant: str, digest: str) -> None:
    """Forget a blob."""
    with connected(address, tenant) as client:
        found = _whole(client, digest)
        client.delete_blob(found)
    if output.json:
        output.document({"digest": found})
    else:
        output.text(f"{found} is gone")


def _whole(client: Client, given: str) -> str:
    """The digest that is meant, of which the beginning is enough.

    Raises:
        CommandError: There is none, or there are several that begin so.
    """
    digits = given.removeprefix(SHA256).lower()
    if len(digits) == HEX_DIGITS:
        return SHA256 + digits
    found = [blob.digest for blob in client.list_blobs() if blob.digest.removeprefix(SHA256).startswith(digits)]
    if not found or not digits:
        raise CommandError(f"there is no blob {given!r}; see: inferd blobs list", reason="BLOB_NOT_FOUND")
    if len(found) > 1:
        shown = ", ".join(found[:SHOWN]) + (", …" if len(found) > SHOWN else "")
        raise CommandError(
            f"{len(found)} digests begin with {given!r}: {shown}; write more of the one meant", reason="USAGE"
        )
    return found[0]
