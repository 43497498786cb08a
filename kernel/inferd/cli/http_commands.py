"""`inferd http`, and what `inferd serve` takes of it: options."""

from pathlib import Path
from typing import Annotated

import typer

from inferd.cli.options import ADDRESS, Address, Output, text_option
from inferd.cli.output import Format, edge

HTTP = text_option(
    "--http",
    help='Serve OpenAI\'s and Ollama\'s HTTP, too, at HOST:PORT; "on" for 127.0.0.1:7413, "off": not. docs/http.md.',
    metavar="HOST:PORT",
)

http_app = typer.Typer()


@http_app.command("http")
def _http(
    *,
    listen: Annotated[
        str, text_option("--listen", help="Where to listen. Default 127.0.0.1:7413.", metavar="HOST:PORT")
    ] = "",
    keyless: Annotated[
        bool, typer.Option("--keyless", help="Let every program of this host call without a key, as Ollama does.")
    ] = False,
    config: Annotated[Path | None, typer.Option(help="The configuration, a TOML file.", metavar="FILE")] = None,
    parent: Annotated[int | None, typer.Option(hidden=True)] = None,
    address: Address = ADDRESS,
    output: Output = Format.TABLE,
) -> None:
    """Serve OpenAI's and Ollama's HTTP for a kernel, until Ctrl-C (`inferd serve --http` starts this)."""
    with edge(output) as out:
        from inferd.cli.http import serve_http
        from inferd.cli.serve import end_with_parent
        from inferd.cli.settings import read_settings

        if parent is not None:
            end_with_parent(parent)
        given = {"listen": listen, "keyless": keyless}
        http = {name: value for name, value in given.items() if value}
        serve_http(out, read_settings(config=config, **({"http": http} if http else {})), address=address)
