"""The commands of `inferd` that deal with models, and their options."""

from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from inferd.cli.options import (
    ADDRESS,
    Address,
    BackendOption,
    Class,
    DeviceOption,
    LeaseOption,
    ModelArgument,
    ModelOrPath,
    Output,
    SetOption,
    Tenant,
    Watch,
    data_dir,
    read_pairs,
    read_wanted,
    text_option,
)
from inferd.cli.output import Format, edge
from inferd.cli.source import FORMS
from inferd.cli.usage import ModelCommands

model_app = typer.Typer()
models_app = typer.Typer(
    cls=ModelCommands, invoke_without_command=True, context_settings={"help_option_names": ["-h", "--help"]}
)


@model_app.command("pull")
def _pull(
    source: Annotated[
        str,
        typer.Argument(
            help=escape(f"A name of the catalogue, or {FORMS}."),
            metavar="MODEL|SOURCE",
        ),
    ],
    *,
    name: Annotated[str, text_option(help="Name in the library. Default: the file's.", metavar="NAME")] = "",
    sha256: Annotated[str, text_option(help="Checksum that the file must have.", metavar="HEX")] = "",
    output: Output = Format.TABLE,
) -> None:
    """Fetch a model into the library; an interrupted download goes on where it stopped."""
    with edge(output) as out:
        from inferd.cli.pull import pull

        pull(out, data_dir(), source, name=name, sha256=sha256)


@models_app.callback()
def _models(
    context: typer.Context,
    *,
    everything: Annotated[bool, typer.Option("--all", help="With those of the catalogue that are not pulled.")] = False,
    supported: Annotated[bool, typer.Option("--supported", help="What files may hold instead, by backend.")] = False,
    watch: Watch = False,
    address: Address = ADDRESS,
    output: Output = Format.TABLE,
) -> None:
    """List the models that are known; or give the kernel the files of one."""
    if context.invoked_subcommand is not None:
        return
    with edge(output) as out:
        if supported:
            from inferd.cli.settings import read_settings
            from inferd.cli.supported import list_supported

            list_supported(out, read_settings)
        else:
            from inferd.cli.models import list_models

            list_models(out, address, data_dir(), with_catalogue=everything, watch=watch)


@models_app.command("ls", hidden=True)
@models_app.command("list")
def _list(
    *,
    label: Annotated[
        list[str] | None,
        typer.Option("--label", "-l", help="Only models that have it; may be repeated.", metavar="KEY=VALUE"),
    ] = None,
    watch: Watch = False,
    address: Address = ADDRESS,
    output: Output = Format.TABLE,
) -> None:
    """List the models that are known, as `inferd models` does."""
    with edge(output) as out:
        from inferd.cli.models import list_models

        labels = read_pairs(label, "--label")
        list_models(out, address, data_dir(), with_catalogue=False, labels=labels, watch=watch)


@models_app.command("upload")
def _upload(
    path: Annotated[Path, typer.Argument(help="The model's file, or its folder.", metavar="PATH")],
    *,
    name: Annotated[str, text_option(help="Its name. Default: that of the file or folder.", metavar="NAME")] = "",
    setting: SetOption = None,
    backend: BackendOption = "",
    device: DeviceOption = "",
    address: Address = ADDRESS,
    tenant: Tenant = "",
    output: Output = Format.TABLE,
) -> None:
    """Give a kernel, here or elsewhere, the files of a model; what was interrupted goes on where it stopped."""
    with edge(output) as out:
        from inferd.cli.blobs import upload

        settings = read_pairs(setting, "--set")
        upload(out, address, tenant, path, name=name, backend=backend, device=device, settings=settings)


@model_app.command("load")
def _load(
    model: ModelOrPath,
    *,
    setting: SetOption = None,
    backend: BackendOption = "",
    device: DeviceOption = "",
    lease: LeaseOption = "",
    address: Address = ADDRESS,
    tenant: Tenant = "",
    output: Output = Format.TABLE,
) -> None:
    """Load a model now; under a lease, one instance more that ends with it."""
    with edge(output) as out:
        from inferd.cli.models import load

        wanted = read_wanted(model, backend=backend, device=device, settings=setting)
        load(out, address, tenant, wanted, data_dir=data_dir, lease=lease)


@model_app.command("unload")
def _unload(
    model: ModelArgument,
    *,
    instance: Annotated[
        str | None, typer.Option("--instance", help="Only this one, see `inferd ps`; its tasks go on elsewhere.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="End its tasks instead of refusing.")] = False,
    address: Address = ADDRESS,
    output: Output = Format.TABLE,
) -> None:
    """Unload a model, or one of its instances, and give its memory back."""
    with edge(output) as out:
        from inferd.cli.models import unload

        unload(out, address, model, instance_id=instance, force=force)


@model_app.command("show")
def show_model(
    model: ModelOrPath,
    *,
    digest: Annotated[bool, typer.Option("--digest", help="Read the whole file for its SHA-256.")] = False,
    address: Address = ADDRESS,
    output: Output = Format.TABLE,
) -> None:
    """Tell all of a model: file, digest, metadata, chat template, defaults and settings."""
    with edge(output) as out:
        from inferd.cli.show import show

        show(out, address, read_wanted(model), data_dir(), hashed=digest)


@model_app.command("rm")
def remove_models(
    names: Annotated[list[str], typer.Argument(help="Names of models.", metavar="MODEL...")],
    *,
    drain: Annotated[bool, typer.Option("--drain", help="Wait until their tasks and leases have ended.")] = False,
    force: Annotated[bool, typer.Option("--force", help="End their tasks instead of refusing.")] = False,
    address: Address = ADDRESS,
    output: Output = Format.TABLE,
) -> None:
    """Remove models from the library and from the running kernel; the files of models that were not pulled stay."""
    with edge(output) as out:
        from inferd.cli.remove import remove

        if drain and force:
            raise typer.BadParameter("--drain waits for tasks and --force ends them; leave one of them out")
        remove(out, address, data_dir(), names, drain=drain, force=force)


@model_app.command("ps")
def _ps(*, watch: Watch = False, address: Address = ADDRESS, output: Output = Format.TABLE) -> None:
    """List the loaded models: their workers, devices and memory."""
    with edge(output) as out:
        from inferd.cli.models import ps

        ps(out, address, watch=watch)


@model_app.command("plan")
def _plan(
    model: ModelOrPath,
    *,
    setting: SetOption = None,
    backend: BackendOption = "",
    device: DeviceOption = "",
    address: Address = ADDRESS,
    output: Output = Format.TABLE,
) -> None:
    """Tell what loading a model would take, without doing it; the exit code is 1 when it does not fit."""
    with edge(output) as out:
        from inferd.cli.plan import plan

        wanted = read_wanted(model, backend=backend, device=device, settings=setting)
        plan(out, address, wanted, data_dir=data_dir)


@model_app.command("tokenize")
def _tokenize(
    model: ModelOrPath,
    text: Annotated[str | None, typer.Argument(help="The text. Default: stdin.", metavar="TEXT")] = None,
    *,
    chat: Annotated[bool, typer.Option("--chat", help="As a user's message, with the chat template.")] = False,
    address: Address = ADDRESS,
    output: Output = Format.TABLE,
) -> None:
    """Show the tokens that a model is given for a text."""
    with edge(output) as out:
        from inferd.cli.tokens import tokenize

        tokenize(out, read_wanted(model), text, address=address, data_dir=data_dir, chat=chat)


@model_app.command("embed")
def _embed(
    model: ModelOrPath,
    texts: Annotated[list[str] | None, typer.Argument(help="The texts. Default: stdin.", metavar="TEXT...")] = None,
    *,
    raw: Annotated[bool, typer.Option("--raw", help="Leave a vector as long as it is, instead of 1.")] = False,
    setting: SetOption = None,
    backend: BackendOption = "",
    device: DeviceOption = "",
    address: Address = ADDRESS,
    tenant: Tenant = "",
    output: Output = Format.TABLE,
) -> None:
    """Show the embeddings of texts, pooled as the model's file says."""
    with edge(output) as out:
        from inferd.cli.embed import embed

        wanted = read_wanted(model, backend=backend, device=device, settings=setting)
        embed(out, wanted, texts or (), address=address, tenant=tenant, data_dir=data_dir, normalize=not raw)


@model_app.command("rerank")
def _rerank(
    model: ModelOrPath,
    query: Annotated[str, typer.Argument(help="What is looked for.", metavar="QUERY")],
    documents: Annotated[list[str], typer.Argument(help="The texts to put in order.", metavar="DOCUMENT...")],
    *,
    setting: SetOption = None,
    backend: BackendOption = "",
    device: DeviceOption = "",
    address: Address = ADDRESS,
    tenant: Tenant = "",
    output: Output = Format.TABLE,
) -> None:
    """Put documents in the order of their scores for a query, best first, by a model that gives scores."""
    with edge(output) as out:
        from inferd.cli.embed import rerank

        wanted = read_wanted(model, backend=backend, device=device, settings=setting)
        rerank(out, wanted, query, documents, address=address, tenant=tenant, data_dir=data_dir)


@model_app.command("infer")
def _infer(
    model: ModelOrPath,
    inputs: Annotated[
        list[str] | None,
        typer.Argument(
            help="Each as NAME=VALUE: 1,2,3, a text, a JSON list, @blob:sha256:…, or @FILE: of numpy, of text for a"
            " text, or what the model's recipe takes: a picture, a sound.",
            metavar="NAME=VALUE...",
        ),
    ] = None,
    *,
    only: Annotated[list[str] | None, typer.Option("--only", help="An output to ask for.", metavar="NAME")] = None,
    save: Annotated[
        Path | None,
        typer.Option(help="Write the outputs here: a .npz of numpy, or a .npy for one.", metavar="FILE"),
    ] = None,
    sequence: Annotated[str, text_option(help="The sequence that it belongs to.", metavar="ID")] = "",
    start: Annotated[bool, typer.Option("--start", help="It is the first of its sequence.")] = False,
    end: Annotated[bool, typer.Option("--end", help="It is the last of its sequence.")] = False,
    setting: SetOption = None,
    backend: BackendOption = "",
    device: DeviceOption = "",
    priority: Annotated[Class | None, typer.Option(help="Its class: a higher one goes first.")] = None,
    lease: LeaseOption = "",
    address: Address = ADDRESS,
    tenant: Tenant = "",
    output: Output = Format.TABLE,
) -> None:
    """Give a model of tensors its inputs and show its outputs; `inferd show` tells what it takes."""
    with edge(output) as out:
        from inferd.cli.infer import infer
        from inferd_client import InferSequence

        if (start or end) and not sequence:
            raise typer.BadParameter("there is no sequence; name one", param_hint="--sequence")
        infer(
            out,
            read_wanted(model, backend=backend, device=device, settings=setting),
            read_pairs(inputs, "NAME=VALUE"),
            address=address,
            tenant=tenant,
            data_dir=data_dir,
            outputs=only or (),
            sequence=InferSequence(id=sequence, start=start, end=end) if sequence else None,
            save=save,
            options={"priority": priority.value if priority is not None else None, "lease": lease or None},
        )
