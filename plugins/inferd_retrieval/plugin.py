"""What this package offers to inferd."""

from collections.abc import Callable, Iterable
from typing import Any

from inferd.plugin import hookimpl
from inferd_retrieval.building import retrieval_chunks, retrieval_merge, retrieval_segment
from inferd_retrieval.reading import retrieval_find, retrieval_list, retrieval_read, retrieval_sample
from inferd_retrieval.searching import retrieval_search


@hookimpl
def inferd_functions() -> Iterable[Callable[..., Any]]:
    """Functions for indexes."""
    return (
        retrieval_chunks,
        retrieval_find,
        retrieval_list,
        retrieval_merge,
        retrieval_read,
        retrieval_sample,
        retrieval_search,
        retrieval_segment,
    )
