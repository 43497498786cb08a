"""What the kernel knows of datasets: statistics that are added up, records that come back, and what they cost."""

import json
from collections.abc import Iterator
from typing import Any

import pytest

from inferd.core.dataset import Column, Dataset, DatasetState, Lineage, Part, Source, Statistics, added, digest_of
from inferd.errors import InvalidFieldError
from inferd.runtime.dataset_book import DatasetBook
from inferd.runtime.kept_datasets import Entry, cost_bytes, kept_datasets, writes_of
from inferd.store.store import Append, Kind, Put, Record

PARTS = [Part("a" * 64, 3, 100), Part("b" * 64, 1, 50)]


def dataset(**values: Any) -> Dataset:
    """A version, with these values in place of others."""
    plain: dict[str, Any] = {
        "name": "a",
        "version": 3,
        "columns": (Column(name="n", type="int64", statistics=Statistics(nulls=1, least=-2, most=1.5, total=4.0)),),
        "lineage": Lineage(operation="map", sources=(Source(name="b", version=1, digest="c" * 64),), parameters="{}"),
        "created": 1.0,
        "used": 2.0,
    }
    return Dataset(**{**plain, **values})


def test_statistics_are_added_up() -> None:
    """Nulls and sums add, the least and the most are of both; texts and numbers in one column are refused."""
    one = Statistics(nulls=1, least=2, most=5, total=7.0)
    assert added(one, Statistics(nulls=2, least=-1.5, most=3, total=1.5), "s") == Statistics(
        nulls=3, least=-1.5, most=5, total=8.5
    )
    assert added(Statistics(), one, "s") == one == added(one, Statistics(), "s")
    for known, rows in {(one, Statistics(nulls=1)): (4, 9), (Statistics(nulls=1), one): (2, 9)}.items():
        assert added(*known, "s", rows=rows) == Statistics(nulls=2)  # one has values of which nothing is known
    assert added(one, Statistics(nulls=9), "s", rows=(4, 9)).total == 7.0
    assert added(Statistics(least="b", most="b"), Statistics(least="a", most="a"), "s").least == "a"
    with pytest.raises(InvalidFieldError) as mixed:
        added(one, Statistics(least="a"), "parts[0].statistics[1]")
    assert mixed.value.field == "parts[0].statistics[1].least_json"
    with pytest.raises(InvalidFieldError, match="leave it out"):
        added(Statistics(total=1.7e308), Statistics(total=1.7e308), "s")


def test_a_digest_is_of_columns_and_parts_in_their_order() -> None:
    """Another name, type, order, count of rows or number of parts is another digest; statistics are none of it."""
    columns = dataset().columns
    others = [
        digest_of([Column(name="m", type="int64")], PARTS),
        digest_of([Column(name="n", type="int32")], PARTS),
        digest_of(columns, PARTS[::-1]),
        digest_of(columns, PARTS[:1]),
        digest_of(columns, [Part("a" * 64, 4, 100), PARTS[1]]),
    ]
    found = digest_of(columns, PARTS)
    assert len({found, *others}) == 6
    assert digest_of([Column(name="n", type="int64")], PARTS) == found


class Records:
    """A store with what was written to it, and nothing else."""

    def __init__(self, writes: list[Put | Append]) -> None:
        self._heads = {each.key: each for each in writes if isinstance(each, Put)}
        self._pieces = [each for each in writes if isinstance(each, Append)]

    def records(self, kind: Kind, _: Any) -> Iterator[Record]:
        assert kind is Kind.DATASET
        return iter([Record(each.tenant, each.key, each.value) for each in self._heads.values()])

    def pieces(self, _: str, __: Kind, key: str) -> Iterator[bytes]:
        return iter([each.value for each in self._pieces if each.key == key])


def test_what_is_kept_comes_back() -> None:
    """A version is read as it was written; one with fewer parts than it says, or of another version, is left out."""
    entry = Entry(tenant="t", dataset=dataset())
    writes = [*writes_of(entry, dataset(parts=1, rows=3), PARTS[:1])]
    entry.pieces = 1
    whole = dataset(parts=2, rows=4, state=DatasetState.WHOLE, digest="d" * 64, retention_s=60.0)
    writes += writes_of(entry, whole, PARTS[1:])
    lacking = Entry(tenant="t", dataset=dataset(name="lacking"))
    writes += writes_of(lacking, dataset(name="lacking", parts=5))
    newer = writes_of(lacking, dataset(name="newer"))[0]
    writes.append(Put("t", Kind.DATASET, "newer@3", json.dumps({**json.loads(newer.value), "more": 1}).encode()))
    writes.append(Put("t", Kind.DATASET, "odd@1", b"[]"))
    store: Any = Records(writes)
    (found,) = kept_datasets(store)
    assert (found.dataset, found.parts, found.pieces, found.tenant) == (whole, PARTS, 2, "t")
    assert found.cost_bytes == cost_bytes(writes[2].value, 2)


def test_what_is_known_is_counted() -> None:
    """The memory that versions take is added up by tenant, and given back when one goes, or its tenant is shredded."""
    book = DatasetBook()
    first, second = (
        Entry(tenant="t", dataset=dataset(name=name), cost_bytes=cost) for name, cost in {"a": 100, "b": 50}.items()
    )
    for entry in (first, second, Entry(tenant="u", dataset=dataset(), cost_bytes=7)):
        book.add(entry)
    book.charge(first, 11)
    first.cost_bytes += 11
    assert (book.cost_of("t"), book.cost_bytes, book.count) == (161, 168, 3)
    book.forget(second)
    book.forget(second)
    assert (book.cost_of("t"), book.cost_bytes, book.count) == (111, 118, 2)
    book.forget_tenant("t")
    assert (book.cost_of("t"), book.cost_bytes, book.count) == (0, 7, 1)
