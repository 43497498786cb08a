"""The commands of `inferd index` and `inferd ask`, and their options."""

from pathlib import Path
from typing import Annotated

import typer

from inferd.cli.options import ADDRESS, Address, Output, Tenant, text_option
from inferd.cli.output import Format, edge

NameArgument = Annotated[str, typer.Argument(help="The index.", metavar="INDEX")]
Count = Annotated[int, typer.Option("--count", "-k", help="Most passages.", min=1, max=100, metavar="N")]
Mode = Annotated[
    str, text_option("--mode", help="vector, lexical or hybrid. Default: hybrid where it can.", metavar="MODE")
]
Filters = Annotated[
    list[str] | None,
    typer.Option("--where", help="A condition, as year>=2020 or lang=en; all must hold.", metavar="CONDITION"),
]

index_app = typer.Typer(
    help="Indexes: documents that are found by words and by what they mean.",
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@index_app.command("create")
def _create(
    name: NameArgument,
    *,
    model: Annotated[
        str, text_option("--model", help="Makes vectors. Default: none, found by words alone.", metavar="MODEL")
    ] = "",
    fields: Annotated[
        list[str] | None,
        typer.Option("--field", help="A field to filter by: text, number or bool.", metavar="NAME=TYPE"),
    ] = None,
    size: Annotated[
        int, typer.Option("--chunk-size", help="Most characters of a chunk.", min=32, max=100_000, metavar="N")
    ] = 800,
    overlap: Annotated[
        int, typer.Option("--chunk-overlap", help="About how far chunks overlap, in characters.", min=0, metavar="N")
    ] = 0,
    description: Annotated[
        str, text_option("--description", help="What people should know of it.", metavar="TEXT")
    ] = "",
    address: Address = ADDRESS,
    tenant: Tenant = "",
    output: Output = Format.TABLE,
) -> None:
    """Make an index without documents."""
    with edge(output) as out:
        from inferd.cli.indexes import create

        options = {"chunk_size": size, "chunk_overlap": overlap, "description": description}
        create(out, address, tenant, name, model=model, fields=fields or [], options=options)


@index_app.command("add")
def _add(
    name: NameArgument,
    files: Annotated[
        list[Path] | None,
        typer.Argument(help="Texts, Markdown, HTML and PDF, or JSON Lines of documents.", metavar="FILE…"),
    ] = None,
    *,
    dataset: Annotated[str, text_option("--dataset", help="Add the rows of a dataset.", metavar="NAME[@VERSION]")] = "",
    column: Annotated[str, text_option("--column", help="Of the rows, what they say.", metavar="COLUMN")] = "text",
    id_column: Annotated[
        str, text_option("--id-column", help="Of the rows, their ids. Default: their numbers.", metavar="COLUMN")
    ] = "",
    address: Address = ADDRESS,
    tenant: Tenant = "",
    output: Output = Format.TABLE,
) -> None:
    """Add documents, or replace those of the same ids. The id of a file is its path as it is given.

    A line of JSON Lines has `id`, `text`, and perhaps `title` and `metadata`.
    """
    with edge(output) as out:
        from inferd.cli.indexes import add

        add(out, address, tenant, name, files or [], rows=(dataset, column, id_column))


@index_app.command("search")
def _search(
    name: NameArgument,
    text: Annotated[str, typer.Argument(help="What is looked for.", metavar="TEXT")],
    *,
    count: Count = 5,
    mode: Mode = "",
    filters: Filters = None,
    address: Address = ADDRESS,
    tenant: Tenant = "",
    output: Output = Format.TABLE,
) -> None:
    """Show the passages that fit a text best."""
    with edge(output) as out:
        from inferd.cli.indexes import search

        search(out, address, tenant, name, text, count=count, mode=mode, filters=filters or [])


@index_app.command("list")
def _list(*, address: Address = ADDRESS, tenant: Tenant = "", output: Output = Format.TABLE) -> None:
    """List indexes."""
    with edge(output) as out:
        from inferd.cli.indexes import list_indexes

        list_indexes(out, address, tenant)


@index_app.command("show")
def _show(
    name: NameArgument,
    document: Annotated[str, typer.Argument(help="Show this document of it.", metavar="[ID]")] = "",
    *,
    address: Address = ADDRESS,
    tenant: Tenant = "",
    output: Output = Format.TABLE,
) -> None:
    """Show an index, or the text of a document in it."""
    with edge(output) as out:
        from inferd.cli.indexes import show

        show(out, address, tenant, name, document)


@index_app.command("rm")
def _remove(
    name: NameArgument,
    documents: Annotated[
        list[str] | None, typer.Argument(help="Only these documents. Default: all of the index.", metavar="ID…")
    ] = None,
    *,
    address: Address = ADDRESS,
    tenant: Tenant = "",
    output: Output = Format.TABLE,
) -> None:
    """Forget an index, or some documents of it."""
    with edge(output) as out:
        from inferd.cli.indexes import remove

        remove(out, address, tenant, name, documents or [])


ask_app = typer.Typer()


@ask_app.command("ask")
def _ask(
    name: NameArgument,
    question: Annotated[str, typer.Argument(help="The question.", metavar="QUESTION")],
    *,
    model: Annotated[str, text_option("--model", help="The language model that answers.", metavar="MODEL")],
    count: Count = 5,
    mode: Mode = "",
    filters: Filters = None,
    most_tokens: Annotated[
        int, typer.Option("--most-tokens", help="Most tokens of the answer.", min=16, max=8192, metavar="N")
    ] = 512,
    address: Address = ADDRESS,
    tenant: Tenant = "",
    output: Output = Format.TABLE,
) -> None:
    """Answer a question from the documents of an index, and show what the answer rests on."""
    with edge(output) as out:
        from inferd.cli.indexes import ask

        options = {"model": model, "count": count, "mode": mode, "most_tokens": most_tokens}
        ask(out, address, tenant, name, question, filters=filters or [], options=options)
