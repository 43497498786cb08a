"""Documents that are no texts: PDF and Parquet, which come as base64."""

import base64
import binascii
import json
from collections.abc import Iterator
from datetime import date, datetime, time
from typing import Any

from inferd_functions.libraries import library

BATCH_ROWS = 1000  # that are values of Python at once
PARQUET_EXTRA = 'pip install "inferd[data]"'


def pdf_to_text(content: str) -> str:
    """The text of each page, an empty line between two; of a scanned page there is none."""
    pdfium = library("pypdfium2")
    try:
        document = pdfium.PdfDocument(_decoded(content))
        pages = [page.get_textpage().get_text_bounded() for page in document]
    except pdfium.PdfiumError as error:
        raise ValueError(f"content is no PDF that can be read: {error}") from None
    return "\n\n".join(text for page in pages if (text := page.replace("\r\n", "\n").strip()))


def parquet_to_jsonl(content: str) -> str:
    """An object for each row; bytes are base64, times as ISO 8601 has them."""
    pa, parquet = library("pyarrow", PARQUET_EXTRA), library("pyarrow.parquet", PARQUET_EXTRA)
    try:
        table = parquet.read_table(pa.BufferReader(_decoded(content)), use_threads=False)
    except pa.ArrowException as error:
        raise ValueError(f"content is no Parquet file: {error}") from None
    return "".join(line for batch in table.to_batches() for line in lines_of(batch))


def lines_of(batch: Any) -> Iterator[str]:
    """An object for each row of a batch of Arrow, as a line of JSON; bytes are base64, times as ISO 8601 has them."""
    for at in range(0, batch.num_rows, BATCH_ROWS):
        for row in batch.slice(at, BATCH_ROWS).to_pylist():
            yield f"{json.dumps(row, ensure_ascii=False, default=_written)}\n"


def _decoded(content: str) -> bytes:
    try:
        return base64.b64decode(content, validate=True)
    except (binascii.Error, ValueError) as error:
        raise ValueError(f"content is no base64, as which files that are no texts come: {error}") from None


def _written(value: Any) -> Any:
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    return value.isoformat() if isinstance(value, date | datetime | time) else str(value)
