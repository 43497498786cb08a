"""Whole numbers of JSON Lines stay what they are in columns, or are refused."""

import json
from pathlib import Path
from typing import Any

import pytest

from inferd_client.data.reading import BLOCK_BYTES, of_program, opened


def read(path: Path, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    with opened(path, "jsonl", {}) as (_, batches):
        return [row for batch in batches for row in batch.to_pylist()]


def test_a_number_that_has_no_place_is_refused_with_its_line(tmp_path: Path) -> None:
    """Of 64 bits it stays; more is an error that names the line, deep in a row and behind the first megabytes, too."""
    rows: list[dict[str, Any]] = [{"n": (1 << 63) - 1}, {"n": -(1 << 63)}]
    assert read(tmp_path / "a.jsonl", rows) == rows
    far = [{"n": 1, "text": "x" * 1000} for _ in range(BLOCK_BYTES // 1000 + 100)]
    for wrong, line in (
        ([*rows, {"n": 1 << 63}], 3),
        ([{"n": [{"m": -(10**30)}]}], 1),
        ([*far, {"n": 10**20, "text": ""}], len(far) + 1),
    ):
        with pytest.raises(ValueError, match=rf"line {line} has the whole number -?[0-9]+, .* in quotation marks"):
            read(tmp_path / "b.jsonl", wrong)
    with pytest.raises(ValueError, match="more than 64 bits"):
        of_program([{"n": 1 << 64}], {})


def test_digits_that_are_no_whole_number_are_left_alone(tmp_path: Path) -> None:
    """In a text, behind a point, before an exponent, and in lines that are no JSON, which Arrow tells of."""
    rows = [{"t": "[12345678901234567890123]", "f": 0.5}, {"t": "", "f": 1.2345678901234567}]
    assert read(tmp_path / "a.jsonl", rows) == rows
    (tmp_path / "b.jsonl").write_text('{"n": 12345678901234567890e2}\n')
    with opened(tmp_path / "b.jsonl", "jsonl", {}) as (_, batches):
        assert [batch.to_pylist() for batch in batches] == [[{"n": 12345678901234567890e2}]]
    (tmp_path / "c.jsonl").write_text('{"n": 12345678901234567890\n')
    with pytest.raises(ValueError, match="is not jsonl"), opened(tmp_path / "c.jsonl", "jsonl", {}) as (_, batches):
        list(batches)


def test_a_column_that_takes_such_numbers_has_them(tmp_path: Path) -> None:
    """One that was said to be of floats, or of 64 bits without a sign, has what fits; other columns have as before."""
    path = tmp_path / "rows.jsonl"
    path.write_text('{"a": 18446744073709551615, "b": 1e0}\n{"a": 3, "b": 18446744073709551616}\n', encoding="utf-8")
    with opened(path, "jsonl", {"a": "uint64", "b": "double"}) as (_, batches):
        rows = [row for batch in batches for row in batch.to_pylist()]
    assert rows == [{"a": (1 << 64) - 1, "b": 1.0}, {"a": 3, "b": 2.0**64}]
    with (
        pytest.raises(ValueError, match="line 1 has the whole number 18446744073709551615"),
        opened(path, "jsonl", {"b": "double"}),
    ):
        pass
