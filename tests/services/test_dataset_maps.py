"""Datasets that are made of others by real workers: a function over a column, and splits."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any, TypeVar

import pyarrow as pa
import pytest
import pytest_asyncio
from typer.testing import CliRunner, Result

from inferd.cli.main import app
from inferd.testing.kernel import kernel_here
from inferd_api.v1.dataset_pb2 import Dataset
from inferd_client import AsyncClient, Client, data
from inferd_client.data import arrow, mapping
from inferd_client.errors import FunctionFailedError, InvalidFieldError

pytestmark = pytest.mark.asyncio(loop_scope="module")

T = TypeVar("T")
FUNCTIONS = {"modules": ("inferd.testing.functions",), "packages": (), "calls": 2}
ROWS = [{"n": n, "text": None if n % 7 == 3 else f"row {n}"} for n in range(60)]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def address(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[str]:
    """A kernel that keeps what it has, with the functions of tests."""
    folder = tmp_path_factory.mktemp("served")
    async with kernel_here(folder, functions=FUNCTIONS, store={"url": f"sqlite:{folder}/kept"}) as made:
        yield made.addresses[0]


@pytest.fixture
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Parts of 20 rows, and tasks of 8."""
    monkeypatch.setattr(arrow, "PART_ROWS", 20)
    monkeypatch.setattr(mapping, "BATCH_ROWS", 8)


async def with_client(address: str, tenant: str, do: Callable[[Client], T]) -> T:
    """What a synchronous client does, beside the loop of the kernel."""

    def run() -> T:
        with Client(address, tenant=tenant) as client:
            return do(client)

    return await asyncio.to_thread(run)


async def test_one_task_calls_a_function_for_several_inputs(address: str) -> None:
    """What it gives for each comes in their order; lists of a stream's pieces; which input is wrong is named."""
    async with AsyncClient(address) as client:
        rows = [{"text": f"{n}" * 50, "times": 200} for n in range(30)]
        found = [value async for value in client.call_each("repeat", rows, version=1)]
        assert found == [" ".join([row["text"]] * 200) for row in rows]  # type: ignore[operator]
        assert [each async for each in client.call_each("count", [{"upto": 2}, {"upto": 0}])] == [[0, 1], []]
        assert [each async for each in client.call_each("repeat", [])] == []
        with pytest.raises(InvalidFieldError) as wrong:
            _ = [each async for each in client.call_each("repeat", [{"text": "a"}, {"txet": "a"}])]
        assert wrong.value.field == "spec.call.input[1].txet"
        with pytest.raises(FunctionFailedError, match=r"'count' failed for input \[1\]: RuntimeError: three"):
            _ = [each async for each in client.call_each("count", [{"upto": 1}, {"upto": 9}])]
        with pytest.raises(InvalidFieldError, match=r"refuses its input \[0\]: not today") as refused:
            _ = [each async for each in client.call_each("refuse", [{"why": "not today"}])]
        assert refused.value.field == "spec.call.input[0]"


class StoppedError(Exception):
    """The client is gone."""


@pytest.mark.usefixtures("small_parts")
async def test_a_map_goes_on_where_it_stopped(address: str) -> None:
    """A map that was cut off goes on behind the last part that is kept, and gives what one in one piece gives."""

    def go(client: Client) -> None:
        source = data.add(client, "rows", ROWS, origin="test")
        assert source.parts == 3
        at_once = data.map_column(client, "rows", "repeat", column="text", into="other", result="text").dataset

        def stop(dataset: Dataset) -> None:
            assert dataset.parts == 1
            raise StoppedError

        with pytest.raises(StoppedError):
            data.map_column(client, "rows", "repeat", column="text", into="loud", result="text", progress=stop)
        seen: list[int] = []
        made = data.map_column(
            client, "rows", "repeat", column="text", into="loud", result="text",
            progress=lambda each: seen.append(each.parts),
        )  # fmt: skip
        assert seen == [2, 3]
        assert (made.dataset.version, made.dataset.digest) == (1, at_once.digest)
        assert list(data.rows(client, "loud")) == [
            {"n": row["n"], "text": None if row["text"] is None else f"{row['text']}!"} for row in ROWS
        ]
        lineage = made.dataset.lineage
        assert (lineage.operation, lineage.function, lineage.function_version) == ("map", "repeat", 2)
        assert [(each.name, each.version, each.digest) for each in lineage.sources] == [("rows", 1, source.digest)]
        assert made.dataset.columns[1].statistics.nulls == 9

    await with_client(address, "maps", go)


@pytest.mark.usefixtures("small_parts")
async def test_a_row_that_fails_is_named_or_null(address: str) -> None:
    """The first row for which the function fails ends the map by its number, or such rows are null and counted."""

    def go(client: Client) -> None:
        data.add(client, "rows", [{"upto": 9 if n == 33 else n % 3} for n in range(50)])
        with pytest.raises(FunctionFailedError, match=r"^row 33: .*three is one too many"):
            data.map_column(client, "rows", "count", column="upto", into="a")
        made = data.map_column(client, "rows", "count", column="upto", into="a", skip_failed=True)
        assert (made.failed, made.dataset.columns[1].statistics.nulls) == (1, 1)
        assert made.first_error.startswith("row 33: ")
        found = [row["count"] for row in data.rows(client, "a")]
        assert found == [None if n == 33 else list(range(n % 3)) for n in range(50)]
        with pytest.raises(ValueError, match="has no column 'text'; there are upto"):
            data.map_column(client, "rows", "count", column="text", into="a")

    await with_client(address, "fails", go)


async def test_what_a_function_gives_has_its_type(address: str) -> None:
    """Objects and lists that a function declares become structs and lists of Arrow."""

    def go(client: Client) -> None:
        data.add(client, "rows", [{"texts": ["a b", "a"]}, {"texts": []}])
        data.map_column(client, "rows", "words", column="texts", into="counted")
        (table,) = data.tables(client, "counted")
        assert table.schema.field("words").type == pa.list_(pa.struct([("word", pa.string()), ("count", pa.int64())]))
        assert table.column("words").to_pylist() == [[{"word": "a", "count": 2}, {"word": "b", "count": 1}], []]

    await with_client(address, "types", go)


async def test_a_row_stays_in_its_split(address: str) -> None:
    """Shares of a split have all rows once; where one goes depends on the seed and itself, whatever others come."""

    def go(client: Client) -> None:
        shares = {"train": 0.75, "test": 0.25}
        data.add(client, "rows", [{"n": n} for n in range(400)])
        made = data.split(client, "rows", shares, seed=1)
        assert sum(each.rows for each in made.values()) == 400
        assert 260 <= made["train"].rows <= 340
        test = {row["n"] for row in data.rows(client, "rows.test")}
        assert test.isdisjoint(row["n"] for row in data.rows(client, "rows.train"))
        again = data.split(client, "rows", shares, seed=1)
        assert [(each.version, each.digest) for each in again.values()] == [(1, each.digest) for each in made.values()]
        data.add(client, "rows", [{"n": n} for n in range(500, -1, -1)])
        data.split(client, "rows", shares, seed=1)
        assert {row["n"] for row in data.rows(client, "rows.test") if row["n"] < 400} == test
        data.split(client, "rows@1", shares, seed=2)
        assert {row["n"] for row in data.rows(client, "rows.test")} != test
        with pytest.raises(ValueError, match="together they must be 1"):
            data.split(client, "rows", {"train": 0.5})
        grouped = [{"who": n % 10, "n": n} for n in range(100)]
        data.add(client, "by", grouped)
        data.split(client, "by", {"a": 0.5, "b": 0.5}, by=["who"])
        parts = [{row["who"] for row in data.rows(client, name)} for name in ("by.a", "by.b")]
        assert parts[0].isdisjoint(parts[1])

    await with_client(address, "splits", go)


async def test_the_command_line_does_all_of_it(address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`inferd data` adds, lists, shows, splits, maps, exports and removes, as JSON and for people."""
    file, back = tmp_path / "rows.csv", tmp_path / "back.jsonl"
    file.write_text("text,zip\na,00123\nb,00456\n", encoding="utf-8")

    async def inferd(*words: object) -> Result:
        given = ["data", *map(str, words), "--address", address, "--tenant", "cli"]
        return await asyncio.to_thread(CliRunner().invoke, app, given)

    async def told(*words: object) -> Any:
        done = await inferd(*words, "-o", "json")
        return json.loads(done.stdout or done.stderr)

    added = await told("add", "rows", file, "--type", "zip=string")
    assert (added["name"], added["version"], added["rows"]) == ("rows", 1, "2")
    assert (await told("head", "rows", "-n", "1"))["rows"] == [{"text": "a", "zip": "00123"}]
    made = await told("map", "rows@1", "repeat@1", "loud", "--input", '{"case": "upper"}', "--result", "text")
    assert (made["lineage"]["function_version"], made["failed"]) == (1, 0)
    assert (await told("export", "loud", back))["rows"] == 2
    assert [json.loads(line) for line in back.read_text().splitlines()] == [
        {"text": "A", "zip": "00123"}, {"text": "B", "zip": "00456"},
    ]  # fmt: skip
    assert [each["name"] for each in (await told("split", "rows", "a=0.5", "b=0.5"))["datasets"]] == [
        "rows.a",
        "rows.b",
    ]
    assert {each["name"] for each in (await told("list"))["datasets"]} == {"rows", "loud", "rows.a", "rows.b"}
    shown = (await inferd("show", "loud")).stdout
    assert "made by: map repeat@1, of rows@1 sha256:" in shown
    file.write_text("text,n\na b,1\nc,2\nA  B,3\n,4\n", encoding="utf-8")
    await told("add", "again", file)
    assert (await told("dedupe", "again", "once"))["rows"] == "3"
    assert [row["n"] for row in (await told("head", "once"))["rows"]] == [1, 2, 4]
    assert "has no column 'n' of texts" in (await told("dedupe", "again", "x", "--column", "n"))["error"]["message"]
    assert (await told("rm", "loud"))["versions"] == [1]
    assert (await told("show", "loud"))["error"]["reason"] == "DATASET_NOT_FOUND"
    wrong = await told("add", "rows", tmp_path / "rows.xls")
    assert "name one of them" in wrong["error"]["message"]

    def missing(name: str) -> Any:
        raise ModuleNotFoundError(name=name)

    monkeypatch.setattr(arrow, "import_module", missing)
    lacking = (await told("head", "rows"))["error"]
    assert (lacking["reason"], 'pip install "inferd[data]"' in lacking["message"]) == ("PACKAGE_MISSING", True)
