"""Indexes between the wire and values."""

from __future__ import annotations

import json
import re
import sys
from typing import TYPE_CHECKING, Any, Final

from inferd.core.document_index import Comparison, Filter, IndexFieldType, IndexSpec, NewDocument, Query, SearchMode
from inferd.errors import InvalidFieldError, suggestion
from inferd.runtime.front.index_answering import Delta, Passages
from inferd.services.named import read_digest
from inferd.services.times import unix_time
from inferd_api.v1 import index_pb2 as ip
from inferd_api.v1 import index_service_pb2 as xs
from inferd_api.v1 import task_pb2 as tp

if TYPE_CHECKING:
    from collections.abc import Sequence

    from inferd.core.document_index import Found, Index
    from inferd.runtime.front.index_answering import Told

NAME_FORM: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}")
FIELD_FORM: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,63}")
SIZES: Final = range(32, 100_001)  # characters of a chunk
DEFAULT_SIZE: Final = 800
MOST_ID: Final = 256  # characters, as the next three
MOST_TITLE: Final = 1000
MOST_DESCRIPTION: Final = 1000
MOST_QUERY: Final = 10_000
MOST_FIELDS: Final = 32
MOST_FILTERS: Final = 32
MOST_METADATA_BYTES: Final = 16 << 10
MOST_DOCUMENTS: Final = 10_000  # of one call
DEFAULT_COUNT: Final = 5
MOST_COUNT: Final = 100
FORMATS: Final = ["text", "html", "markdown", "pdf"]


def read_spec(given: ip.IndexSpec) -> IndexSpec:
    """What an index is made for.

    Raises:
        InvalidFieldError: Something of it is not as it must be.
    """
    if not NAME_FORM.fullmatch(given.name):
        raise InvalidFieldError(
            f"spec.name is {given.name[:80]!r}; it must be 1 to 128 of letters, digits, '.', '_' and '-', and begin"
            " with none of '.' and '-'",
            field="spec.name",
        )
    size = given.chunking.size or DEFAULT_SIZE
    overlap = given.chunking.overlap
    if size not in SIZES:
        raise InvalidFieldError(
            f"spec.chunking.size is {size}; it must be {SIZES.start} to {SIZES.stop - 1} characters",
            field="spec.chunking.size",
        )
    if overlap * 2 >= size:
        raise InvalidFieldError(
            f"spec.chunking.overlap is {overlap} and size is {size}; it must be less than half of that",
            field="spec.chunking.overlap",
        )
    _check_length(given.description, MOST_DESCRIPTION, "spec.description")
    return IndexSpec(
        name=given.name,
        model=given.embedding_model,
        size=size,
        overlap=overlap,
        fields=_read_fields(given.fields),
        description=given.description,
    )


def _read_fields(given: Sequence[ip.IndexField]) -> tuple[tuple[str, IndexFieldType], ...]:
    if len(given) > MOST_FIELDS:
        raise InvalidFieldError(f"spec.fields has {len(given)} entries; at most {MOST_FIELDS}", field="spec.fields")
    found: dict[str, IndexFieldType] = {}
    for number, each in enumerate(given):
        at = f"spec.fields[{number}]"
        if not FIELD_FORM.fullmatch(each.name) or each.name in found:
            why = "another field has it" if each.name in found else "it must be 1 to 64 of letters, digits, '_.-'"
            raise InvalidFieldError(f"{at}.name is {each.name[:80]!r}; {why}", field=f"{at}.name")
        found[each.name] = _read_enum(IndexFieldType, each.type, f"{at}.type")
    return tuple(found.items())


def _read_enum(kind: Any, number: int, field: str) -> Any:
    try:
        return kind(number)
    except ValueError:
        known = ", ".join(f"{each.name} ({each.value})" for each in kind)
        raise InvalidFieldError(f"{field} is {number}; it must be one of {known}", field=field) from None


def _check_length(text: str, most: int, field: str, *, least: int = 0) -> None:
    if not least <= len(text) <= most:
        raise InvalidFieldError(f"{field} has {len(text)} characters; it must have {least} to {most}", field=field)


def read_documents(given: Sequence[ip.IndexDocument], index: Index) -> list[NewDocument]:
    """Documents that are added to an index.

    Raises:
        InvalidFieldError: There are none or too many, or one is not as it must be.
    """
    if not 1 <= len(given) <= MOST_DOCUMENTS:
        raise InvalidFieldError(
            f"documents has {len(given)} entries; it must have 1 to {MOST_DOCUMENTS}", field="documents"
        )
    places: dict[str, int] = {}
    found = []
    for number, each in enumerate(given):
        at = f"documents[{number}]"
        _check_length(each.id, MOST_ID, f"{at}.id", least=1)
        _check_length(each.title, MOST_TITLE, f"{at}.title")
        if (other := places.setdefault(each.id, number)) != number:
            raise InvalidFieldError(
                f"{at}.id is {each.id[:80]!r}, and that of documents[{other}]; give each document once",
                field=f"{at}.id",
            )
        _check_metadata(each.metadata_json, index, f"{at}.metadata_json")
        found.append(_read_document(each, at))
    return found


def _read_document(given: ip.IndexDocument, at: str) -> NewDocument:
    known: dict[str, Any] = {"id": given.id, "title": given.title, "metadata": given.metadata_json}
    match given.WhichOneof("content"):
        case "text":
            if not given.text.strip():
                raise InvalidFieldError(f"{at}.text is empty: document {given.id!r} says nothing", field=f"{at}.text")
            return NewDocument(**known, text=given.text)
        case "file":
            file = given.file
            if file.format not in FORMATS:
                near = suggestion(file.format, FORMATS)
                hint = f"did you mean {near!r}?" if near else f"it must be one of {', '.join(FORMATS)}"
                raise InvalidFieldError(f"{at}.file.format is {file.format[:80]!r}; {hint}", field=f"{at}.file.format")
            if file.WhichOneof("source") == "blob":
                digest = read_digest(file.blob, f"{at}.file.blob")
                return NewDocument(**known, format=file.format, digest=digest)
            if not file.data:
                raise InvalidFieldError(f"{at}.file is empty; set data or blob", field=f"{at}.file.data")
            return NewDocument(**known, format=file.format, data=file.data)
        case _:
            raise InvalidFieldError(f"{at} has no content; set text or file", field=f"{at}.text")


def _check_metadata(given: str, index: Index, field: str) -> None:
    if len(given.encode()) > MOST_METADATA_BYTES:
        raise InvalidFieldError(f"{field} has {len(given.encode())} bytes; at most {MOST_METADATA_BYTES}", field=field)
    read = _json(given, field) if given else {}
    if not isinstance(read, dict):
        raise InvalidFieldError(f"{field} is no JSON object", field=field)
    for name, kind in index.spec.fields:
        value = read.get(name)
        values = value if isinstance(value, list) and kind is IndexFieldType.TEXT else [value]
        if value is not None and not all(is_of(each, kind) for each in values):
            raise InvalidFieldError(
                f"{field}: {name!r} is {str(value)[:80]!r}, and the index says that it is {kind.name}", field=field
            )


def is_of(value: Any, kind: IndexFieldType) -> bool:
    """Whether a value has the type of a field."""
    if isinstance(value, bool):
        return kind is IndexFieldType.BOOL
    if isinstance(value, str):
        return kind is IndexFieldType.TEXT
    return kind is IndexFieldType.NUMBER and isinstance(value, int | float) and abs(value) <= sys.float_info.max


def _json(given: str, field: str) -> Any:
    try:
        read = json.loads(given)
        json.dumps(read, ensure_ascii=False).encode()  # half a character has no place in what is kept
    except (ValueError, RecursionError) as error:
        raise InvalidFieldError(f"{field} is no JSON: {error}", field=field) from None
    return read


def read_ids(given: Sequence[str]) -> list[str]:
    """Ids of documents.

    Raises:
        InvalidFieldError: There are none or too many, or one is none.
    """
    if not 1 <= len(given) <= MOST_DOCUMENTS:
        raise InvalidFieldError(
            f"document_ids has {len(given)} entries; it must have 1 to {MOST_DOCUMENTS}", field="document_ids"
        )
    for number, each in enumerate(given):
        _check_length(each, MOST_ID, f"document_ids[{number}]", least=1)
    return list(dict.fromkeys(given))


def read_query(given: ip.IndexQuery) -> Query:
    """What is looked for.

    Raises:
        InvalidFieldError: Something of it is not as it must be.
    """
    if not given.text.strip():
        raise InvalidFieldError("query.text is empty; say what is looked for", field="query.text")
    _check_length(given.text, MOST_QUERY, "query.text")
    if given.count > MOST_COUNT:
        raise InvalidFieldError(f"query.count is {given.count}; at most {MOST_COUNT}", field="query.count")
    if len(given.filters) > MOST_FILTERS:
        raise InvalidFieldError(
            f"query.filters has {len(given.filters)} entries; at most {MOST_FILTERS}", field="query.filters"
        )
    filters = tuple(
        Filter(
            each.field,
            _read_enum(Comparison, each.comparison, f"query.filters[{number}].comparison"),
            _json(each.value_json, f"query.filters[{number}].value_json"),
        )
        for number, each in enumerate(given.filters)
    )
    return Query(
        index=given.index,
        text=given.text,
        count=given.count or DEFAULT_COUNT,
        mode=_read_enum(SearchMode, given.mode, "query.mode") if given.mode else None,
        filters=filters,
    )


def write_index(index: Index) -> ip.Index:
    """An index for the wire."""
    spec = index.spec
    return ip.Index(
        spec=ip.IndexSpec(
            name=spec.name,
            embedding_model=spec.model,
            chunking=ip.Chunking(size=spec.size, overlap=spec.overlap),
            fields=[
                ip.IndexField(name=name, type=ip.IndexFieldType.ValueType(kind.value)) for name, kind in spec.fields
            ],
            description=spec.description,
        ),
        version=index.version,
        documents=index.documents,
        chunks=index.chunks,
        segments=len(index.segments),
        size_bytes=index.size_bytes,
        width=index.width,
        create_time=unix_time(index.created),
        update_time=unix_time(index.updated),
    )


def write_found(found: Sequence[Found]) -> list[ip.FoundChunk]:
    """Chunks for the wire."""
    return [
        ip.FoundChunk(
            document_id=each.document_id,
            title=each.title,
            start=each.start,
            end=each.end,
            text=each.text,
            score=each.score,
            metadata_json=each.metadata,
        )
        for each in found
    ]


def write_told(told: Told) -> xs.AnswerQuestionResponse:
    """What is told of an answer, for the wire."""
    if isinstance(told, Passages):
        found = xs.FoundPassages(passages=write_found(told.found), left_out=told.left_out)
        return xs.AnswerQuestionResponse(found=found)
    if isinstance(told, Delta):
        return xs.AnswerQuestionResponse(text=told.text)
    citations = [
        ip.Citation(
            document_id=each.document_id,
            title=each.title,
            start=each.start,
            end=each.end,
            quote=each.quote,
            passage=each.passage,
        )
        for each in told.citations
    ]
    return xs.AnswerQuestionResponse(
        ended=xs.AnswerEnded(
            citations=citations,
            dropped_quotes=told.dropped,
            no_answer=told.no_answer,
            prompt_tokens=told.prompt_tokens,
            output_tokens=told.output_tokens,
            finish_reason=tp.FinishReason.ValueType(told.reason.value),
        )
    )
