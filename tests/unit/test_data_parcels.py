"""Parts of datasets that others made: held against what the dataset says, before they are unpacked."""

from typing import Any

import pytest

from inferd_client.data.arrow import made, read

pa = pytest.importorskip("pyarrow")


def part_of(table: Any, compression: str | None = None) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema, options=pa.ipc.IpcWriteOptions(compression=compression)) as writer:
        writer.write_table(table)
    part: bytes = sink.getvalue().to_pybytes()
    return part


def test_a_part_is_read_as_it_was_made() -> None:
    """Rows of all batches are counted, with dictionaries and without; none are none."""
    words = pa.array(["a", "b", "a"]).dictionary_encode()
    table = pa.concat_tables([pa.table({"n": [1, 2, 3], "w": words})] * 2)
    assert read(part_of(table), 6).equals(table)
    assert read(made(table).data, 6).num_rows == 6
    assert read(part_of(table.slice(0, 0)), 0).num_rows == 0


@pytest.mark.parametrize("kind", ["numbers", "words"])
def test_a_compressed_part_is_not_unpacked(kind: str) -> None:
    """A part whose size nobody knows before it is unpacked is refused."""
    words = pa.array(["a" * 1000] * 9)
    table = pa.table({"x": words.dictionary_encode() if kind == "words" else pa.array([0] * 100_000)})
    with pytest.raises(ValueError, match="is compressed"):
        read(part_of(table, "zstd"), 1)


def test_a_part_has_the_rows_that_the_dataset_says() -> None:
    """A part of other rows is refused, also where rows take no room; what is no part is refused as such."""
    for rows in (2, 1 << 20):
        with pytest.raises(ValueError, match=f"has {rows} rows, and the dataset says 1"):
            read(part_of(pa.table({"x": pa.nulls(rows)})), 1)
    for part in (b"", b"x" * 100, part_of(pa.table({"x": [1]}))[:-60]):
        with pytest.raises(ValueError, match=r"is no table of Arrow|has 0 rows"):
            read(part, 1)
