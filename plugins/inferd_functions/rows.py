"""Rows of datasets as JSON Lines, for what of the kernel takes lines: it opens no tables itself."""

from collections.abc import Iterator

from inferd.plugin import function, function_data
from inferd_functions.binary import PARQUET_EXTRA, lines_of
from inferd_functions.libraries import library

PART_CHARACTERS = 64 << 10  # of at most 12 bytes in the JSON of a piece


@function(timeout_s=120, memory_bytes=512 << 20, internal=True)
def dataset_lines() -> Iterator[str]:
    """The rows of a part of a dataset as JSON Lines, in parts that follow each other: an object for each row."""
    pa = library("pyarrow", PARQUET_EXTRA)
    text = ""
    try:
        with pa.ipc.open_stream(pa.py_buffer(function_data()[0])) as reader:
            for batch in reader:
                batch.validate(full=True)
                for line in lines_of(batch):
                    text += line
                    while len(text) >= PART_CHARACTERS:
                        yield text[:PART_CHARACTERS]
                        text = text[PART_CHARACTERS:]
    except pa.ArrowException as error:
        raise ValueError(f"a part of the dataset is no table of Arrow: {error}") from None
    if text:
        yield text
