"""Datasets: named, versioned tables of data, as the kernel knows them without looking into their rows."""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Final, TypeAlias

from inferd.errors import InvalidFieldError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

Bound: TypeAlias = int | float | str | None
"""The least or the most of some values; None where none is known."""

DIGESTED: Final = b"inferd dataset 1\n"  # what is digested begins with it, so that it is the digest of nothing else


class DatasetState(Enum):
    """Where a version stands; the numbers are those of the wire."""

    GROWING = 1
    WHOLE = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Statistics:
    """What is known of values.

    Attributes:
        nulls: How many are null.
        least, most: Of the others; None where none is known.
        total: The sum of numbers, or of the lengths of texts and lists; None for none.
    """

    nulls: int = 0
    least: Bound = None
    most: Bound = None
    total: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """A column.

    Attributes:
        name: Its name.
        type: Its type as Arrow writes it.
        statistics: What is known of all its values.
    """

    name: str
    type: str
    statistics: Statistics = Statistics()


@dataclass(frozen=True, slots=True)
class Part:
    """Rows in a blob.

    Attributes:
        digest: Of the blob, 64 hexadecimal digits.
        rows: How many.
        size_bytes: Of the blob.
    """

    digest: str
    rows: int
    size_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """A version that another one was made from."""

    name: str
    version: int
    digest: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Lineage:
    """What a version was made from, and how; see `inferd.v1.DatasetLineage`."""

    operation: str
    sources: tuple[Source, ...] = ()
    function: str = ""
    function_version: int = 0
    parameters: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Dataset:
    """A version of a dataset, as it stands; see `inferd.v1.Dataset`. Times are Unix times."""

    name: str
    version: int
    columns: tuple[Column, ...]
    lineage: Lineage
    created: float
    used: float
    retention_s: float | None = None
    state: DatasetState = DatasetState.GROWING
    digest: str = ""
    rows: int = 0
    size_bytes: int = 0
    parts: int = 0

    @property
    def label(self) -> str:
        """How it is called where one word has to say which."""
        return f"{self.name}@{self.version}"


def digest_of(columns: Iterable[Column], parts: Iterable[Part]) -> str:
    """The digest of data: of its columns and its parts in their order, as 64 hexadecimal digits."""
    digest = hashlib.sha256(DIGESTED)
    names = [[each.name, each.type] for each in columns]
    digest.update(json.dumps(names, ensure_ascii=False, separators=(",", ":")).encode() + b"\n")
    for part in parts:
        digest.update(b"%s %d\n" % (part.digest.encode(), part.rows))
    return digest.hexdigest()


def added(one: Statistics, other: Statistics, field: str, *, rows: tuple[int, int] = (0, 0)) -> Statistics:
    """What is known of the values of both: where one has values of which nothing is known, nothing is of both.

    Args:
        one: Of what there is.
        other: Of what is added.
        field: The path of that in its request.
        rows: How many each has.

    Raises:
        InvalidFieldError: One has numbers where the other one has texts, or their sum is none.
    """
    total = one.total if other.total is None else (one.total or 0.0) + other.total
    if total is not None and not math.isfinite(total):
        raise InvalidFieldError(f"{field}.sum makes the sum of the column {total}; leave it out", field=f"{field}.sum")
    values = [each for each, has in zip((one, other), rows, strict=True) if has > each.nulls]
    least = _chosen(min, one.least, other.least, f"{field}.least_json")
    most = _chosen(max, one.most, other.most, f"{field}.most_json")
    return Statistics(
        nulls=one.nulls + other.nulls,
        least=None if any(each.least is None for each in values) else least,
        most=None if any(each.most is None for each in values) else most,
        total=None if any(each.total is None for each in values) else total,
    )


def _chosen(choose: Callable[..., Bound], one: Bound, other: Bound, field: str) -> Bound:
    if one is None or other is None:
        return other if one is None else one
    if isinstance(one, str) is not isinstance(other, str):
        raise InvalidFieldError(
            f"{field} is {other!r} and other parts have {one!r}: a column has texts or numbers, not both", field=field
        )
    return choose(one, other)
