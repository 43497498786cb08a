"""Datasets that are read by several at once, as they are deleted, and packed beyond bounds, with a real kernel."""

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from test_dataset_inputs import LINES, LOUD, beside, settings
from time_limits import LONG_S

from inferd.runtime.front.dataset_rows import DatasetRows
from inferd.runtime.records import Records
from inferd.store.store import Drop, Kind
from inferd.testing.kernel import kernel_here, write_fake_model
from inferd_api.v1.dataset_pb2 import DatasetPart
from inferd_client import AsyncClient, data
from inferd_client.errors import DatasetHeldError, DatasetNotFoundError, LimitExceededError


async def test_what_two_evaluations_read_stays_for_the_second(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two of one model read a dataset at once: the end of the first lets nobody delete what the other reads."""
    gates, begun = [asyncio.Event(), asyncio.Event()], [asyncio.Event(), asyncio.Event()]
    read, left = DatasetRows.lines, iter((0, 1))

    async def lines(self: DatasetRows, *given: Any, **named: Any) -> list[str]:
        number = next(left)
        begun[number].set()
        await gates[number].wait()
        return await read(self, *given, **named)

    monkeypatch.setattr(DatasetRows, "lines", lines)
    async with (
        kernel_here(tmp_path, **settings(tmp_path)) as kernel,
        AsyncClient(kernel.addresses[0]) as client,
        asyncio.timeout(LONG_S),
    ):
        await client.create_model("fake", str(write_fake_model(tmp_path, "fake")))
        await beside(client, lambda made: data.add(made, "choices", LINES, origin="test"))
        making = []
        for each in begun:
            making.append(
                asyncio.ensure_future(client.evaluate_model("fake", kind="choice", separator="", dataset="choices"))
            )
            await each.wait()
        gates[0].set()
        await making[0]
        with pytest.raises(DatasetHeldError):
            await client.delete_dataset("choices")
        gates[1].set()
        assert (await making[1]).lines == len(LINES)
        assert await client.delete_dataset("choices") == [1]


async def test_nothing_begins_to_read_what_is_being_deleted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """While the store forgets a dataset no run of a pipeline takes it as its input."""
    keep, forgetting, gate = Records.keep, asyncio.Event(), asyncio.Event()

    async def wait(self: Records, writes: Sequence[Any]) -> None:
        if any(isinstance(each, Drop) and each.kind is Kind.DATASET for each in writes):
            forgetting.set()
            await gate.wait()
        await keep(self, writes)

    monkeypatch.setattr(Records, "keep", wait)
    async with (
        kernel_here(tmp_path, **settings(tmp_path)) as kernel,
        AsyncClient(kernel.addresses[0]) as client,
        asyncio.timeout(LONG_S),
    ):
        await beside(client, lambda made: data.add(made, "rows", [{"text": "a"}], origin="test"))
        deleting = asyncio.ensure_future(client.delete_dataset("rows"))
        await forgetting.wait()
        with pytest.raises(DatasetNotFoundError, match="rows@1 is being deleted"):
            await client.create_pipeline_run(LOUD, dataset="rows")
        gate.set()
        assert await deleting == [1]


def packed(rows: int, characters: int) -> bytes:
    """A table of long rows that takes few bytes."""
    sink, schema = pa.BufferOutputStream(), pa.schema([("text", pa.string())])
    with pa.ipc.new_stream(sink, schema, options=pa.ipc.IpcWriteOptions(compression="zstd")) as writer:
        for _ in range(rows):
            writer.write_batch(pa.record_batch([pa.array(["x" * characters])], schema))
    given: bytes = sink.getvalue().to_pybytes()
    return given


async def test_a_packed_part_is_read_within_a_bound(tmp_path: Path) -> None:
    """A part of some KB whose rows are large is refused by the bound of what the kernel holds of it."""
    bounds = {"datasets": {"lines_bytes": 1 << 20}}
    async with (
        kernel_here(tmp_path, **settings(tmp_path, **bounds)) as kernel,
        AsyncClient(kernel.addresses[0]) as client,
        asyncio.timeout(LONG_S),
    ):
        await client.create_model("fake", str(write_fake_model(tmp_path, "fake")))
        small = await beside(client, lambda made: data.add(made, "small", [{"text": "a"}], origin="test"))
        blob = await client.put_blob(packed(8, 1 << 20))
        assert blob.size_bytes < 1 << 16
        begun = await client.create_dataset("packed", list(small.columns), small.lineage)
        part = DatasetPart(digest=blob.digest, rows=8)
        await client.append_dataset("packed", begun.version, [part], first_part=0)
        await client.finish_dataset("packed", begun.version, 1)
        run = await client.create_pipeline_run(LOUD, dataset="packed")
        async for _ in client.watch_pipeline_run(run.run_id):
            pass
        ended = await client.get_pipeline_run(run.run_id)
        assert "1048576 bytes as JSON, which is datasets.lines_bytes" in ended.error.message
        with pytest.raises(LimitExceededError, match=r"datasets\.lines_bytes"):
            await client.evaluate_model("fake", kind="generation", dataset="packed")
        assert await client.delete_dataset("packed") == [1]
