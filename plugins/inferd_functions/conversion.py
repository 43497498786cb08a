"""Documents and tables from one form into another."""

import csv
import io
import json
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final, Literal

from inferd.plugin import function
from inferd_functions.binary import parquet_to_jsonl, pdf_to_text
from inferd_functions.libraries import library

markdown_it = library("markdown_it")
parser = library("selectolax.lexbor")
Form = Literal["html", "markdown", "csv", "jsonl", "text", "pdf", "parquet"]
PART_CHARACTERS: Final = 64 << 10  # of at most 12 bytes in the JSON of a piece
BREAK: Final = "\x1e"  # between two blocks
UNSHOWN: Final = "script, style, template, noscript, head"
BLOCKS: Final = (
    "address, article, aside, blockquote, dd, div, dl, dt, figcaption, figure, footer, form, h1, h2, h3, h4, h5, h6,"
    " header, hr, li, main, nav, ol, p, section, table, tr, ul, br"
)


@function(timeout_s=120, memory_bytes=512 << 20)
def convert(content: str, source: Form, target: Form) -> str:
    """Convert a document: HTML, Markdown and PDF to text, Markdown to HTML, CSV and Parquet to JSON Lines, that to CSV.

    Args:
        content: The document; of PDF and Parquet its bytes as base64.
        source: What it is.
        target: What it is to be. Of CSV each row becomes an object of texts, by the names in its first line.
    """
    make = CONVERSIONS.get((source, target))
    if make is None:
        known = ", ".join(f"{one} to {other}" for one, other in CONVERSIONS)
        raise ValueError(f"{source} is not converted to {target}; there are {known}")
    return make(content)


@function(timeout_s=120, memory_bytes=512 << 20)
def convert_in_parts(content: str, source: Form, target: Form) -> Iterator[str]:
    """As `convert`, in parts that follow each other: all of it may be larger than a piece may be.

    Args:
        content: The document; of PDF and Parquet its bytes as base64.
        source: What it is.
        target: What it is to be.
    """
    text = convert(content, source, target)
    for at in range(0, len(text), PART_CHARACTERS):
        yield text[at : at + PART_CHARACTERS]


def _html_to_text(content: str) -> str:
    """What a reader sees: each block on a line of its own, runs of white space as one space."""
    tree = parser.LexborHTMLParser(content)
    for node in tree.css(UNSHOWN):
        node.decompose()
    for node in tree.css("pre"):
        node.replace_with(BREAK.join(("", *node.text().split("\n"), "")))
    for node in tree.css(BLOCKS):
        node.insert_before(BREAK)
        node.insert_after(BREAK)
    for node in tree.css("td, th"):
        node.insert_after(" ")
    text = tree.root.text() if tree.root is not None else ""
    lines = (" ".join(line.split()) for line in text.replace("\n", " ").split(BREAK))
    return "\n".join(line for line in lines if line)


def _markdown_to_html(content: str) -> str:
    html: str = markdown_it.MarkdownIt("commonmark", {"html": False}).enable("table").render(content)
    return html


def _markdown_to_text(content: str) -> str:
    return _html_to_text(_markdown_to_html(content))


def _csv_to_jsonl(content: str) -> str:
    rows = csv.reader(io.StringIO(content, newline=""), strict=True)
    try:
        names = next(rows, [])
        if len({*names}) < len(names) or not all(names):
            raise ValueError(f"the first line has {names}; it must have a name for each column, each once")
        lines = []
        for row in rows:
            if len(row) != len(names) and row:
                raise ValueError(f"line {rows.line_num} has {len(row)} fields and the first one {len(names)} names")
            lines += [json.dumps(dict(zip(names, row, strict=True)), ensure_ascii=False)] if row else []
    except csv.Error as error:
        raise ValueError(f"line {rows.line_num} is no CSV: {error}") from None
    return "".join(f"{line}\n" for line in lines)


def _jsonl_to_csv(content: str) -> str:
    """The columns are those of all objects, in the order in which they come first."""
    objects: list[dict[str, Any]] = []
    for number, line in enumerate(content.splitlines(), start=1):
        if not line.strip():
            continue
        try:
            each = json.loads(line)
        except ValueError as error:
            raise ValueError(f"line {number} is no JSON: {error}") from None
        if not isinstance(each, dict):
            raise ValueError(f"line {number} is {type(each).__name__}; each must be an object")  # noqa: TRY004 - of the input
        objects.append(each)
    names = list(dict.fromkeys(name for each in objects for name in each))
    written = io.StringIO(newline="")
    writer = csv.writer(written, lineterminator="\n")
    writer.writerow(names)
    writer.writerows([_cell(each.get(name)) for name in names] for each in objects)
    return written.getvalue() if names else ""


def _cell(value: Any) -> str:
    if value is None:
        return ""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


CONVERSIONS: Final[Mapping[tuple[str, str], Callable[[str], str]]] = {
    ("html", "text"): _html_to_text,
    ("markdown", "html"): _markdown_to_html,
    ("markdown", "text"): _markdown_to_text,
    ("csv", "jsonl"): _csv_to_jsonl,
    ("jsonl", "csv"): _jsonl_to_csv,
    ("pdf", "text"): pdf_to_text,
    ("parquet", "jsonl"): parquet_to_jsonl,
}
