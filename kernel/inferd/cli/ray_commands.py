"""`inferd ray`, and what `inferd serve` takes of it: options."""

from pathlib import Path
from typing import Annotated

import typer

from inferd.cli.options import ADDRESS, Address, Output, text_option
from inferd.cli.output import Format, edge

HOSTS = text_option(
    "--hosts",
    help="Hosts of a Ray cluster: ray:auto, ray:HOST:PORT or ray://HOST:PORT. See docs/ray.md.",
    metavar="RAY",
)

ray_app = typer.Typer()


@ray_app.command("ray")
def _ray(
    cluster: Annotated[
        str, typer.Argument(help="The cluster: ray:auto, ray:HOST:6379 or ray://HOST:10001.", metavar="RAY")
    ] = "ray:auto",
    *,
    join: Annotated[
        str,
        text_option(
            "--join",
            help="Where agents on the nodes reach the kernel, as tls:HOST:PORT. Default: --address.",
            metavar="A",
        ),
    ] = "",
    config: Annotated[Path | None, typer.Option(help="The configuration, a TOML file.", metavar="FILE")] = None,
    parent: Annotated[int | None, typer.Option(hidden=True)] = None,
    address: Address = ADDRESS,
    output: Output = Format.TABLE,
) -> None:
    """Keep an agent of a kernel on each node of a Ray cluster, until Ctrl-C (`inferd serve --hosts` starts this)."""
    with edge(output) as out:
        from inferd.cli.ray import keep_agents
        from inferd.cli.serve import end_with_parent
        from inferd.cli.settings import read_settings

        if parent is not None:
            end_with_parent(parent)
        keep_agents(out, read_settings(config=config), cluster, address=address, join=join)
