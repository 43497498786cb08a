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
from inferd.model_names import NAME_RULE, is_name
from inferd_client.errors import ModelNotFoundError

try:
    from inferd.cli.bundles import archive, exporting, imported, importing, opening, signing
    from inferd.cli.bundles.sealing import Opener, Sealer
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
PASSPHRASE_BYTES = 1 << 10
HERE = ("unix:", "127.0.0.1:", "localhost:", "[::1]:")  # kernels that read the files of this host


class Wish(NamedTuple):
    """What is wanted of an imported model; "" and none where the bundle says it, or the kernel.

    `terms` are what it has to show where it becomes a version of one that is there; `older` whether that may be of an
    older bundle.
    """

    name: str
    backend: str
    device: str
    settings: Mapping[str, str]
    terms: Mapping[str, Any]
    older: bool = False


class Sealing(NamedTuple):
    """Files by which a bundle is sealed, or opened: keys, and a passphrase."""

    keys: Sequence[Path] = ()
    passphrase: Path | None = None

    def sealer(self) -> Sealer | None:
        """What seals; None for nothing.

        Raises:
            CommandError: Both do, or one is not what it should be.
        """
        if self.keys and self.passphrase:
            raise CommandError("a bundle is sealed for a key or by a passphrase; leave one out", reason="USAGE")
        if not self.keys and self.passphrase is None:
            return None
        return Sealer(signing.read_sealing(self.keys[0]) if self.keys else None, self._read())

    def opener(self) -> Opener:
        """What opens.

        Raises:
            CommandError: A file is not what it should be.
        """
        return Opener([signing.read_unsealing(path) for path in self.keys], self._read())

    def _read(self) -> bytes | None:
        if self.passphrase is None:
            return None
        with self.passphrase.open("rb") as file:
            read = file.read(PASSPHRASE_BYTES + 1).rstrip(b"\r\n")
        if not 1 <= len(read) <= PASSPHRASE_BYTES:
            raise CommandError(f"{self.passphrase} has no passphrase of 1 to {PASSPHRASE_BYTES} bytes", reason="USAGE")
        return read


def keygen(output: Output, path: Path, *, sealing: bool) -> None:
    """Make a key and its public half: for signing, or for sealing."""
    private, public = signing.make_pair(path, signing.SEALING if sealing else signing.SIGNING)
    finger = signing.fingerprint(signing.read_sealing(public) if sealing else signing.read_trusted(public))
    if output.json:
        output.document({"key": str(private), "public_key": str(public), "fingerprint": finger})
        return
    does = "opens what is sealed for" if sealing else "signs what is trusted by"
    output.text(f"{private} {does} {public} ({finger}); keep the first from everybody else")


def export(
    output: Output,
    address: str,
    tenant: str,
    name: str,
    *,
    file: Path | None,
    key: Path,
    card: Path | None,
    since: Path | None,
    manifest_file: Path | None,
    sealing: Sealing,
    replace: bool,
) -> None:
    """Write a bundle; with `since`, only what is not in that one, or in the one with that manifest.

    Raises:
        CommandError: A file is there already or is none of what it is to be, or the kernel refuses the model.
    """
    file = file or Path(name.translate(str.maketrans("/:", "=+")) + ENDING)
    signer, described = signing.read_signing(key), None if card is None else (card.name, _read_card(card))
    against, sealer = exporting.read_base(since, signer.public_key()) if since else None, sealing.sealer()
    with connected(address, tenant) as client, output.status(f"reading {name}") as say:
        messages = client.export_model(name, had_pieces=against.had if against else b"")
        told = exporting.hear(messages)
        manifest = exporting.manifest_of(told, described, against)
        with opening.written(file, sealer, replace=replace) as target:
            exporting.write_bundle(
                target,
                manifest,
                signer,
                messages,
                card=described[1] if described else b"",
                progress=lambda each, done: say(f"writing {each}: {size(done)}"),
            )
    if manifest_file is not None:
        manifest_file.write_bytes(manifest.write())
    if str(file) != opening.STANDARD:
        _tell_export(output, file, manifest, signing.fingerprint(signer.public_key()))


def _tell_export(output: Output, file: Path, manifest: Manifest, signer: str) -> None:
    if output.json:
        document = {"file": str(file), "size_bytes": str(file.stat().st_size), "signer": signer}
        output.document(document | _facts(manifest))
        return
    what = manifest.model.name if manifest.base is None else f"what changed of {manifest.model.name}"
    output.text(f"{file} has {what} in {size(file.stat().st_size)}, signed by {signer}")
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
    facts = {
        "name": model.name,
        "version": model.version,
        "time": model.time,
        "backend": model.backend,
        "settings": dict(model.settings),
    }
    given_bytes = sum(file.given_bytes(manifest.piece_bytes) for file in manifest.files)
    base = None if manifest.base is None else {"name": manifest.base.name, "manifest": manifest.base.manifest}
    facts |= {"card": model.card, "left_out": list(model.left_out), "files": files}
    return {**facts, "given_bytes": str(given_bytes), "base": base}


def _read_card(card: Path) -> bytes:
    if not card.is_file() or not 1 <= card.stat().st_size <= CARD_BYTES:
        raise CommandError(f"{card} is no regular file of 1 to {CARD_BYTES} bytes", reason="USAGE")
    return card.read_bytes()


@contextmanager
def _reading(file: Path, trust: Sequence[Path], sealing: Sealing) -> Iterator[BundleReader]:
    keys = [signing.read_trusted(path) for path in trust]
    with opening.opened(file, sealing.opener()) as source:
        yield archive.BundleReader(source, keys, read_settings().bundles)


def check_bundle(output: Output, file: Path, trust: Sequence[Path], *, sealing: Sealing) -> None:
    """Read all of a bundle, and tell what is in it.

    Raises:
        CommandError: It is not signed by who is trusted, or damaged.
    """
    with _reading(file, trust, sealing) as reader, output.status(f"reading {file}"):
        importing.check_all(reader)
    if output.json:
        output.document({"signer": reader.signer, **_facts(reader.manifest)})
        return
    files = ", ".join(f"{each.name} ({size(each.size_bytes)})" for each in reader.manifest.files)
    output.text(f"{file} is whole, signed by {reader.signer}: {reader.manifest.model.name} with {files}")


def import_bundle(
    output: Output,
    address: str,
    tenant: str,
    file: Path,
    trust: Sequence[Path],
    *,
    sealing: Sealing,
    wish: Wish,
    adapters: Path,
) -> None:
    """Give a kernel the model of a bundle.

    Raises:
        CommandError: It is not signed by who is trusted, damaged, or older than the last one, its name stands for
            another model, or the kernel refuses it.
    """
    with _reading(file, trust, sealing) as reader, connected(address, tenant) as client:
        manifest = reader.manifest
        name = wish.name or manifest.model.name
        if manifest.own("adapter") and "adapter" not in wish.settings and not client.address.startswith(HERE):
            raise CommandError(
                f"the bundle has an adapter, which is a file of the kernel's host, and {client.address} is another;"
                " import it there, or give the adapter's path there with --set adapter=PATH",
                reason="USAGE",
            )
        known = _known(client, name)
        if known is not None and not wish.older:
            imported.check_newer(manifest.model, known.labels)
        with output.status(f"reading {file}") as say:

            def far(each: str, done: int, whole: int) -> None:
                say(f"giving {each}: {size(done)} of {size(whole)}")

            source, adapter = importing.give(client, reader, adapters=adapters.absolute(), progress=far)
            settings = {**manifest.model.settings, **({"adapter": str(adapter)} if adapter else {}), **wish.settings}
            say(f"making {name} known")
            model = _make(client, name, source, wish, settings=settings, manifest=manifest, known=known)
    before, kept = known.version if known else 0, _kept(known, settings)
    if output.json:
        document = {"signer": reader.signer, "version_before": before, "model": plain(model)}
        output.document({**document, "kept_settings": kept, "left_out": list(manifest.model.left_out)})
        return
    if not before and any(wish.terms.values()):
        output.note(f"{name} is new here: there was no version that it had to be as good as")
    what = f"version {model.version} of" if before else ""
    output.text(f"{what} {model.name} is {model.source} ({size(model.size_bytes)}), signed by {reader.signer}".strip())
    if kept:
        said = ", ".join(f"{setting}={value}" for setting, value in kept.items())
        output.note(f"keeps {said} of version {before}; --set NAME= takes one away")
    _note_left_out(output, manifest)


def _kept(known: Model | None, settings: Mapping[str, str]) -> dict[str, str]:
    """The settings that a model has still, as neither the bundle nor who imports it says anything of them."""
    before = dict(known.settings) if known is not None else {}
    return {setting: before[setting] for setting in sorted(before.keys() - settings.keys() - {"adapter"})}


def _known(client: Client, name: str) -> Model | None:
    """The model of this name; None where there is none.

    Raises:
        CommandError: It can be no name, or is an alias: what comes would be a version of a model that nobody has named.
    """
    try:
        known = client.get_model(name)
    except ModelNotFoundError:
        if not is_name(name):  # before all its files are given
            raise CommandError(
                f"the name is {name[:140]!r}; it must be {NAME_RULE}: give another one with --name", reason="USAGE"
            ) from None
        return None
    if known.name != name:
        raise CommandError(
            f"{name!r} is an alias of model {known.name!r}; choose another name with --name ({known.name} for a version"
            f" of that model), or take the alias away first (inferd models alias --rm {name})",
            reason="MODEL_EXISTS",
            metadata={"model": known.name},
        )
    return known


def _make(
    client: Client,
    name: str,
    source: str,
    wish: Wish,
    *,
    settings: Mapping[str, str],
    manifest: Manifest,
    known: Model | None,
) -> Model:
    """Make a model known, or give the one of this name another version."""
    sampling, labels = importing.sampling_of(manifest), imported.label_of(manifest.model)
    if known is None:
        return client.create_model(
            name,
            source,
            backend=wish.backend,
            device=wish.device,
            settings={key: value for key, value in settings.items() if value},
            sampling_defaults=sampling,
            labels=labels,
        )
    if "adapter" in known.settings:  # which is a part of what a bundle is, or is not in it
        settings = {"adapter": "", **settings}
    return client.update_model(
        name,
        source=source,
        backend=wish.backend,
        device=wish.device,
        settings=settings,
        sampling_defaults=sampling,
        labels=labels,
        **wish.terms,
    )
