"""`inferd embed` and `inferd rerank`: vectors of texts, and scores of documents for a query."""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING, Final

import typer

from inferd.cli.inputs import read_stdin
from inferd.cli.kernel import connected_or_private
from inferd.cli.wanted import check, resolved

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from inferd.cli.named import Wanted
    from inferd.cli.output import Output

SHOWN_NUMBERS: Final = 6
SHOWN_CHARACTERS: Final = 40


def embed(
    output: Output,
    wanted: Wanted,
    texts: Sequence[str],
    *,
    address: str,
    tenant: str,
    data_dir: Callable[[], Path],
    normalize: bool,
) -> None:
    """Show the embedding of each text, or of stdin where there is none."""
    given = list(texts) or [read_stdin(output)]
    if not texts and not given[0].strip():
        raise typer.BadParameter("there is no text, and stdin is empty", param_hint="TEXT")
    wanted.path()
    with ExitStack() as stack:
        kernel = connected_or_private(output, address, tenant, before=lambda: check(wanted, data_dir))
        client = stack.enter_context(kernel)
        name = stack.enter_context(resolved(client, wanted, data_dir))
        vectors = [client.embed(name, text, normalize=normalize) for text in given]
    if output.json:
        output.document({"model": name, "embeddings": vectors})
        return
    rows = [(_shorten(text), str(len(vector)), _show(vector)) for text, vector in zip(given, vectors, strict=True)]
    output.table(("TEXT", "SIZE", "VALUES"), rows, empty="no texts")


def rerank(
    output: Output,
    wanted: Wanted,
    query: str,
    documents: Sequence[str],
    *,
    address: str,
    tenant: str,
    data_dir: Callable[[], Path],
) -> None:
    """Show documents in the order of their scores for a query, best first."""
    wanted.path()
    with ExitStack() as stack:
        kernel = connected_or_private(output, address, tenant, before=lambda: check(wanted, data_dir))
        client = stack.enter_context(kernel)
        name = stack.enter_context(resolved(client, wanted, data_dir))
        ranked = client.rerank(name, query, documents)
    if output.json:
        output.document({"model": name, "ranking": [{"index": each.index, "score": each.score} for each in ranked]})
        return
    rows = [(f"{each.score:.5g}", str(each.index), _shorten(documents[each.index])) for each in ranked]
    output.table(("SCORE", "INDEX", "DOCUMENT"), rows, empty="no documents")


def _shorten(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= SHOWN_CHARACTERS else f"{line[: SHOWN_CHARACTERS - 1]}…"


def _show(vector: Sequence[float]) -> str:
    more = ", …" if len(vector) > SHOWN_NUMBERS else ""
    return ", ".join(f"{number:.5g}" for number in vector[:SHOWN_NUMBERS]) + more
