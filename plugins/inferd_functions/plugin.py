"""What this package offers to inferd."""

from collections.abc import Callable, Iterable
from typing import Any

from inferd.plugin import hookimpl
from inferd_functions.conversion import convert, convert_in_parts
from inferd_functions.duplicates import deduplicate
from inferd_functions.languages import detect_language
from inferd_functions.parts import chunk, split
from inferd_functions.repair import clean
from inferd_functions.rows import dataset_lines
from inferd_functions.tokens import tokenise


@hookimpl
def inferd_functions() -> Iterable[Callable[..., Any]]:
    """Functions for texts."""
    return (
        chunk,
        clean,
        convert,
        convert_in_parts,
        dataset_lines,
        deduplicate,
        detect_language,
        split,
        tokenise,
    )
