"""The commands of `inferd store` and their options."""

from pathlib import Path
from typing import Annotated

import typer

from inferd.cli.options import ADDRESS, Address, Output
from inferd.cli.output import Format, edge

File = Annotated[
    Path | None, typer.Option("--file", help="The store's file. Default: that of the configuration.", metavar="FILE")
]
Url = Annotated[
    str | None,
    typer.Option(
        "--url",
        help="The store: sqlite:/path or postgresql://…; a password is better kept in PGPASSWORD or ~/.pgpass.",
        metavar="URL",
    ),
]
To = Annotated[
    str | None, typer.Option("--to", help="Copy all that is kept to this store, which must be empty.", metavar="URL")
]

store_app = typer.Typer(
    help="Look after what a kernel keeps: `backup` also while it runs, the others while none does.",
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@store_app.command("check")
def _check(*, file: File = None, url: Url = None, output: Output = Format.TABLE) -> None:
    """Read all that is kept, and change nothing; the exit code is 1 when some of it is damaged."""
    with edge(output) as out:
        from inferd.cli.store import check

        check(out, file, url)


@store_app.command("compact")
def _compact(*, file: File = None, url: Url = None, output: Output = Format.TABLE) -> None:
    """Give back the room of what was dropped."""
    with edge(output) as out:
        from inferd.cli.store import compact

        compact(out, file, url)


@store_app.command("export")
def _export(*, file: File = None, url: Url = None, output: Output = Format.TABLE) -> None:
    """Write all that is kept as lines of JSON: a model or a task each, with its events."""
    with edge(output) as out:
        from inferd.cli.store import export

        export(out, file, url)


@store_app.command("migrate")
def _migrate(*, file: File = None, url: Url = None, to: To = None, output: Output = Format.TABLE) -> None:
    """Bring an older store up to this version, which a kernel does when it starts; or copy it to another one.

    It is copied before, to FILE.schema-N-TIME or a schema of such a name.
    The store of --to gets all or nothing; this one is left as it is.
    """
    with edge(output) as out:
        from inferd.cli.store import migrate

        migrate(out, file, url, to)


@store_app.command("backup")
def _backup(
    path: Annotated[Path, typer.Argument(help="The file to make.", metavar="PATH")],
    *,
    replace: Annotated[bool, typer.Option("--replace", help="Let it take the place of an older backup.")] = False,
    address: Address = ADDRESS,
    file: File = None,
    url: Url = None,
    output: Output = Format.TABLE,
) -> None:
    """Copy all that is kept into a file: by the kernel while it runs, on its host, else by this command.

    --file and --url name a store that no kernel has.
    """
    with edge(output) as out:
        from inferd.cli.backup import backup

        backup(out, address, path, replace=replace, file=file, url=url)


@store_app.command("restore")
def _restore(
    path: Annotated[Path, typer.Argument(help="A backup, or a copy from before a migration.", metavar="BACKUP")],
    *,
    check: Annotated[bool, typer.Option("--check", help="Read all of the backup, and change nothing.")] = False,
    missing_blobs: Annotated[
        bool, typer.Option("--missing-blobs", help="Restore also where blobs are missing or damaged.")
    ] = False,
    file: File = None,
    url: Url = None,
    output: Output = Format.TABLE,
) -> None:
    """Put a backup in the place of the store, while no kernel runs; what is there is set aside, beside it.

    Tasks that had not ended when it was made go on from there. Leases that it has are held for what is left of their
    time; fencing tokens are above all that were given. Blobs are those on this host, or copied from
    BACKUP.blobs; --check looks at BACKUP.blobs alone, and its exit code is 1 when some are missing.
    """
    with edge(output) as out:
        from inferd.cli.backup import restore

        restore(out, path, check=check, missing_blobs=missing_blobs, file=file, url=url)


keys_app = typer.Typer(help="The keys that seal what a kernel keeps.", no_args_is_help=True)
store_app.add_typer(keys_app, name="keys")


@keys_app.command("status")
def _status(*, address: Address = ADDRESS, file: File = None, url: Url = None, output: Output = Format.TABLE) -> None:
    """Tell whether all is sealed, which key wraps the others, and how those of each tenant stand."""
    with edge(output) as out:
        from inferd.cli.store_keys import status

        status(out, address, file, url)


@keys_app.command("rotate")
def _rotate(
    *,
    tenant: Annotated[str | None, typer.Option("--tenant", help="Whose. Default: of all.", metavar="TENANT")] = None,
    wrapping: Annotated[bool, typer.Option("--wrapping", help="A new key that wraps the others.")] = False,
    forget: Annotated[
        bool,
        typer.Option("--forget", help="With --wrapping: the file has no other key, and opens no backup of before."),
    ] = False,
    address: Address = ADDRESS,
    file: File = None,
    url: Url = None,
    output: Output = Format.TABLE,
) -> None:
    """Have new keys seal what is written from now on, also while a kernel runs; what is there is sealed anew.

    With a credential or store.key_command put the new key in front of the old one first, and take that out afterwards.
    """
    with edge(output) as out:
        from inferd.cli.store_keys import turn

        turn(out, address, file, url, tenant=tenant, wrapping=wrapping, forget=forget)


@keys_app.command("shred")
def _shred(
    tenant: Annotated[str, typer.Argument(help="Whose.", metavar="TENANT")],
    *,
    yes: Annotated[bool, typer.Option("--yes", help="It cannot be undone.")] = False,
    address: Address = ADDRESS,
    file: File = None,
    url: Url = None,
    output: Output = Format.TABLE,
) -> None:
    """Drop the keys of a tenant, also while a kernel runs: nobody reads again what is kept of it; that goes, too.

    Its tasks and leases end, and models of its blobs are unloaded.
    """
    with edge(output) as out:
        from inferd.cli.store_keys import drop

        drop(out, address, tenant, file, url, sure=yes)
