"""The commands of `inferd models` that carry a model as one signed file to where there is no network."""

from pathlib import Path
from typing import Annotated

import typer

from inferd.cli.options import (
    ADDRESS,
    Address,
    BackendOption,
    DeviceOption,
    ModelArgument,
    Output,
    SetOption,
    Tenant,
    data_dir,
    read_pairs,
    text_option,
)
from inferd.cli.output import Format, edge
from inferd.cli.version_commands import CanaryOption, ProbeOption

Replace = Annotated[bool, typer.Option("--replace", help="Replace the file that is there.")]
Passphrase = Annotated[
    Path | None, typer.Option("--passphrase-file", help="A file with the passphrase that seals it.", metavar="FILE")
]

bundle_app = typer.Typer()


@bundle_app.command("keygen")
def _keygen(
    path: Annotated[Path, typer.Argument(help="Makes PATH.pem, the key, and PATH.pub.", metavar="PATH")],
    *,
    sealing: Annotated[bool, typer.Option("--sealing", help="For who opens sealed bundles, not who signs.")] = False,
    output: Output = Format.TABLE,
) -> None:
    """Make a key that signs bundles, and its public half, which those trust who import them."""
    with edge(output) as out:
        from inferd.cli.bundle import keygen

        keygen(out, path, sealing=sealing)


@bundle_app.command("export")
def _export(
    model: ModelArgument,
    *,
    key: Annotated[Path, typer.Option(help="The key that signs, see `inferd models keygen`.", metavar="KEY.pem")],
    file: Annotated[
        Path | None, typer.Option("--file", "-f", help="Default: NAME.inferd; - for stdout.", metavar="FILE")
    ] = None,
    card: Annotated[Path | None, typer.Option(help="A text that tells of the model.", metavar="FILE")] = None,
    since: Annotated[
        Path | None,
        typer.Option(help="Only what is not in this bundle, or the one of this manifest.", metavar="BUNDLE|MANIFEST"),
    ] = None,
    manifest: Annotated[
        Path | None, typer.Option(help="Write the manifest here, too, for --since later.", metavar="FILE")
    ] = None,
    seal_to: Annotated[
        Path | None, typer.Option(help="Only the key of this public half opens it.", metavar="KEY.pub")
    ] = None,
    passphrase: Passphrase = None,
    replace: Replace = False,
    address: Address = ADDRESS,
    tenant: Tenant = "",
    output: Output = Format.TABLE,
) -> None:
    """Write a model with its files, settings and adapter as one signed file."""
    with edge(output, errors=str(file) == "-") as out:
        from inferd.cli.bundle import Sealing, export

        export(
            out,
            address,
            tenant,
            model,
            file=file,
            key=key,
            card=card,
            since=since,
            manifest_file=manifest,
            sealing=Sealing([seal_to] if seal_to else [], passphrase),
            replace=replace,
        )


@bundle_app.command("import")
def _import(
    file: Annotated[Path, typer.Argument(help="The bundle; - for stdin.", metavar="FILE")],
    *,
    trust: Annotated[
        list[Path], typer.Option(help="Public key of who may have signed it; may be repeated.", metavar="KEY.pub")
    ],
    name: Annotated[str, text_option(help="Its name. Default: that which it had.", metavar="NAME")] = "",
    setting: SetOption = None,
    backend: BackendOption = "",
    device: DeviceOption = "",
    unseal: Annotated[
        list[Path] | None, typer.Option(help="A key that opens a sealed bundle; may be repeated.", metavar="KEY.pem")
    ] = None,
    passphrase: Passphrase = None,
    probe: ProbeOption = None,
    canary: CanaryOption = "",
    older: Annotated[
        bool, typer.Option("--allow-older", help="Also one of before the one that was imported last.")
    ] = False,
    check: Annotated[bool, typer.Option("--check", help="Only check it, all of it; no kernel is needed.")] = False,
    address: Address = ADDRESS,
    tenant: Tenant = "",
    output: Output = Format.TABLE,
) -> None:
    """Give a kernel the model of a bundle; where it has one of this name, the bundle becomes a version of that."""
    with edge(output) as out:
        from inferd.cli.bundle import Sealing, Wish, check_bundle, import_bundle
        from inferd.cli.rollout import read_canary, read_probe

        sealing = Sealing(unseal or [], passphrase)
        if check:
            check_bundle(out, file, trust, sealing=sealing)
            return
        wish = Wish(
            name=name,
            backend=backend,
            device=device,
            settings=read_pairs(setting, "--set"),
            terms={"probe": read_probe(probe), "canary": read_canary(canary)},
            older=older,
        )
        adapters = data_dir() / "adapters"
        import_bundle(out, address, tenant, file, trust, sealing=sealing, wish=wish, adapters=adapters)
