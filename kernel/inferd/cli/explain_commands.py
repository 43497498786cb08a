"""The command `inferd explain`."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from inferd.cli.options import (
    ADDRESS,
    Address,
    Class,
    LeaseOption,
    ModelOrPath,
    Output,
    Tenant,
    data_dir,
    read_wanted,
    text_option,
)
from inferd.cli.output import Format, edge

explain_app = typer.Typer()


class Method(StrEnum):
    """How scores are found."""

    LEAVE_ONE_OUT = "leave-one-out"
    SHAPLEY = "shapley"
    GRADIENTS = "gradients"
    ATTENTION = "attention"
    EXAMPLES = "examples"


class Unit(StrEnum):
    """What texts are cut into."""

    WORD = "word"
    SENTENCE = "sentence"
    MESSAGE = "message"


@explain_app.command("explain")
def _explain(
    model: ModelOrPath,
    prompt: Annotated[
        str | None, typer.Argument(help="What was asked; without it, what stdin gives.", metavar="PROMPT")
    ] = None,
    *,
    answer: Annotated[
        str, text_option("--answer", help="The answer to explain. Default: the model's own.", metavar="TEXT")
    ] = "",
    against: Annotated[
        str, text_option("--against", help="Explain why the answer and not this one.", metavar="TEXT")
    ] = "",
    method: Annotated[Method, typer.Option("--method", help="How scores are found.")] = Method.LEAVE_ONE_OUT,
    unit: Annotated[Unit, typer.Option("--unit", help="What texts are cut into.")] = Unit.WORD,
    span: Annotated[
        list[str] | None,
        typer.Option(
            "--span", help="A part of the prompt, in bytes; instead of --unit; may be repeated.", metavar="A:B"
        ),
    ] = None,
    system: Annotated[str, typer.Option(help="System message of the conversation.", metavar="TEXT")] = "",
    raw: Annotated[
        bool, typer.Option("--raw", help="Continue the text as it stands, without the chat template.")
    ] = False,
    samples: Annotated[
        int | None, typer.Option(help="Orders that shapley draws, an even number. Default 16.", min=2, metavar="N")
    ] = None,
    seed: Annotated[int, typer.Option(help="Of all that is drawn.", min=0)] = 0,
    random_orders: Annotated[
        int | None,
        typer.Option(help="Random orders that curves are held against; 0 for no curves. Default 4.", min=0, max=64),
    ] = None,
    alternatives: Annotated[
        int | None, typer.Option(help="Tokens told in the place of each of the answer. Default 5.", min=0, max=20)
    ] = None,
    max_answer_tokens: Annotated[
        int | None, typer.Option(help="Most tokens of the model's own answer. Default 32.", min=1, metavar="N")
    ] = None,
    steps: Annotated[
        int | None, typer.Option(help="Points that gradients are taken at. Default 16.", min=1, metavar="N")
    ] = None,
    near: Annotated[
        str,
        text_option(
            "--near", help="Tell the nearest examples of an index too, or with --embed of a dataset.", metavar="NAME"
        ),
    ] = "",
    embed: Annotated[
        str, text_option("--embed", help="A model that makes vectors of the texts of a dataset.", metavar="MODEL")
    ] = "",
    column: Annotated[
        str, text_option("--column", help="The column of a dataset with its texts. Default: text.", metavar="NAME")
    ] = "",
    count: Annotated[
        int | None, typer.Option(help="How many examples are told. Default 5.", min=1, max=100, metavar="N")
    ] = None,
    adapter: Annotated[
        str, text_option("--adapter", help="An adapter of the model to compute with.", metavar="NAME")
    ] = "",
    priority: Annotated[Class | None, typer.Option(help="Class of its tasks. Default: low.")] = None,
    lease: LeaseOption = "",
    html: Annotated[
        Path | None, typer.Option("--html", help="Write the explanation as a page.", dir_okay=False, metavar="FILE")
    ] = None,
    plan: Annotated[bool, typer.Option("--plan", help="Tell what it would cost, and compute nothing.")] = False,
    address: Address = ADDRESS,
    tenant: Tenant = "",
    output: Output = Format.TABLE,
) -> None:
    """Tell which parts of a prompt matter for an answer: how likely it is without them.

    Gradients and attention are told by backends that have them (torch); which examples are near, with --near.
    """
    with edge(output) as out:
        from inferd.cli.explaining import explain, read_examples, read_span

        options = {
            "answer": answer or None,
            "against": against or None,
            "method": method.value,
            "unit": unit.value,
            "spans": [read_span(each) for each in span or ()],
            "samples": samples,
            "seed": seed,
            "random_orders": random_orders,
            "alternatives": alternatives,
            "steps": steps,
            "examples": read_examples(near, embed, column, count, wanted=method is Method.EXAMPLES),
            "max_answer_tokens": max_answer_tokens,
            "adapter": adapter,
            "priority": None if priority is None else priority.value,
            "lease": lease or None,
        }
        explain(
            out,
            read_wanted(model),
            prompt,
            address=address,
            tenant=tenant,
            data_dir=data_dir,
            system=system,
            raw=raw,
            plans=plan,
            page=html,
            options=options,
        )
