"""Datasets with a real kernel: made of files, read back, split, kept over a restart, bounded and forgotten."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, TypeVar

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import pytest_asyncio

from inferd.testing.kernel import kernel_here
from inferd_api.v1.dataset_pb2 import ColumnStatistics, DatasetColumn, DatasetLineage, DatasetPart, DatasetState
from inferd_client import AsyncClient, Client, data
from inferd_client.data.arrow import made
from inferd_client.errors import (
    BlobHeldError,
    BlobNotFoundError,
    DatasetNotFoundError,
    InvalidFieldError,
    LimitExceededError,
    StoreUnavailableError,
)

pytestmark = pytest.mark.asyncio(loop_scope="module")

T = TypeVar("T")
ROWS = [{"id": n, "text": f"text {n} is schön", "stars": n % 5 + 0.5} for n in range(500)]
ADD = DatasetLineage(operation="add")


@asynccontextmanager
async def kernel(folder: Path, **settings: Any) -> AsyncIterator[str]:
    """A kernel that keeps what it has in this folder; with the same folder again, the one after it."""
    async with kernel_here(folder, **{"store": {"url": f"sqlite:{folder}/kept/store"}, **settings}) as made_:
        yield made_.addresses[0]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def address(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[str]:
    bounds = {"parts": 3, "tenant_count": 5, "tenant_record_bytes": 1 << 16}
    async with kernel(tmp_path_factory.mktemp("served"), datasets=bounds) as served:
        yield served


async def with_client(address: str, do: Callable[[Client], T], tenant: str = "default") -> T:
    """What a synchronous client does, beside the loop of the kernel."""

    def run() -> T:
        with Client(address, tenant=tenant) as client:
            return do(client)

    return await asyncio.to_thread(run)


def files(folder: Path) -> dict[str, Path]:
    """The same rows in files of each form."""
    table = pa.Table.from_pylist(ROWS)
    paths = {form: folder / f"rows.{form}" for form in ("jsonl", "csv", "parquet", "arrow")}
    paths["jsonl"].write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in ROWS), encoding="utf-8")
    lines = [f"{row['id']},{row['text']},{row['stars']}\n" for row in ROWS]
    paths["csv"].write_text("id,text,stars\n" + "".join(lines), encoding="utf-8")
    pq.write_table(table, paths["parquet"])
    with pa.ipc.new_file(paths["arrow"], table.schema) as writer:
        writer.write_table(table)
    return paths


async def test_the_same_rows_of_any_form_have_one_digest(address: str, tmp_path: Path) -> None:
    """Rows of JSON Lines, CSV, Parquet and Arrow become the same dataset, and come out as they were."""

    def go(client: Client) -> None:
        found = [data.add(client, form, path) for form, path in files(tmp_path).items()]
        assert len({each.digest for each in found}) == 1
        first = found[0]
        assert (first.rows, first.version, first.state) == (500, 1, DatasetState.DATASET_STATE_WHOLE)
        assert [(each.name, each.type) for each in first.columns] == [
            ("id", "int64"), ("text", "string"), ("stars", "double"),
        ]  # fmt: skip
        known = {each.name: each.statistics for each in first.columns}
        assert (known["id"].least_json, known["id"].most_json, known["id"].sum) == ("0", "499", 124750.0)
        assert known["text"].sum == sum(len(row["text"]) for row in ROWS)
        assert list(data.rows(client, "csv", most=3)) == ROWS[:3]
        for form in ("jsonl", "csv", "parquet", "arrow"):
            target = tmp_path / f"back.{form}"
            assert data.export(client, "parquet@1", target) == 500
            assert data.add(client, "jsonl", target).digest == first.digest
            client.delete_dataset("jsonl")

    await with_client(address, go, "forms")


def part_of(*numbers: int) -> Any:
    return made(pa.table({"n": pa.array(numbers, pa.int64())}))


COLUMNS = [DatasetColumn(name="n", type="int64")]


async def give(client: AsyncClient, *numbers: int) -> DatasetPart:
    """A part that is there as a blob."""
    part = part_of(*numbers)
    blob = await client.put_blob(part.data)
    return DatasetPart(digest=blob.digest, rows=part.rows, statistics=part.statistics)


async def test_a_version_grows_until_it_is_whole(address: str) -> None:
    """Who asks for the same again finds the parts that are there; the same parts change nothing, others are refused."""
    async with AsyncClient(address, tenant="grows") as client:
        first, second = await give(client, 1, 2), await give(client, 3)
        begun = await client.create_dataset("a", COLUMNS, ADD)
        with pytest.raises(DatasetNotFoundError, match=r"no version that is whole; it has 1 \(growing\)"):
            await client.get_dataset("a")
        await client.append_dataset("a", 1, [first], first_part=0)
        again = await client.create_dataset("a", COLUMNS, ADD)
        assert (again.version, again.parts, again.rows) == (begun.version, 1, 2) == (1, 1, 2)
        assert (await client.create_dataset("a", COLUMNS, DatasetLineage(operation="map"))).version == 2
        assert (await client.append_dataset("a", 1, [first, second], first_part=0)).parts == 2
        with pytest.raises(InvalidFieldError, match="begin another version") as other:
            await client.append_dataset("a", 1, [second], first_part=0)
        assert other.value.field == "parts[0].digest"
        with pytest.raises(InvalidFieldError, match="first_part is 3 and dataset a@1 has 2 parts"):
            await client.append_dataset("a", 1, [first], first_part=3)
        with pytest.raises(InvalidFieldError, match="parts is 1 and dataset a@1 has 2"):
            await client.finish_dataset("a", 1, 1)
        whole = await client.finish_dataset("a", 1, 2)
        assert whole.digest.startswith("sha256:")
        assert (whole.columns[0].statistics.least_json, whole.columns[0].statistics.sum) == ("1", 6.0)
        with pytest.raises(InvalidFieldError, match="is whole, and never changes"):
            await client.append_dataset("a", 1, [first], first_part=2)
        assert await client.finish_dataset("a", 1, 2) == whole
        third = await client.create_dataset("a", COLUMNS, ADD)
        await client.append_dataset("a", third.version, [first, second], first_part=0)
        same = await client.finish_dataset("a", third.version, 2)
        assert (same.version, same.digest) == (1, whole.digest)
        assert [each.version async for each in client.list_datasets(name="a")] == [2, 1]
        assert [part async for part in client.read_dataset("a", first_part=1)] == [part_of(3).data]
        assert [part.rows async for part in client.list_dataset_parts("a")] == [2, 1]


async def test_what_is_wrong_is_refused_by_its_field(address: str) -> None:
    """Names, types, digests, statistics and counts that cannot be are refused, each with its path."""
    async with AsyncClient(address, tenant="wrong") as client:
        part = await give(client, 1)
        await client.create_dataset("a", COLUMNS, ADD)

        async def refused(doing: Any, field: str) -> None:
            with pytest.raises(InvalidFieldError) as error:
                await doing
            assert error.value.field == field

        await refused(client.create_dataset("../a", COLUMNS, ADD), "name")
        await refused(client.create_dataset("b", [], ADD), "columns")
        await refused(client.create_dataset("b", [*COLUMNS, *COLUMNS], ADD), "columns[1].name")
        await refused(client.create_dataset("b", COLUMNS, DatasetLineage(operation="Add")), "lineage.operation")
        odd = DatasetLineage(operation="add", parameters_json="[1]")
        await refused(client.create_dataset("b", COLUMNS, odd), "lineage.parameters_json")
        await refused(client.create_dataset("b", COLUMNS, ADD, retention_s=0), "retention")
        await refused(client.append_dataset("a", 1, [], first_part=0), "parts")
        for name, value in {"nulls": 2, "least_json": '{"a": 1}', "most_json": "NaN", "sum": float("inf")}.items():
            bad = DatasetPart(digest=part.digest, rows=1)
            setattr(bad.statistics.add(), name, value)
            await refused(client.append_dataset("a", 1, [bad], first_part=0), f"parts[0].statistics[0].{name}")
        half = DatasetPart(digest=part.digest, rows=1, statistics=[ColumnStatistics(least_json='"\\ud800"')])
        await refused(client.append_dataset("a", 1, [half], first_part=0), "parts[0].statistics[0].least_json")
        wide = DatasetColumn(name="wide", type="x" * 4000)
        assert (await client.create_dataset("wide", [wide], ADD)).columns[0].type == wide.type
        text = DatasetPart(digest=part.digest, rows=1)
        text.statistics.add(least_json='"a"')
        await refused(client.append_dataset("a", 1, [part, text], first_part=0), "parts[1].statistics[0].least_json")
        with pytest.raises(BlobNotFoundError):
            await client.append_dataset("a", 1, [DatasetPart(digest=f"sha256:{'0' * 64}", rows=1)], first_part=0)
        assert (await client.get_dataset("a", version=1)).parts == 0
        assert [blob.holders async for blob in client.list_blobs()] == [[]]


async def test_bounds_have_names(address: str) -> None:
    """More parts, versions and records than may be are refused with the bound and both numbers."""
    async with AsyncClient(address, tenant="many") as client:
        parts = [await give(client, n) for n in range(4)]
        await client.create_dataset("a", COLUMNS, ADD)
        with pytest.raises(LimitExceededError) as many:
            await client.append_dataset("a", 1, parts, first_part=0)
        assert many.value.metadata == {"bound": "datasets.parts", "value": "4", "limit": "3"}
        long = DatasetLineage(operation="add", parameters_json=f'{{"a": "{"x" * 20_000}"}}')
        with pytest.raises(LimitExceededError) as large:
            await client.create_dataset("b", COLUMNS, long)
        assert large.value.metadata["bound"] == "datasets.tenant_record_bytes"
        for name in "bcde":
            await client.create_dataset(name, COLUMNS, ADD)
        with pytest.raises(LimitExceededError) as versions:
            await client.create_dataset("f", COLUMNS, ADD)
        assert versions.value.metadata["bound"] == "datasets.tenant_count"


async def test_a_dataset_is_its_tenants_and_holds_its_blobs(address: str) -> None:
    """No other tenant has it; its blobs stay while it is there, and go with it where nobody else has them."""
    async with AsyncClient(address, tenant="mine") as client, AsyncClient(address, tenant="theirs") as other:
        shared, own = await give(client, 1), await give(client, 2)
        for name, parts in {"a": [shared, own], "b": [shared]}.items():
            await client.create_dataset(name, COLUMNS, ADD)
            await client.append_dataset(name, 1, parts, first_part=0)
            await client.finish_dataset(name, 1, len(parts))
        with pytest.raises(DatasetNotFoundError):
            await other.get_dataset("a")
        assert [each async for each in other.list_datasets()] == []
        with pytest.raises(BlobHeldError, match="dataset a@1, dataset b@1"):
            await client.delete_blob(shared.digest)
        with pytest.raises(DatasetNotFoundError, match="did you mean 'a'"):
            await client.get_dataset("aa")
        assert await client.delete_dataset("a") == [1]
        assert [blob.digest async for blob in client.list_blobs()] == [shared.digest]
        with pytest.raises(DatasetNotFoundError):
            await client.delete_dataset("a")


async def test_datasets_outlive_the_kernel(tmp_path: Path) -> None:
    """After a restart versions are as they were, hold their blobs, and grow on."""
    async with kernel(tmp_path) as address, AsyncClient(address) as client:
        first, second = await give(client, 1), await give(client, 2, 3)
        for name in ("whole", "growing"):
            await client.create_dataset(name, COLUMNS, ADD)
            await client.append_dataset(name, 1, [first], first_part=0)
        before = await client.finish_dataset("whole", 1, 1)
    async with kernel(tmp_path) as address, AsyncClient(address) as client:
        assert await client.get_dataset("whole") == before
        with pytest.raises(BlobHeldError):
            await client.delete_blob(first.digest)
        grown = await client.create_dataset("growing", COLUMNS, ADD)
        assert (grown.version, grown.parts, grown.columns[0].statistics.sum) == (1, 1, 1.0)
        grown = await client.append_dataset("growing", 1, [second], first_part=1)
        assert (grown.parts, grown.rows, grown.columns[0].statistics.sum) == (2, 3, 6.0)
        await client.finish_dataset("growing", 1, 2)
    async with kernel(tmp_path) as address, AsyncClient(address) as client:
        assert [part async for part in client.read_dataset("growing")] == [part_of(1).data, part_of(2, 3).data]


async def test_a_kernel_that_keeps_nothing_says_so(tmp_path: Path) -> None:
    """Where the store is memory there are no datasets, and the error names the setting."""
    async with kernel(tmp_path, store={"url": "memory:"}) as address, AsyncClient(address) as client:
        with pytest.raises(StoreUnavailableError, match=r"its store\.url is memory:"):
            await client.create_dataset("a", COLUMNS, ADD)
