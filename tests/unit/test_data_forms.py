"""Files that datasets are read from and written to, with what these forms have no place for."""

import io
import json
from pathlib import Path

import pytest

from inferd_client.data.exporting import _lines
from inferd_client.data.reading import opened

pa = pytest.importorskip("pyarrow")


def test_json_lines_are_json() -> None:
    """Numbers that JSON has not are null in JSON Lines, wherever they stand."""
    rows = [{"x": float("nan"), "y": [{"z": float("inf")}]}, {"x": 1.5, "y": [{"z": 2.0}]}]
    file = io.BytesIO()
    _lines(file, pa.Table.from_pylist(rows))
    read = [json.loads(line, parse_constant=pytest.fail) for line in file.getvalue().splitlines()]
    assert read == [{"x": None, "y": [{"z": None}]}, rows[1]]


def test_what_is_no_text_says_where(tmp_path: Path) -> None:
    """A file of text that is no UTF-8 is refused with its name and the row."""
    path = tmp_path / "rows.txt"
    path.write_bytes(b"a\n\xff\n")
    with opened(path, "text", {}) as (_, batches), pytest.raises(ValueError, match=r"rows\.txt, behind row 0: .*utf-8"):
        list(batches)
