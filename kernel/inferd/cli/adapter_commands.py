"""The commands of `inferd adapters` and their options."""

from typing import Annotated

import typer

from inferd.cli.options import ADDRESS, Address, Output, text_option
from inferd.cli.output import Format, edge

ModelArgument = Annotated[str, typer.Argument(help="Name of the model.", metavar="MODEL")]
NameArgument = Annotated[str, typer.Argument(help="Name of the adapter, by which tasks ask for it.", metavar="NAME")]
PathArgument = Annotated[str, typer.Argument(help="Its GGUF file, or its folder of the peft package.", metavar="PATH")]
Digest = Annotated[str, text_option("--digest", help="What its files must hold, sha256:….", metavar="DIGEST")]
Replace = Annotated[bool, typer.Option("--replace", help="Take the place of another one of this name.")]

adapters_app = typer.Typer(
    help="Adapters (LoRA) of models, loaded while they serve.",
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@adapters_app.command("load")
def _load(
    model: ModelArgument,
    name: NameArgument,
    path: PathArgument,
    *,
    digest: Digest = "",
    replace: Replace = False,
    address: Address = ADDRESS,
    output: Output = Format.TABLE,
) -> None:
    """Make an adapter one of a model's: tasks ask for it by its name."""
    with edge(output) as out:
        from inferd.cli.adapters import load

        load(out, address, model, name, path, digest=digest, replace=replace)


@adapters_app.command("list")
def _ls(model: ModelArgument, *, address: Address = ADDRESS, output: Output = Format.TABLE) -> None:
    """List the adapters of a model."""
    with edge(output) as out:
        from inferd.cli.adapters import list_adapters

        list_adapters(out, address, model)


@adapters_app.command("rm")
def _rm(model: ModelArgument, name: NameArgument, *, address: Address = ADDRESS, output: Output = Format.TABLE) -> None:
    """Take an adapter from a model; tasks that run with it end with it."""
    with edge(output) as out:
        from inferd.cli.adapters import remove

        remove(out, address, model, name)
