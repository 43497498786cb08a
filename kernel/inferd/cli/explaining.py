"""`inferd explain`: which parts of a prompt matter for an answer."""

from __future__ import annotations

import math
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, Final

import typer

from inferd.cli.inputs import read_stdin
from inferd.cli.kernel import connected_or_private
from inferd.cli.output import CommandError
from inferd.cli.plain import plain
from inferd.cli.wanted import check, resolved
from inferd_api.v1.dataset_pb2 import DatasetVersion
from inferd_api.v1.explanation_pb2 import EXPLANATION_METHOD_ATTENTION, ExampleSource, TextSpan
from inferd_client.explanation_pages import explanation_page

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from inferd.cli.named import Wanted
    from inferd.cli.output import Output
    from inferd_api.v1.explanation_pb2 import ExplainedToken, Explanation, ExplanationPlan, Faithfulness
    from inferd_client import Client, Prompt

BAR: Final = 20  # characters of the longest one
SHOWN: Final = 40  # characters of a span in a table
KIND: Final = ".html"


def read_span(text: str) -> TextSpan:
    """A part of the prompt as "BEGIN:END" in bytes; of the last message.

    Raises:
        typer.BadParameter: It is none.
    """
    begin, colon, end = text.partition(":")
    if not colon or not begin.isdecimal() or not end.isdecimal() or int(end) >= 1 << 32 or int(begin) >= int(end):
        message = f"{text!r} is no part; write its first byte and the one behind its last, as 4:11"
        raise typer.BadParameter(message, param_hint="--span")
    return TextSpan(begin=int(begin), end=int(end))


def read_examples(near: str, model: str, column: str, count: int | None, *, wanted: bool) -> ExampleSource | None:
    """Where examples are looked for: an index, or with a model a dataset as NAME or NAME@VERSION; None for none.

    Raises:
        typer.BadParameter: It is not said, or not whole.
    """
    if not near:
        if wanted or model or column or count:
            message = "name an index with --near, or a dataset with --near and --embed, where examples are"
            raise typer.BadParameter(message, param_hint="--near")
        return None
    if not model:
        if column:
            message = "it is of a dataset, whose texts need a model: --embed"
            raise typer.BadParameter(message, param_hint="--column")
        return ExampleSource(index=near, count=count)
    name, at, version = near.partition("@")
    if at and not version.isdecimal():
        message = f"{near!r} is no version of a dataset; write NAME, or NAME@VERSION with a number"
        raise typer.BadParameter(message, param_hint="--near")
    dataset = DatasetVersion(name=name, version=int(version or 0))
    return ExampleSource(dataset=dataset, embedding_model=model, column=column, count=count)


def explain(
    output: Output,
    wanted: Wanted,
    prompt: str | None,
    *,
    address: str,
    tenant: str,
    data_dir: Callable[[], Path],
    system: str,
    raw: bool,
    plans: bool,
    page: Path | None,
    options: dict[str, Any],
) -> None:
    """Explain an answer, or tell what that would cost.

    Raises:
        CommandError: The page cannot be written, or the kernel refuses.
    """
    if raw and system:
        message = "a system message needs the chat template, which --raw leaves out"
        raise typer.BadParameter(message, param_hint="--system")
    if page is not None and page.suffix != KIND:
        raise typer.BadParameter(f"{page} does not end on {KIND}", param_hint="--html")
    given = read_stdin(output) if prompt is None else prompt
    if not given.strip():
        raise typer.BadParameter("the prompt is empty", param_hint="PROMPT")
    messages: list[dict[str, str]] = [{"role": "system", "content": system}] if system else []
    asked: Prompt = given if raw else [*messages, {"role": "user", "content": given}]
    for span in options["spans"]:
        span.message = 0 if raw else len(messages)
    wanted.path()
    with ExitStack() as stack:
        kernel = connected_or_private(output, address, tenant, before=lambda: check(wanted, data_dir))
        client = stack.enter_context(kernel)
        name = stack.enter_context(resolved(client, wanted, data_dir))
        if plans:
            _tell_plan(output, client.plan_explanation(name, asked, **options))
            return
        found = _follow(output, client, name, asked, options)
    if page is not None:
        try:
            page.write_text(explanation_page(found), encoding="utf-8")
        except OSError as error:
            raise CommandError(f"{page} cannot be written: {error.strerror}", reason="USAGE") from None
    if output.json:
        output.document(plain(found))
    else:
        _tell(output, found)
    if page is not None:
        output.note(f"the page is in {page}")


def _follow(output: Output, client: Client, name: str, prompt: Prompt, options: Mapping[str, Any]) -> Explanation:
    found = None
    with output.status(f"asking {name}") as say:
        for told in client.follow_explanation(name, prompt, **options):
            match told.WhichOneof("kind"):
                case "plan":
                    output.note(_cost(told.plan))
                case "progress":
                    say(f"{told.progress.sequences_done} of {told.progress.sequences} sequences")
                case "explanation":
                    found = told.explanation
    if found is None:
        raise CommandError("the kernel ended the call without an explanation", reason="INTERNAL")
    return found


def _tell_plan(output: Output, plan: ExplanationPlan) -> None:
    if output.json:
        output.document(plain(plan))
    else:
        output.text(_cost(plan))


def _cost(plan: ExplanationPlan) -> str:
    cost = plan.cost
    if not plan.spans:  # examples alone
        return f"{cost.sequences} texts become vectors, of {cost.tokens} tokens"
    if not plan.answer_tokens:  # of a classifier
        return f"{plan.spans} spans: {cost.sequences} texts to look at"
    return (
        f"{plan.spans} spans, an answer of {plan.answer_tokens} tokens: {cost.sequences} sequences, "
        f"{cost.computed_tokens} of their {cost.tokens} tokens to compute"
    )


def _tell(output: Output, found: Explanation) -> None:
    largest = max((abs(span.scores[0].score) for span in found.spans), default=0.0) or 1.0
    shares = found.method == EXPLANATION_METHOD_ATTENTION
    drawn = any(span.scores[0].HasField("standard_error") for span in found.spans)
    rows = []
    for span in found.spans:
        score = span.scores[0]
        bar = ("+" if score.score >= 0 else "-") * round(BAR * abs(score.score) / largest)
        error = f"{score.standard_error:.3f}" if score.HasField("standard_error") else ""
        worth = f"{score.score:.1%}" if shares else f"{score.score:+.3f}"
        rows.append((worth, *((error,) if drawn else ()), bar, _shorten(span.text)))
    if found.spans:
        what = "SHARE" if shares else "NATS"
        output.table((what, *(("ERROR",) if drawn else ()), "", "SPAN"), rows, gives_way="SPAN", empty="no spans")
        output.text("")
    if found.tokens:
        rows = [_token_row(token) for token in found.tokens]
        output.table(("TOKEN", "PROBABILITY", "ENTROPY", "INSTEAD"), rows, gives_way="INSTEAD", empty="no tokens")
        output.text("")
    for target in found.targets:
        output.text(f"{target.name}: {target.value:.3f} nats with all spans, {target.baseline:.3f} without any of them")
        if target.HasField("replaced"):
            output.text(f"{target.name}: {target.replaced:.3f} nats with line feeds in their place")
    if found.HasField("faithfulness"):
        output.text(_judged(found.faithfulness))
    if found.examples:
        rows = [(f"{each.distance:.3f}", each.title or each.id, _shorten(each.text)) for each in found.examples]
        output.table(("DISTANCE", "EXAMPLE", "TEXT"), rows, gives_way="TEXT", empty="no examples")
        output.text("")
    cost = found.cost
    if not found.spans:
        output.text(f"{cost.sequences} texts became vectors; {found.planned.sequences} were stated")
        return
    if not found.tokens:
        output.text(f"looked at {cost.sequences} texts; {found.planned.sequences} were stated")
        return
    output.text(
        f"computed {cost.computed_tokens} of {cost.tokens} tokens in {cost.sequences} sequences; "
        f"{found.planned.computed_tokens} were stated"
    )


def _token_row(token: ExplainedToken) -> tuple[str, ...]:
    others = [each for each in token.alternatives if each.token_id != token.token_id]
    told = ", ".join(f"{_piece(each.piece)} {math.exp(each.logprob):.1%}" for each in others)
    return _piece(token.piece), f"{math.exp(token.logprob):.1%}", f"{token.entropy:.2f}", told


def _judged(found: Faithfulness) -> str:
    ranked, random = found.ranked, found.random
    deleted = sum(ranked.deletion_area < each.deletion_area for each in random)
    inserted = sum(ranked.insertion_area > each.insertion_area for each in random)
    return (
        f"better than random orders: {deleted} of {len(random)} by deletion, {inserted} of {len(random)} by insertion"
    )


def _piece(piece: bytes) -> str:
    return repr(piece.decode(errors="replace"))[1:-1]


def _shorten(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= SHOWN else f"{line[: SHOWN - 1]}…"
