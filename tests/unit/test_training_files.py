"""The folders of trainings: what of them is the model or the adapter that came of one, and what stays."""

from collections.abc import AsyncIterator
from hashlib import sha256
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from inferd.errors import LimitExceededError
from inferd.runtime.front.training_outcome import TrainingOutcome
from inferd.runtime.training_files import Data, TrainingFiles


def names_in(folder: Path) -> list[str]:
    return sorted(str(each.relative_to(folder)) for each in folder.rglob("*"))


@pytest.mark.parametrize(
    ("names", "source"),
    [
        (("config.json", "model.safetensors"), "result"),
        (("adapter_config.json", "adapter_model.safetensors"), "result"),
        (("model.gguf", "notes.md", "state.json"), "result/model.gguf"),
        (("a.bin", "b.bin"), "result"),
    ],
)
async def test_what_came_of_a_training_is_a_folder_or_its_only_model(
    tmp_path: Path, names: tuple[str, ...], source: str
) -> None:
    """A folder of a model or of an adapter is taken as it is; of any other the one file that is no word about it."""
    result = tmp_path / "one" / "result"
    result.mkdir(parents=True)
    for name in names:
        (result / name).write_text("{}", encoding="utf-8")
    files = TrainingFiles(tmp_path, data_bytes=1024, all_bytes=4096, rows=9, share=1)
    assert await files.source("one") == tmp_path / "one" / source


@pytest.mark.parametrize("size", [1, 2, 3, 7, 100])
async def test_rows_are_counted_whatever_the_pieces_they_come_in(tmp_path: Path, size: int) -> None:
    """Lines are those of the whole, empty ones left out; a piece without an end of line is held, and not gone over."""
    data = b'{"a":1}\n\n{"b":2}\r\n \n{"c":3}'

    async def pieces() -> AsyncIterator[bytes]:
        for begin in range(0, len(data), size):
            yield data[begin : begin + size]

    files = TrainingFiles(tmp_path, data_bytes=1024, all_bytes=4096, rows=9, share=1)
    assert await files.write("one", pieces(), tenant="one", is_held=False, field="inline") == Data(
        sha256(data).hexdigest(), 3
    )
    assert (tmp_path / "one" / "rows.jsonl").read_bytes() == data


async def test_a_long_line_costs_no_more_than_its_bytes(tmp_path: Path) -> None:
    """Of a line that comes in many pieces each is looked at once."""
    looked: list[int] = []

    class Piece(bytes):
        def partition(self, sep: Any, /) -> Any:
            looked.append(len(self))
            return super().partition(sep)

        def __radd__(self, other: object) -> bytes:
            raise AssertionError("pieces are joined again and again")

    async def pieces() -> AsyncIterator[bytes]:
        yield b'{"text":"'
        for _ in range(100):
            yield Piece(b"a" * 1000)
        yield b'"}\n'

    files = TrainingFiles(tmp_path, data_bytes=1 << 20, all_bytes=1 << 20, rows=9, share=1)
    found = await files.write("one", pieces(), tenant="one", is_held=False, field="inline")
    assert found.rows == 1
    assert sum(looked) == 100_000


async def test_rows_are_bounded(tmp_path: Path) -> None:
    """The row that is one too many ends the writing, with the name of the bound; empty lines are none."""

    async def pieces(rows: int) -> AsyncIterator[bytes]:
        for _ in range(rows):
            yield b"{}\n\n"

    files = TrainingFiles(tmp_path, data_bytes=1024, all_bytes=4096, rows=9, share=1)
    assert (await files.write("one", pieces(9), tenant="one", is_held=False, field="inline")).rows == 9
    with pytest.raises(LimitExceededError, match=r"more than 9 rows, which is train\.rows"):
        await files.write("two", pieces(10), tenant="one", is_held=False, field="inline")


async def test_what_nobody_knows_is_swept_but_for_results(tmp_path: Path) -> None:
    """Rows and checkpoints of trainings that are not known any more go; what came of them stays."""
    for name in ("known", "left", "made"):
        (tmp_path / name / "checkpoints").mkdir(parents=True)
        (tmp_path / name / "rows.jsonl").write_text("{}", encoding="utf-8")
    (tmp_path / "made" / "result").mkdir()
    await TrainingFiles(tmp_path, data_bytes=1024, all_bytes=4096, rows=9, share=1).sweep({"known": "one"})
    assert names_in(tmp_path) == ["known", "known/checkpoints", "known/rows.jsonl", "made", "made/result"]


async def test_the_data_of_all_trainings_is_bounded(tmp_path: Path) -> None:
    """What is too much for all, or for its tenant, is refused; what has ended counts no more, what is found does."""

    async def pieces() -> AsyncIterator[bytes]:
        yield b'{"text":"' + b"a" * 600 + b'"}'

    async def write(files: TrainingFiles, name: str, tenant: str) -> Data:
        return await files.write(name, pieces(), tenant=tenant, is_held=False, field="inline")

    bounds = {"data_bytes": 1024, "all_bytes": 1830, "rows": 9, "share": 1}
    files = TrainingFiles(tmp_path, **bounds)
    await write(files, "one", "red")
    with pytest.raises(
        LimitExceededError, match=r"1222 bytes.*1222 of them of tenant 'red', and train\.all_data_bytes is 1830"
    ):
        await write(files, "two", "red")
    await write(files, "two", "blue")  # there is room for others
    with pytest.raises(LimitExceededError, match=r"1833 bytes.*611 of them of tenant 'green'"):
        await write(files, "three", "green")
    await files.close("three", keeps_result=False)
    await files.close("one", keeps_result=False)
    await write(files, "three", "red")
    other = TrainingFiles(tmp_path, **bounds)
    await other.sweep({"two": "blue", "three": "red"})
    with pytest.raises(LimitExceededError, match="1833 bytes"):
        await write(other, "four", "green")


@pytest.mark.parametrize("way", ["state", "disk"])
def test_a_model_has_its_files_whichever_way_it_names_them(tmp_path: Path, way: str) -> None:
    """Where the kernel's folder is reached by a link, a model named by where that leads keeps the result it has."""
    (tmp_path / "disk" / "1" / "result").mkdir(parents=True)
    (tmp_path / "state").symlink_to(tmp_path / "disk")
    files = TrainingFiles(tmp_path / "state", data_bytes=1024, all_bytes=4096, rows=9, share=1)
    spec = SimpleNamespace(path=str(tmp_path / way / "1" / "result"))
    model = SimpleNamespace(versions={1: SimpleNamespace(spec=spec)}, traits=SimpleNamespace(adapters=()))
    views = SimpleNamespace(model_names=lambda: ["mine"], find_model=lambda _: model)
    driver: Any = SimpleNamespace(views=views)
    models: Any = None
    outcome = TrainingOutcome(driver, models, files)
    assert outcome.users("1") == ["mine"]
    assert not outcome.users("11")
