"""`inferd models keygen`, `export` and `import`."""

from __future__ import annotations

from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from inferd.cli.amounts import size
from inferd.cli.kernel import connected
from inferd.cli.output import CommandError
from inferd.cli.plain import plain
from inferd.cli.settings import read_settings
from inferd_client.errors import ModelNotFoundError

try:
    from inferd.cli.bundles import archive, exporting, importing, opening, signing
except ImportError as error:
    if (error.name or "").partition(".")[0] != "cryptography":
        raise
    raise CommandError(
        'bundles are signed with cryptography: pip install "inferd[auth]"', reason="PACKAGE_MISSING"
    ) from None

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from inferd.cli.bundles.archive import BundleReader
    from inferd.cli.bundles.manifest import Manifest
    from inferd.cli.output import Output
    from inferd_api.v1.model_pb2 import Model
    from inferd_client import Client

ENDING = ".inferd"
CARD_BYTES = 1 << 20
HERE = ("unix:", "127.0.0.1:", "localhost:", "[::1]:")  # kernels that read the files of this host


class Wish(NamedTuple):
    """What is wanted of an imported model; "" and none where the bundle says it, or the kernel."""

    name: str
    backend: str
    device: str
    settings: Mapping[str, str]


def keygen(output: Output, path: Path) -> None:
    """Make a key and its public half."""
    private, public = signing.make_pair(path, signing.SIGNING)
    finger = signing.fingerprint(signing.read_trusted(public))
    if output.json:
        output.document({"key": str(private), "public_key": str(public), "fingerprint": finger})
        return
    output.text(f"{private} signs (keep it from everybody else); {public} is what others trust: {finger}")


def export(
    output: Output,
    address: str,
    tenant: str,
    name: str,
    *,
    file: Path | None,
    key: Path,
    card: Path | None,
    replace: bool,
) -> None:
    """Write a bundle.

    Raises:
        CommandError: A file is there already or is none of what it is to be, or the kernel refuses the model.
    """
    file = file or Path(name.translate(str.maketrans("/:", "=+")) + ENDING)
    signer, described = signing.read_signing(key), None if card is None else (card.name, _read_card(card))
    with connected(address, tenant) as client, output.status(f"reading {name}") as say:
        messages = client.export_model(name)
        told = exporting.hear(messages)
        manifest = exporting.manifest_of(told, described, None)
        with opening.written(file, replace=replace) as target:
            exporting.write_bundle(
                target,
                manifest,
                signer,
                messages,
                card=described[1] if described else b"",
                progress=lambda each, done: say(f"writing {each}: {size(done)}"),
            )
    if str(file) != opening.STANDARD:
        _tell_export(output, file, manifest, signing.fingerprint(signer.public_key()))


def _tell_export(output: Output, file: Path, manifest: Manifest, signer: str) -> None:
    if output.json:
        document = {"file": str(file), "size_bytes": str(file.stat().st_size), "signer": signer}
        output.document(document | _facts(manifest))
        return
    output.text(f"{file} has {manifest.model.name} in {size(file.stat().st_size)}, signed by {signer}")
    _note_left_out(output, manifest)


def _note_left_out(output: Output, manifest: Manifest) -> None:
    if left_out := manifest.model.left_out:
        output.note(f"not in it, as they name files of the host that it is from: the settings {', '.join(left_out)}")


def _facts(manifest: Manifest) -> dict[str, Any]:
    model = manifest.model
    files = [
        {"name": file.name, "sha256": file.sha256, "size_bytes": str(file.size_bytes), "setting": file.setting}
        for file in manifest.files
    ]
    facts = {"name": model.name, "version": model.version, "backend": model.backend, "settings": dict(model.settings)}
    return {**facts, "card": model.card, "left_out": list(model.left_out), "files": files}


def _read_card(card: Path) -> bytes:
    if not card.is_file() or not 1 <= card.stat().st_size <= CARD_BYTES:
        raise CommandError(f"{card} is no file of 1 to {CARD_BYTES} bytes", reason="USAGE")
    return card.read_bytes()


@contextmanager
def _reading(file: Path, trust: Sequence[Path]) -> Iterator[BundleReader]:
    keys = [signing.read_trusted(path) for path in trust]
    with opening.opened(file) as source:
        yield archive.BundleReader(source, keys, read_settings().bundles)


def check_bundle(output: Output, file: Path, trust: Sequence[Path]) -> None:
    """Read all of a bundle, and tell what is in it.

    Raises:
        CommandError: It is not signed by who is trusted, or damaged.
    """
    with _reading(file, trust) as reader, output.status(f"reading {file}"):
        importing.check_all(reader)
    if output.json:
        output.document({"signer": reader.signer, **_facts(reader.manifest)})
        return
    files = ", ".join(f"{each.name} ({size(each.size_bytes)})" for each in reader.manifest.files)
    output.text(f"{file} is whole, signed by {reader.signer}: {reader.manifest.model.name} with {files}")


def import_bundle(
    output: Output, address: str, tenant: str, file: Path, trust: Sequence[Path], *, wish: Wish, adapters: Path
) -> None:
    """Give a kernel the model of a bundle.

    Raises:
        CommandError: It is not signed by who is trusted, or damaged, or the kernel refuses it.
    """
    with _reading(file, trust) as reader, connected(address, tenant) as client:
        manifest = reader.manifest
        name = wish.name or manifest.model.name
        if manifest.own("adapter") and "adapter" not in wish.settings and not client.address.startswith(HERE):
            raise CommandError(
                f"the bundle has an adapter, which is a file of the kernel's host, and {client.address} is another;"
                " import it there, or give the adapter's path there with --set adapter=PATH",
                reason="USAGE",
            )
        with output.status(f"reading {file}") as say:

            def far(each: str, done: int, whole: int) -> None:
                say(f"giving {each}: {size(done)} of {size(whole)}")

            source, adapter = importing.give(client, reader, adapters=adapters.absolute(), progress=far)
            settings = {**manifest.model.settings, **({"adapter": str(adapter)} if adapter else {}), **wish.settings}
            say(f"making {name} known")
            model, before = _make(client, name, source, wish, settings=settings, manifest=manifest)
    if output.json:
        document = {"signer": reader.signer, "version_before": before, "model": plain(model)}
        output.document({**document, "left_out": list(manifest.model.left_out)})
        return
    what = f"version {model.version} of" if before else ""
    output.text(f"{what} {model.name} is {model.source} ({size(model.size_bytes)}), signed by {reader.signer}".strip())
    _note_left_out(output, manifest)


def _make(
    client: Client, name: str, source: str, wish: Wish, *, settings: Mapping[str, str], manifest: Manifest
) -> tuple[Model, int]:
    """Make a model known, or give the one of this name another version; and the version that served before."""
    sampling = importing.sampling_of(manifest)
    try:
        before = client.get_model(name).version
    except ModelNotFoundError:
        model = client.create_model(
            name,
            source,
            backend=wish.backend,
            device=wish.device,
            settings={key: value for key, value in settings.items() if value},
            sampling_defaults=sampling,
        )
        return model, 0
    model = client.update_model(
        name, source=source, backend=wish.backend, device=wish.device, settings=settings, sampling_defaults=sampling
    )
    return model, before
