"""Parts of texts: sentences, lines and paragraphs, and chunks of a size."""

import re
from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import BaseModel, Field

from inferd.plugin import function
from inferd_functions.libraries import library

sentencex = library("sentencex")
splitter = library("semantic_text_splitter")
PARAGRAPH = re.compile(r"\n[^\S\n]*\n\s*")


class Chunk(BaseModel):
    """A part of a text, and where it stands, in characters."""

    start: int
    end: int
    text: str


@function(timeout_s=60)
def split(
    text: str,
    by: Literal["sentence", "line", "paragraph"] = "sentence",
    *,
    language: Annotated[str, Field(pattern="^[a-z]{2,3}$")] = "en",
) -> list[str]:
    """Split a text into sentences, lines or paragraphs, white space around them left out.

    Args:
        text: What is split.
        by: Into what.
        language: Of the text, by its code (ISO 639): sentences end where that language ends them.
    """
    if by == "sentence":
        parts: list[str] = sentencex.segment(language, text)
    else:
        parts = text.splitlines() if by == "line" else PARAGRAPH.split(text)
    return [part.strip() for part in parts if part.strip()]


@function(timeout_s=60)
def chunk(
    text: str,
    size: Annotated[int, Field(ge=1, le=1_000_000)] = 1000,
    overlap: Annotated[int, Field(ge=0, le=1_000_000)] = 0,
) -> Iterator[Chunk]:
    """Cut a text into chunks of at most so many characters, between paragraphs, sentences or words where that can be.

    Args:
        text: What is cut.
        size: Most characters of a chunk.
        overlap: About how many characters the next one begins before the end of the last.
    """
    if overlap >= size:
        raise ValueError(f"overlap is {overlap} and size is {size}; overlap must be less")
    for start, part in splitter.TextSplitter(size, overlap=overlap).chunk_indices(text):
        yield Chunk(start=start, end=start + len(part), text=part)
