"""Searches of indexes, and lists of what is in them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from inferd.core.document_index import Comparison, Found, IndexFieldType, ListedDocument, SearchMode
from inferd.errors import BlobNotFoundError, InvalidFieldError, suggestion
from inferd.function_errors import FunctionFailedError
from inferd.runtime.front.index_adding import check_width
from inferd.runtime.index_work import Asker
from inferd.shared import Memory, Part

if TYPE_CHECKING:
    from collections.abc import Sequence

    from inferd.core.document_index import Filter, Index, Query
    from inferd.core.priority import Priority
    from inferd.runtime.front.caller import Caller
    from inferd.runtime.front.indexes import Indexes

TRIES: Final = 3  # segments may be made one between a look at them and the reading of them
KINDS: Final[dict[IndexFieldType, tuple[type, ...]]] = {
    IndexFieldType.TEXT: (str,),
    IndexFieldType.NUMBER: (int, float),
    IndexFieldType.BOOL: (bool,),
}
ORDERED: Final = frozenset({Comparison.LESS, Comparison.AT_MOST, Comparison.MORE, Comparison.AT_LEAST})


async def search(indexes: Indexes, caller: Caller, query: Query, priority: Priority) -> tuple[list[Found], int]:
    """The chunks that fit a query best, the best first, and the version of the index that was searched.

    Raises:
        IndexNotFoundError: There is none.
        InvalidFieldError: It has no such field, or no vectors.
        InferdError: A task failed.
    """
    entry = indexes.find(caller, query.index)
    for left in reversed(range(TRIES)):
        index = entry.index
        mode = _mode(index, query.mode)
        check_filters(index, query.filters)
        if not index.segments:
            return [], index.version
        asker = Asker(caller, query.index, priority)
        vector: list[Part] = []
        try:
            if mode is not SearchMode.LEXICAL:
                await indexes.prove(entry, asker)
                vector = await _vector(indexes, asker, index, query.text)
            parts = await indexes.parts(entry, index.segments)
        except BlobNotFoundError:
            if not left or entry.index is index:
                raise
            continue
        told = await indexes.tasks.whole(
            asker,
            "retrieval_search",
            [*parts, *vector],
            text=query.text,
            count=query.count,
            mode=mode.name.lower(),
            width=index.width,
            dead=[list(each.dead) for each in index.segments],
            filters=[
                {"field": each.field, "comparison": each.comparison.name.lower(), "value": each.value}
                for each in query.filters
            ],
        )
        return [_read(each) for each in told], index.version
    raise AssertionError("the last try returns or raises")


async def list_documents(indexes: Indexes, asker: Asker, *, after: str, count: int) -> list[ListedDocument]:
    """The documents of an index behind an id, by the bytes of their ids, at most `count`.

    Raises:
        IndexNotFoundError: There is none.
        InferdError: They cannot be read now.
    """
    entry = indexes.find(asker.caller, asker.index)
    for left in reversed(range(TRIES)):
        index = entry.index
        if not index.segments:
            return []
        try:
            parts = await indexes.parts(entry, index.segments)
        except BlobNotFoundError:
            if not left or entry.index is index:
                raise
            continue
        told = await indexes.tasks.whole(
            asker,
            "retrieval_list",
            parts,
            after=after,
            count=count,
            vectors=bool(index.width),
            dead=[list(each.dead) for each in index.segments],
        )
        return [ListedDocument(**each) for each in told]
    raise AssertionError("the last try returns or raises")


def _mode(index: Index, wanted: SearchMode | None) -> SearchMode:
    if index.spec.model:
        return wanted or SearchMode.HYBRID
    if wanted is None or wanted is SearchMode.LEXICAL:
        return SearchMode.LEXICAL
    raise InvalidFieldError(
        f"mode is {wanted.name} and index {index.spec.name!r} has no embedding_model, so it has no vectors; search it"
        " with LEXICAL, or make another index",
        field="query.mode",
    )


async def _vector(indexes: Indexes, asker: Asker, index: Index, text: str) -> list[Part]:
    model = index.spec.model
    vector = await indexes.tasks.embed(asker, model, text)
    check_width(index, len(vector), model)
    data = vector.tobytes()
    return [Part(Memory.of(data), 0, len(data))]


def check_filters(index: Index, filters: Sequence[Filter]) -> None:
    """Refuse what an index cannot be filtered by.

    Raises:
        InvalidFieldError: It has no such field, or one of another type.
    """
    fields = dict(index.spec.fields)
    for number, each in enumerate(filters):
        at = f"query.filters[{number}]"
        kind = fields.get(each.field)
        if kind is None:
            near = suggestion(each.field, [*fields])
            hint = f"did you mean {near!r}?" if near else f"it has {', '.join(fields) or 'none'}"
            raise InvalidFieldError(
                f"{at}.field: index {index.spec.name!r} has no field {each.field[:64]!r}; {hint}", field=f"{at}.field"
            )
        values = each.value if each.comparison is Comparison.IN else [each.value]
        if not isinstance(values, list) or not all(fits(value, kind) for value in values):
            wanted = f"a list of {kind.name}" if each.comparison is Comparison.IN else kind.name
            raise InvalidFieldError(
                f"{at}.value_json is {str(each.value)[:80]!r}; {each.comparison.name} of field {each.field!r} takes"
                f" {wanted}",
                field=f"{at}.value_json",
            )
        if kind is IndexFieldType.BOOL and each.comparison in ORDERED:
            raise InvalidFieldError(
                f"{at}.comparison is {each.comparison.name} and field {each.field!r} is true or false; take EQUAL",
                field=f"{at}.comparison",
            )


def fits(value: Any, kind: IndexFieldType) -> bool:
    """Whether a value is of a type."""
    return isinstance(value, KINDS[kind]) and (kind is IndexFieldType.BOOL or not isinstance(value, bool))


def _read(told: Any) -> Found:
    try:
        return Found(
            document_id=str(told["id"]),
            title=str(told["title"]),
            metadata=str(told["metadata"]),
            start=int(told["start"]),
            end=int(told["end"]),
            text=str(told["text"]),
            score=float(told["score"]),
            sentences=tuple((int(start), int(end)) for start, end in told["sentences"]),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise FunctionFailedError(f"retrieval_search gave what is no chunk: {type(error).__name__}") from None
