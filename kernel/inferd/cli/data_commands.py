"""The commands of `inferd data` and their options."""

from pathlib import Path
from typing import Annotated

import typer

from inferd.cli.options import ADDRESS, Address, Class, Output, Tenant, text_option
from inferd.cli.output import Format, edge

NameArgument = Annotated[
    str, typer.Argument(help="The dataset, as reviews, or one version of it, as reviews@3.", metavar="NAME[@VERSION]")
]
Retention = Annotated[
    float | None,
    typer.Option(
        "--retention", help="Forget it when it was not used for so many seconds. Default: never.", min=1, metavar="S"
    ),
]
Form = Annotated[
    str, text_option("--form", help="jsonl, csv, tsv, parquet, arrow or text. Default: as names end.", metavar="FORM")
]

data_app = typer.Typer(
    help="Datasets: tables of data that the kernel keeps, by name and version.",
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@data_app.command("add")
def _add(
    name: Annotated[str, typer.Argument(help="Name of the dataset.", metavar="NAME")],
    files: Annotated[list[Path], typer.Argument(help="JSON Lines, CSV, Parquet, Arrow or text.", metavar="FILE…")],
    *,
    form: Form = "",
    types: Annotated[
        list[str] | None, typer.Option("--type", help="The type of a column, as zip=string.", metavar="COLUMN=TYPE")
    ] = None,
    retention_s: Retention = None,
    address: Address = ADDRESS,
    tenant: Tenant = "",
    output: Output = Format.TABLE,
) -> None:
    """Make a version of files; one that was interrupted goes on where it stopped."""
    with edge(output) as out:
        from inferd.cli.data import add

        add(out, address, tenant, name, files, form=form, types=types or [], retention_s=retention_s)


@data_app.command("list")
def _list(*, address: Address = ADDRESS, tenant: Tenant = "", output: Output = Format.TABLE) -> None:
    """List datasets, the highest version of each first."""
    with edge(output) as out:
        from inferd.cli.data import list_datasets

        list_datasets(out, address, tenant)


@data_app.command("show")
def _show(
    name: NameArgument, *, address: Address = ADDRESS, tenant: Tenant = "", output: Output = Format.TABLE
) -> None:
    """Show the columns of a dataset, what is known of their values, and what it was made from."""
    with edge(output) as out:
        from inferd.cli.data import show

        show(out, address, tenant, name)


@data_app.command("head")
def _head(
    name: NameArgument,
    *,
    count: Annotated[int, typer.Option("-n", "--rows", help="How many rows.", min=1, max=10_000, metavar="N")] = 10,
    address: Address = ADDRESS,
    tenant: Tenant = "",
    output: Output = Format.TABLE,
) -> None:
    """Show the first rows of a dataset."""
    with edge(output) as out:
        from inferd.cli.data import head

        head(out, address, tenant, name, count)


@data_app.command("split")
def _split(
    name: NameArgument,
    shares: Annotated[list[str], typer.Argument(help="As train=0.9 test=0.1; together 1.", metavar="SHARE=FRACTION…")],
    *,
    seed: Annotated[int, typer.Option(help="Another one is another split.", metavar="N")] = 0,
    by: Annotated[
        list[str] | None, typer.Option(help="A column whose values go together. Default: all.", metavar="COLUMN")
    ] = None,
    retention_s: Retention = None,
    address: Address = ADDRESS,
    tenant: Tenant = "",
    output: Output = Format.TABLE,
) -> None:
    """Make a dataset of each share of the rows: NAME.train, NAME.test. A row stays where it is whatever comes."""
    with edge(output) as out:
        from inferd.cli.data import split

        split(out, address, tenant, name, shares, seed=seed, by=by or [], retention_s=retention_s)


@data_app.command("map")
def _map(
    name: NameArgument,
    function: Annotated[str, typer.Argument(help="The function, as clean or clean@1.", metavar="FUNCTION[@VERSION]")],
    into: Annotated[str, typer.Argument(help="Name of the new dataset.", metavar="INTO")],
    *,
    column: Annotated[str, text_option("--column", help="Whose values it is called for.", metavar="COLUMN")] = "text",
    result: Annotated[
        str,
        text_option(
            "--result",
            help="Column of what it gives. Default: the function's name.",
            metavar="COLUMN",
            show_default=False,
        ),
    ] = "",
    parameter: Annotated[
        str, text_option("--parameter", help="Parameter that is given the value.", metavar="NAME", show_default=False)
    ] = "",
    given: Annotated[
        str, text_option("--input", help="Other parameters, a JSON object; @FILE reads one.", metavar="JSON")
    ] = "{}",
    in_flight: Annotated[int, typer.Option(help="Most tasks at once.", min=1, max=256, metavar="N")] = 4,
    skip_failed: Annotated[
        bool, typer.Option("--skip-failed", help="Rows for which it fails become null and are counted.")
    ] = False,
    priority: Annotated[Class, typer.Option(help="Class of the tasks.")] = Class.LOW,
    retention_s: Retention = None,
    address: Address = ADDRESS,
    tenant: Tenant = "",
    output: Output = Format.TABLE,
) -> None:
    """Call a function for each value of a column, and make a new dataset; interrupted, it goes on where it stopped."""
    with edge(output) as out:
        from inferd.cli.data import map_function

        map_function(
            out,
            address,
            tenant,
            name,
            function,
            given=given,
            column=column,
            into=into,
            result=result,
            parameter=parameter,
            in_flight=in_flight,
            skip_failed=skip_failed,
            priority=priority.value,
            retention_s=retention_s,
        )


@data_app.command("dedupe")
def _dedupe(
    name: NameArgument,
    into: Annotated[str, typer.Argument(help="Name of the new dataset.", metavar="INTO")],
    *,
    column: Annotated[str, text_option("--column", help="The texts that are looked at.", metavar="COLUMN")] = "text",
    retention_s: Retention = None,
    address: Address = ADDRESS,
    tenant: Tenant = "",
    output: Output = Format.TABLE,
) -> None:
    """Make a dataset without the rows whose text stands in one before; case and white space do not count."""
    with edge(output) as out:
        from inferd.cli.data import dedupe

        dedupe(out, address, tenant, name, into=into, column=column, retention_s=retention_s)


@data_app.command("export")
def _export(
    name: NameArgument,
    file: Annotated[Path, typer.Argument(help="Where it is written; - for stdout.", metavar="FILE")],
    *,
    form: Form = "",
    address: Address = ADDRESS,
    tenant: Tenant = "",
    output: Output = Format.TABLE,
) -> None:
    """Write a dataset into a file."""
    with edge(output) as out:
        from inferd.cli.data import export

        export(out, address, tenant, name, file, form=form)


@data_app.command("rm")
def _remove(
    name: NameArgument, *, address: Address = ADDRESS, tenant: Tenant = "", output: Output = Format.TABLE
) -> None:
    """Forget a version of a dataset, or all versions of a name."""
    with edge(output) as out:
        from inferd.cli.data import remove

        remove(out, address, tenant, name)
