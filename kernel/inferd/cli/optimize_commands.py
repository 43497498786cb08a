"""The command `inferd optimize`."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from inferd.cli.options import ADDRESS, Address, ModelArgument, Output, parse_size
from inferd.cli.output import Format, edge

optimize_app = typer.Typer()


class Target(StrEnum):
    """What is to become better."""

    THROUGHPUT = "throughput"
    LATENCY = "latency"
    MEMORY = "memory"


@optimize_app.command("optimize")
def _optimize(
    model: ModelArgument,
    *,
    text: Annotated[
        Path, typer.Option("--text", help="A text like those that the model is used with.", dir_okay=False, exists=True)
    ],
    target: Annotated[
        Target | None, typer.Option("--target", help="What is to become better. Default: throughput.")
    ] = None,
    weights: Annotated[
        int | None,
        typer.Option(
            "--weights",
            parser=parse_size,
            help='Weights of at most so many bytes, as "90MB": trials tell which layers stay wide.',
            metavar="SIZE",
        ),
    ] = None,
    quality: Annotated[
        str, typer.Option("--quality", help="By how much the perplexity of the text may rise.", metavar="PART")
    ] = "1%",
    agreement: Annotated[
        str,
        typer.Option("--agreement", help="At how many places the likeliest token must stay the same.", metavar="PART"),
    ] = "0%",
    vary: Annotated[
        list[str] | None, typer.Option("--vary", help="A setting to vary. Default: all that can be.", metavar="NAME")
    ] = None,
    trials: Annotated[int | None, typer.Option(help="Most trials. Default: the kernel's bound.", min=2)] = None,
    in_flight: Annotated[int, typer.Option("--in-flight", help="Tasks at once.", min=1, max=64)] = 8,
    prompt_tokens: Annotated[int, typer.Option(help="Tokens of the prompt of each.", min=1, max=4096)] = 128,
    output_tokens: Annotated[int, typer.Option(help="Tokens that each gives.", min=2, max=4096)] = 64,
    text_tokens: Annotated[
        int | None, typer.Option(help="Tokens of the text that quality is measured on. Default: the kernel's.", min=64)
    ] = None,
    seed: Annotated[int, typer.Option(help="In which order values are tried.", min=0)] = 0,
    report: Annotated[
        Path | None, typer.Option("--report", help="Write what was found: .html, .svg or .json.", dir_okay=False)
    ] = None,
    apply: Annotated[bool, typer.Option("--apply", help="Roll out what was found as a new version.")] = False,
    address: Address = ADDRESS,
    output: Output = Format.TABLE,
) -> None:
    """Try settings of a model on the kernel's host, and tell which serve a target best, and what they cost."""
    with edge(output) as out:
        from inferd.cli.optimizing import optimize, read_part

        wanted = {
            "target": None if target is None else target.value,
            "most_weights_bytes": weights,
            "most_loss": read_part(quality, "--quality"),
            "least_agreement": read_part(agreement, "--agreement"),
            "vary": vary or (),
            "trials": trials,
            "in_flight": in_flight,
            "prompt_tokens": prompt_tokens,
            "output_tokens": output_tokens,
            "text_tokens": text_tokens,
            "seed": seed,
        }
        optimize(out, address, model, text=text, wanted=wanted, report_to=report, apply=apply)
