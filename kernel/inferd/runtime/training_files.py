"""The folders of trainings: data, checkpoints and what came of them, each training's in a folder of its own."""

from __future__ import annotations

import asyncio
import os
import shutil
from collections import Counter
from dataclasses import dataclass, field
from hashlib import sha256
from typing import IO, TYPE_CHECKING, Final

from inferd.core.training import CARD, HELD, ORDER, RESULT, ROWS, write_order
from inferd.errors import DiskFullError, InvalidFieldError, LimitExceededError, words_of
from inferd.runtime.formats import PEFT_MARK, folder_format

if TYPE_CHECKING:
    from collections.abc import AsyncIterable, Collection, Mapping
    from pathlib import Path

    from inferd.core.training import Order

CHECKPOINTS: Final = "checkpoints"


@dataclass(frozen=True, slots=True)
class Data:
    """Rows as they were written: SHA-256, hexadecimal, and how many lines are not empty."""

    digest: str
    rows: int


@dataclass(slots=True)
class _Counted:
    """What was written of a file so far, of so many rows at most. One writer: the call that writes it."""

    most: int
    size_bytes: int = 0
    rows: int = 0
    tail: list[bytes] = field(default_factory=list)  # pieces of a line that has not ended: joined once


class TrainingFiles:
    """Writes and removes what trainings have on the disk; all of it beside the loop.

    Args:
        root: A folder, in which each training has one.
        data_bytes: Most bytes of the data of one (`train.data_bytes`).
        all_bytes: Most bytes of the data of all that have not ended (`train.all_data_bytes`).
        rows: Most rows of the data of one (`train.rows`).
        share: A tenant may have so many times what of those is free (`scheduler.tenant_share`).
    """

    def __init__(self, root: Path, *, data_bytes: int, all_bytes: int, rows: int, share: float) -> None:
        self._root = root
        self._roots = {str(root), os.path.realpath(root)}  # by a link as well as where that leads
        self._data_bytes = data_bytes
        self._all_bytes = all_bytes
        self._rows = rows
        self._share = share
        self._held: dict[str, tuple[str, int]] = {}  # tenant and bytes of data, by training
        self._by_tenant: Counter[str] = Counter()  # the bytes of all that it has

    def folder(self, training_id: str) -> Path:
        """That of a training, whether it is there or not."""
        return self._root / training_id

    def has(self, training_id: str, path: str) -> bool:
        """Whether a path leads into the folder of a training, whichever way it names that."""
        return any(path.startswith(f"{root}/{training_id}/") for root in self._roots)

    async def write(
        self, training_id: str, pieces: AsyncIterable[bytes], *, tenant: str, is_held: bool, field: str
    ) -> Data:
        """Write the rows of a training of a tenant, or those that it holds back.

        Raises:
            InvalidFieldError: They are no lines of UTF-8, or there are none; `field` is that of the call.
            LimitExceededError: There are too many.
            DiskFullError: The disk takes no more.
        """
        path = self.folder(training_id) / (HELD if is_held else ROWS)
        counted, digest = _Counted(self._rows), sha256()
        try:
            file = await asyncio.to_thread(_open, path)
            try:
                async for piece in pieces:
                    counted.size_bytes += len(piece)
                    if counted.size_bytes > self._data_bytes:
                        raise LimitExceededError(
                            f"{field} has more than {self._data_bytes} bytes, which is train.data_bytes; give less, or"
                            " raise that",
                            metadata={
                                "bound": "train.data_bytes",
                                "value": str(counted.size_bytes),
                                "limit": str(self._data_bytes),
                            },
                            field=field,
                        )
                    self._hold(training_id, tenant, len(piece), field)
                    digest.update(piece)
                    await asyncio.to_thread(_add, file, piece, counted, field)
                await asyncio.to_thread(_finish, file, counted, field)
            finally:
                file.close()
        except OSError as error:
            raise DiskFullError(f"the data of the training cannot be written: {words_of(error)}") from error
        return Data(digest.hexdigest(), counted.rows)

    def _hold(self, training_id: str, tenant: str, size_bytes: int, field: str) -> None:
        have, held, most = self._by_tenant[tenant], self._by_tenant.total(), self._all_bytes
        if held + size_bytes > most or have + size_bytes > self._share * (most - held):
            raise LimitExceededError(
                f"the data of all trainings that have not ended has {held + size_bytes} bytes with that of {field},"
                f" {have + size_bytes} of them of tenant {tenant!r}, and train.all_data_bytes is {most}, of which a"
                f" tenant may have {self._share:g} times what is free; let some end, or raise that",
                metadata={"bound": "train.all_data_bytes", "value": str(held + size_bytes), "limit": str(most)},
                field=field,
            )
        self._held[training_id] = tenant, self._held.get(training_id, (tenant, 0))[1] + size_bytes
        self._by_tenant[tenant] += size_bytes

    async def write_order(self, training_id: str, order: Order) -> None:
        """Write what a worker is to train.

        Raises:
            DiskFullError: The disk takes no more.
        """
        try:
            await asyncio.to_thread(_replace, self.folder(training_id) / ORDER, write_order(order))
        except OSError as error:
            raise DiskFullError(f"the order of the training cannot be written: {words_of(error)}") from error

    async def write_card(self, training_id: str, card: str) -> None:
        """Write the card of what came of it, for people; a disk that takes no more has none."""
        await asyncio.to_thread(_replace, self.folder(training_id) / CARD, card.encode())

    async def source(self, training_id: str) -> Path:
        """What came of it: its folder, which is a model or an adapter, or the one file of it that is a model.

        Raises:
            OSError: It cannot be read.
        """
        return await asyncio.to_thread(_source, self.folder(training_id) / RESULT)

    async def close(self, training_id: str, *, keeps_result: bool) -> None:
        """Remove what only a training that goes on needs; of one without a result all."""
        await asyncio.to_thread(_close, self.folder(training_id), keeps_result)
        tenant, size_bytes = self._held.pop(training_id, ("", 0))
        self._by_tenant[tenant] -= size_bytes
        self._by_tenant += Counter()  # without those that have nothing

    async def sweep(self, going: Mapping[str, str]) -> None:
        """Remove what trainings have left behind that go on no more, but for what came of them. Once, at first.

        Args:
            going: The tenant of each that goes on.
        """
        await asyncio.to_thread(self._sweep, set(going))
        sizes = await asyncio.to_thread(self._sizes, going)
        for training_id, size_bytes in sizes.items():
            self._held[training_id] = going[training_id], size_bytes
            self._by_tenant[going[training_id]] += size_bytes

    def _sizes(self, going: Collection[str]) -> dict[str, int]:
        files = {name: [self.folder(name) / each for each in (ROWS, HELD)] for name in going}
        return {name: sum(each.stat().st_size for each in of if each.is_file()) for name, of in files.items()}

    async def others(self, known: Collection[str]) -> list[str]:
        """The trainings that are none of these, of which a result is there."""
        return await asyncio.to_thread(self._others, set(known))

    def _others(self, known: set[str]) -> list[str]:
        if not self._root.is_dir():
            return []
        return [each.name for each in self._root.iterdir() if each.name not in known and (each / RESULT).is_dir()]

    def _sweep(self, going: set[str]) -> None:
        if not self._root.is_dir():
            return
        for each in self._root.iterdir():
            if each.name not in going:
                _close(each, (each / RESULT).is_dir())


def _open(path: Path) -> IO[bytes]:
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    return path.open("wb")


def _add(file: IO[bytes], piece: bytes, counted: _Counted, field: str) -> None:
    file.write(piece)
    begin, newline, _ = piece.partition(b"\n")
    counted.tail.append(begin)
    if not newline:
        return
    lines = [b"".join(counted.tail), *piece[len(begin) + 1 :].split(b"\n")]
    counted.tail = [lines.pop()]
    _count(lines, counted, field)


def _count(lines: list[bytes], counted: _Counted, field: str) -> None:
    for line in lines:
        if not (line := line.strip()):
            continue
        counted.rows += 1
        if counted.rows > counted.most:
            raise LimitExceededError(
                f"{field} has more than {counted.most} rows, which is train.rows; give fewer, or raise that",
                metadata={"bound": "train.rows", "value": str(counted.rows), "limit": str(counted.most)},
                field=field,
            )
        if not line.startswith(b"{") or not line.endswith(b"}"):
            raise InvalidFieldError(
                f"row {counted.rows} of {field} is no JSON object: it must begin with {{ and end with }}", field=field
            )
        try:
            line.decode()
        except UnicodeDecodeError as error:
            at = line[error.start]
            message = f"row {counted.rows} of {field} is no UTF-8: its byte {error.start} is {at:#x}"
            raise InvalidFieldError(message, field=field) from None


def _finish(file: IO[bytes], counted: _Counted, field: str) -> None:
    _count([b"".join(counted.tail)], counted, field)
    if not counted.rows:
        raise InvalidFieldError(f"{field} has no rows; give JSON Lines, one object each", field=field)
    file.flush()
    os.fsync(file.fileno())


def _replace(path: Path, contents: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    new = path.with_name(f".new-{path.name}")
    with new.open("wb") as file:
        file.write(contents)
        file.flush()
        os.fsync(file.fileno())
    new.replace(path)


def _source(result: Path) -> Path:
    if folder_format(result) is not None or (result / PEFT_MARK).is_file():
        return result
    files = [each for each in sorted(result.iterdir()) if each.is_file()]
    models = [each for each in files if each.suffix not in {".json", ".jsonl", ".md", ".txt"}]
    return models[0] if len(models) == 1 else result


def _close(folder: Path, keeps_result: bool) -> None:  # noqa: FBT001 - for `to_thread`
    if not keeps_result:
        shutil.rmtree(folder, ignore_errors=True)
        return
    shutil.rmtree(folder / CHECKPOINTS, ignore_errors=True)
    for name in (ROWS, HELD, ORDER):
        (folder / name).unlink(missing_ok=True)
