"""What requests about vector stores say, as indexes have it: what a store is made for, attributes, filters. Pure."""

from __future__ import annotations

import json
from hashlib import sha256
from typing import TYPE_CHECKING, Any, Final

from inferd.http.fields import Refused, checked, need, shown, take
from inferd.http.problems import Refusal
from inferd.http.streams import dumps

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from inferd.http.fields import Table
    from inferd_api.v1.index_pb2 import Index
    from inferd_client.indexes import Condition

PAIRS: Final = "inferd.attributes"
"""The field of an index that has each attribute of a document as a text, NAME=JSON: filters need no others."""
SAID: Final = "inferd.http"
"""What of a document's metadata, and of an index's description, is the gateway's: its value has the rest."""
CHARACTERS: Final = 4  # of a token, about: chunks are of so many characters
MOST_DESCRIPTION: Final = 1000  # as the kernel has it
MOST_ATTRIBUTES, MOST_NAME, MOST_VALUE = 16, 64, 512
LONG_VALUE: Final = 72  # characters of one of which filters know the digest, which is no JSON and equals no other
MOST_SIZE, MOST_TOKENS, LEAST_TOKENS = 100_000, 4096, 100
MOST_DEPTH: Final = 8
MOST_CONDITIONS: Final = 32
COMPARISONS: Final[Mapping[str, str]] = {
    "eq": "=", "ne": "!=", "in": "in", "nin": "!=", "lt": "<", "lte": "<=", "gt": ">", "gte": ">=",
}  # fmt: skip
REFUSED: Final[Table] = {
    "expires_after": Refused("stores are kept until they are deleted"),
    "rewrite_query": Refused("the query is taken as it is", (False,)),
}
_NO_STRATEGY = (
    "chunking_strategy must be {'type': 'auto'}, or {'type': 'static', 'static': {'max_chunk_size_tokens', …}}"
)


def read_chunking(body: Mapping[str, Any]) -> dict[str, int]:
    """How an index cuts documents, as options of `create_index`; {} for its own way.

    Raises:
        Refusal: It is none of OpenAI's.
    """
    said = take(body, "chunking_strategy", dict, "an object with a type")
    if said is None or said == {"type": "auto"}:
        return {}
    static = said.get("static")
    if said.get("type") != "static" or not isinstance(static, dict) or set(said) != {"type", "static"}:
        raise Refusal(_NO_STRATEGY, param="chunking_strategy")
    numbers = {}
    for name, lowest, usual in (("max_chunk_size_tokens", LEAST_TOKENS, 800), ("chunk_overlap_tokens", 0, 400)):
        value = checked(f"chunking_strategy.static.{name}", static.get(name, usual), int, "a whole number")
        if not lowest <= value <= MOST_TOKENS:
            raise Refusal(
                f"chunking_strategy.static.{name} is {value}; it must be {lowest} to {MOST_TOKENS}",
                param="chunking_strategy",
            )
        numbers[name] = value * CHARACTERS
    size, overlap = numbers["max_chunk_size_tokens"], numbers["chunk_overlap_tokens"]
    if overlap > size // 2:
        raise Refusal("chunk_overlap_tokens must be at most half of max_chunk_size_tokens", param="chunking_strategy")
    return {"chunk_size": size, "chunk_overlap": min(overlap, size // 2 - 1)}


def description_of(name: str, description: str, metadata: Mapping[str, Any]) -> str:
    """What an index is described with, so that what its store is called is found again.

    Raises:
        Refusal: They are too long.
    """
    said = dumps({SAID: {"name": name, "description": description, "metadata": metadata}})
    if len(said) > MOST_DESCRIPTION:
        raise Refusal(
            f"name, description and metadata have {len(said)} characters as JSON; at most {MOST_DESCRIPTION}: say less",
            param="metadata",
        )
    return said


def read_attributes(body: Mapping[str, Any]) -> dict[str, Any]:
    """The attributes of a file.

    Raises:
        Refusal: They are too many, or not of texts, numbers, and true and false.
    """
    said = take(body, "attributes", dict, "an object", {})
    if len(said) > MOST_ATTRIBUTES:
        raise Refusal(f"attributes has {len(said)} names; at most {MOST_ATTRIBUTES}", param="attributes")
    for name, value in said.items():
        if name in (SAID, PAIRS):
            raise Refusal(f"attributes.{name} is the gateway's own; take another name", param="attributes")
        if len(name) > MOST_NAME or not isinstance(value, str | int | float):
            raise Refusal(
                f"attributes.{name[:MOST_NAME]} is {shown(value)}; it must be a text, a number, true or false, with a"
                f" name of at most {MOST_NAME} characters",
                param="attributes",
            )
        if isinstance(value, str) and len(value) > MOST_VALUE:
            message = f"attributes.{name} has {len(value)} characters; at most {MOST_VALUE}"
            raise Refusal(message, param="attributes")
    return dict(said)


def metadata_of(attributes: Mapping[str, Any], created_at: int) -> str:
    """The metadata of a document: its attributes, for filters, and what the gateway says of it."""
    told = {**attributes, SAID: {"created_at": created_at}}
    return dumps(told | {PAIRS: [_pair(*each) for each in attributes.items()]})


def said_in(text: str) -> dict[str, Any]:
    """What the gateway has said in a description or in metadata; {} where others wrote it."""
    try:
        said = json.loads(text or "{}")
    except (ValueError, RecursionError):
        return {}
    found = said.get(SAID) if isinstance(said, dict) else None
    return found if isinstance(found, dict) else {}


def attributes_in(metadata_json: str) -> dict[str, Any]:
    """The attributes of a document; of one that others added its plain metadata."""
    try:
        plain = json.loads(metadata_json or "{}")
    except (ValueError, RecursionError):
        return {}
    return {name: value for name, value in plain.items() if isinstance(value, str | int | float) and name != SAID}


def read_filters(body: Mapping[str, Any], index: Index) -> list[Condition]:
    """The conditions of a search, all of which must hold.

    Raises:
        Refusal: It is no filter of OpenAI's, or one that an index cannot hold.
    """
    said = take(body, "filters", dict, "an object with a type")
    if said is None:
        return []
    fields = frozenset(field.name for field in index.spec.fields)
    found = _conditions(said, fields, MOST_DEPTH)
    if len(found) > MOST_CONDITIONS:
        raise Refusal(f"filters has {len(found)} conditions; at most {MOST_CONDITIONS}", param="filters")
    return found


def _conditions(said: Any, fields: frozenset[str], depth: int) -> list[Condition]:
    if not isinstance(said, dict) or depth == 0:
        raise Refusal(f"filters has {shown(said)}, which is no filter, or is too deep", param="filters")
    kind = str(said.get("type"))
    if kind in ("and", "or"):
        parts = need(said, "filters", list, "a list of filters")
        each = [_conditions(part, fields, depth - 1) for part in parts]
        return [one for some in each for one in some] if kind == "and" else [_either(each)]
    if kind not in COMPARISONS:
        words = ", ".join((*COMPARISONS, "and", "or"))
        raise Refusal(f"a filter's type is {shown(kind)}; it must be one of {words}", param="filters")
    key, value = need(said, "key", str, "the name of an attribute"), said.get("value")
    values = value if kind in ("in", "nin") else [value]
    if not isinstance(values, list) or not all(isinstance(each, str | int | float) for each in values):
        raise Refusal(f"the filter of {shown(key)} has {shown(value)} for a value", param="filters")
    if key in fields or PAIRS not in fields:
        return [(key, "!=", each) for each in values] if kind == "nin" else [(key, COMPARISONS[kind], value)]
    if kind in ("lt", "lte", "gt", "gte"):
        raise Refusal(
            f"{shown(key)} is compared by {kind}, which needs a field: make the store with fields, as"
            f' {{"{key[:MOST_NAME]}": "number"}}',
            code="UNSUPPORTED_FIELD",
            param="filters",
        )
    pairs = [_pair(key, each) for each in values]
    if kind in ("ne", "nin"):
        return [(PAIRS, "!=", pair) for pair in pairs]
    return [(PAIRS, "in", pairs)]


def _either(parts: Sequence[Sequence[Condition]]) -> Condition:
    """One condition that holds where one of some does, of a single field."""
    values: list[Any] = []
    names = set()
    for part in parts:
        if len(part) != 1 or part[0][1] not in ("=", "in"):
            break
        ((name, comparison, value),) = part
        names.add(name)
        values += value if comparison == "in" else [value]
    else:
        if len(names) == 1:
            return names.pop(), "in", values
    raise Refusal(
        "filters of the type or can have eq and in alone, of attributes that are no fields, or of one field",
        code="UNSUPPORTED_FIELD",
        param="filters",
    )


def _pair(name: str, value: Any) -> str:
    """An attribute as a text; 1 and 1.0 are the same. Of a long one its digest: it stands in the metadata once."""
    whole = int(value) if isinstance(value, float) and value.is_integer() else value
    written = dumps(whole)
    if len(written) > LONG_VALUE:
        written = f"sha256:{sha256(written.encode()).hexdigest()}"
    return f"{name}={written}"
