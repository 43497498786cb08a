"""`inferd index` and `inferd ask`: documents are added, found and asked."""

from __future__ import annotations

import json
import re
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

import typer

from inferd.cli.amounts import size
from inferd.cli.kernel import connected
from inferd.cli.output import CommandError
from inferd.cli.plain import plain
from inferd.cli.visible import VisibleStream
from inferd.errors import words_of
from inferd_api.v1.index_pb2 import DocumentFile, IndexDocument
from inferd_api.v1.task_pb2 import FINISH_REASON_MAX_TOKENS
from inferd_client import data
from inferd_client.indexes import BATCH_BYTES, document

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from inferd.cli.output import Output
    from inferd_api.v1.index_pb2 import Index
    from inferd_api.v1.index_service_pb2 import AnswerEnded
    from inferd_client import Client
    from inferd_client.indexes import Condition

COLUMNS = ("INDEX", "DOCUMENTS", "CHUNKS", "SIZE", "MODEL", "FIELDS", "VERSION")
FORMATS: Final = {".html": "html", ".htm": "html", ".md": "markdown", ".markdown": "markdown", ".pdf": "pdf"}
LINES: Final = frozenset({".jsonl", ".ndjson"})
CONDITION: Final = re.compile(r"([A-Za-z0-9_][A-Za-z0-9._-]*)(>=|<=|!=|=|>|<)(.*)", re.DOTALL)
SHOWN = 200  # characters of a passage in a table


@contextmanager
def _typed() -> Iterator[None]:
    """What a file or a library refuses, as an error of the command."""
    try:
        yield
    except ModuleNotFoundError as error:
        raise CommandError(str(error), reason="PACKAGE_MISSING") from None
    except (ValueError, TypeError) as error:
        raise CommandError(str(error), reason="USAGE") from None
    except OSError as error:
        raise CommandError(words_of(error), reason="USAGE") from None


def create(
    output: Output,
    address: str,
    tenant: str,
    name: str,
    *,
    model: str,
    fields: Sequence[str],
    options: Mapping[str, Any],
) -> None:
    """Make an index."""
    chosen = {}
    for each in fields:
        field, equals, kind = each.partition("=")
        if not (field and equals and kind):
            raise typer.BadParameter(f"{each!r} is not NAME=TYPE", param_hint="--field")
        chosen[field] = kind
    with connected(address, tenant) as client, _typed():
        made = client.create_index(name, embedding_model=model, fields=chosen, **options)
    _tell(output, made)


def add(
    output: Output, address: str, tenant: str, name: str, files: Sequence[Path], *, rows: tuple[str, str, str]
) -> None:
    """Add documents.

    Raises:
        CommandError: A file cannot be read.
    """
    if not files and not rows[0]:
        raise typer.BadParameter("name files, or a dataset with --dataset", param_hint="FILE…")
    with connected(address, tenant) as client, _typed(), output.status(f"adding to {name}") as say:

        def tell(documents: int, done: int, chunks: int) -> None:
            under_way = f"; of the next ones {done} of {chunks} chunks are done" if chunks else ""
            say(f"adding to {name}: {documents} documents are added{under_way}")

        added = client.add_documents(name, _documents(client, files, rows), tell=tell)
    if output.json:
        told = {"index": plain(added.index), "documents": added.documents, "replaced": added.replaced}
        output.document(told)
    else:
        output.text(f"{added.documents} documents added, {added.replaced} of them in the place of others")
        _tell(output, added.index)


def _documents(client: Client, files: Sequence[Path], rows: tuple[str, str, str]) -> Iterator[IndexDocument]:
    for path in files:
        if path.suffix.lower() in LINES:
            yield from _lines(path)
        else:
            yield _file(client, path)
    dataset, column, id_column = rows
    if not dataset:
        return
    for number, row in enumerate(data.rows(client, dataset), 1):
        if column not in row:
            raise ValueError(f"dataset {dataset} has no column {column!r}; it has {', '.join(row)}")
        rest = {key: value for key, value in row.items() if key not in {column, id_column}}
        yield document(str(row[id_column]) if id_column else str(number), str(row[column]), metadata=_known(rest))


def _known(row: Mapping[str, Any]) -> dict[str, Any]:
    """What of a row JSON can say."""
    return {key: value for key, value in row.items() if isinstance(value, str | int | float | bool)}


def _lines(path: Path) -> Iterator[IndexDocument]:
    with path.open(encoding="utf-8") as file:
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            try:
                told = json.loads(line)
                yield document(
                    str(told["id"]),
                    str(told["text"]),
                    title=str(told.get("title", "")),
                    metadata=told.get("metadata"),
                )
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                raise ValueError(f"{path}, line {number}: it is no document with id and text: {error!r}") from None


def _file(client: Client, path: Path) -> IndexDocument:
    contents = path.read_bytes()
    form = FORMATS.get(path.suffix.lower(), "text")
    if len(contents) <= BATCH_BYTES:
        return IndexDocument(id=str(path), title=path.stem, file=DocumentFile(format=form, data=contents))
    blob = client.put_blob(path)
    return IndexDocument(id=str(path), title=path.stem, file=DocumentFile(format=form, blob=blob.digest))


def conditions(given: Sequence[str]) -> list[Condition]:
    """Conditions, as `year>=2020` or `lang=en`: numbers, true and false are such, all else is a text."""
    found: list[Condition] = []
    for each in given:
        said = CONDITION.fullmatch(each)
        if said is None:
            raise typer.BadParameter(f"{each!r} is no condition, as year>=2020", param_hint="--where")
        try:
            value = json.loads(said[3])
        except ValueError:
            value = said[3]
        found.append((said[1], said[2], value))
    return found


def search(
    output: Output,
    address: str,
    tenant: str,
    name: str,
    text: str,
    *,
    count: int,
    mode: str,
    filters: Sequence[str],
) -> None:
    """Show what is found."""
    options: dict[str, Any] = {"mode": mode}
    with connected(address, tenant) as client, _typed():
        found = client.search_index(name, text, count=count, filters=conditions(filters), **options)
    if output.json:
        output.document({"chunks": [plain(each) for each in found]})
        return
    rows = (
        (f"{each.score:.4f}", each.document_id, f"{each.start}-{each.end}", " ".join(each.text.split())[:SHOWN])
        for each in found
    )
    output.table(("SCORE", "DOCUMENT", "CHARACTERS", "PASSAGE"), rows, empty="nothing was found")


def list_indexes(output: Output, address: str, tenant: str) -> None:
    """List indexes."""
    with connected(address, tenant) as client:
        found = list(client.list_indexes())
    if output.json:
        output.document({"indexes": [plain(each) for each in found]})
        return
    output.table(
        COLUMNS,
        map(_row, found),
        empty="no indexes; make one with: inferd index create NAME",
        gives_way="FIELDS",
        goes=("VERSION", "FIELDS", "SIZE"),
    )


def _row(index: Index) -> tuple[str, ...]:
    return (
        index.spec.name,
        str(index.documents),
        str(index.chunks),
        size(index.size_bytes),
        index.spec.embedding_model or "none",
        ", ".join(each.name for each in index.spec.fields),
        str(index.version),
    )


def _tell(output: Output, index: Index) -> None:
    if output.json:
        output.document(plain(index))
    else:
        output.text(
            f"{index.spec.name}: {index.documents} documents, {index.chunks} chunks in {index.segments} segments,"
            f" {size(index.size_bytes)}"
        )


def show(output: Output, address: str, tenant: str, name: str, document_id: str) -> None:
    """Show an index or a document."""
    with connected(address, tenant) as client:
        if not document_id:
            index = client.get_index(name)
            _tell(output, index)
            if not output.json:
                output.text(f"model: {index.spec.embedding_model or 'none: it is found by words alone'}")
                output.text(f"chunks: of {index.spec.chunking.size} characters at most")
            return
        found = client.get_document(name, document_id)
    if output.json:
        output.document(plain(found))
        return
    if found.title:
        output.text(found.title)
    output.text(found.text)


def remove(output: Output, address: str, tenant: str, name: str, documents: Sequence[str]) -> None:
    """Forget an index, or documents of it."""
    with connected(address, tenant) as client:
        if documents:
            gone = client.delete_documents(name, documents)
        else:
            client.delete_index(name)
    if output.json:
        output.document({"deleted": gone} if documents else {"index": name})
    else:
        output.text(f"{gone} of {len(documents)} documents are gone" if documents else f"index {name} is gone")


def ask(
    output: Output,
    address: str,
    tenant: str,
    name: str,
    question: str,
    *,
    filters: Sequence[str],
    options: Mapping[str, Any],
) -> None:
    """Answer a question."""
    said, passages, ended, shown = "", [], None, VisibleStream()
    with connected(address, tenant) as client, _typed():
        for told in client.answer_question(name, question, filters=conditions(filters), **options):
            match told.WhichOneof("event"):
                case "found":
                    passages = [plain(each) for each in told.found.passages]
                case "text":
                    said += told.text
                    if not output.json:
                        sys.stdout.write(shown.feed(told.text))
                        sys.stdout.flush()
                case _:
                    ended = told.ended
    if output.json:
        output.document({"passages": passages, "text": said, "ended": plain(ended) if ended is not None else {}})
        return
    output.text(shown.end())
    if ended is not None:
        _show_end(output, ended, said)


def _show_end(output: Output, ended: AnswerEnded, said: str) -> None:
    if ended.finish_reason == FINISH_REASON_MAX_TOKENS:
        output.text(f"The answer is cut off after {ended.output_tokens} tokens: raise --most-tokens")
    if ended.no_answer:
        output.text("The documents have no answer." if not said else "The model finds no answer in the documents.")
    for number, each in enumerate(ended.citations, 1):
        output.text(f"[{number}] {each.document_id}, {each.start}-{each.end}: {each.quote}")
    if ended.dropped_quotes:
        output.text(f"{ended.dropped_quotes} quotations of the model are in no passage, and are left out")
