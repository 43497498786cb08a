"""`make chaos ROUNDS=200`: the disk of a kernel's store is filled up under load and emptied again, so many times.

The store is on a tmpfs of its own, for which this process must be allowed to mount one. Refused is what cannot be kept,
and nothing else; with room all is served again by the same kernel. The history is checked as that of killed kernels.
"""

import argparse
import asyncio
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from chaos import Request
from histories import History, Kept, Setting, Tally, undisturbed, wanted_of
from kernel_ordeal import SETTINGS
from ordeal import quantile

from inferd.testing.kernel import kernel_process, write_fake_model
from inferd_client import AsyncClient
from inferd_client.errors import StoreUnavailableError

DISK_BYTES = 64 << 20
MOST_LEFT_BYTES = 128 << 10  # when it is full
MOST_WAIT_S = 5.0  # until all is served again
KINDS = ("running", "refused")


@contextmanager
def small_disk(folder: Path) -> Iterator[Path]:
    """A disk of `DISK_BYTES` at a folder.

    Raises:
        CalledProcessError: It cannot be mounted.
    """
    folder.mkdir()
    subprocess.run(["/bin/mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES}", "tmpfs", folder], check=True)
    try:
        yield folder
    finally:
        subprocess.run(["/bin/umount", "-l", folder], check=True)


class FullDisk(History):
    """A history of one kernel, whose disk is full again and again.

    Attributes:
        refused: How many creations were.
        waits_s: How long it took each time from when there was room until all was served.
    """

    def __init__(self, setting: Setting, folder: Path, tasks: Sequence[Request], tally: Tally, disk: Path) -> None:
        super().__init__(setting, folder, tasks, tally)
        self.refused = 0
        self.waits_s: list[float] = []
        self._ballast = disk / "ballast"

    async def fill(self, rounds: int, seed: int) -> None:
        """So many rounds, and the check."""
        with kernel_process(self._folder, environment=self._setting.environment) as process:
            async with AsyncClient(process.address) as client:
                await client.create_model(self._setting.model, source=self._setting.source)
                self.wanted, self._others = await undisturbed(client, self._setting.model, self._tasks)
                for number in range(rounds):
                    await self._round(client, random.Random(f"{seed}.{number}"), number)
        await self._end()

    async def _round(self, client: AsyncClient, chance: random.Random, number: int) -> None:
        kinds = {kind: [self._new(chance, f"{number}.{kind}.{n}") for n in range(3)] for kind in KINDS}
        flowing = asyncio.Event()
        async with asyncio.TaskGroup() as group:
            for kept in kinds["running"]:
                group.create_task(self._create(client, kept, flowing, later=False))
            await flowing.wait()
            self._fill_up(chance.randrange(MOST_LEFT_BYTES))
            try:
                for kept in kinds["refused"]:
                    await self._try(client, kept)
            finally:
                self._ballast.unlink()
            begun = time.monotonic()
            for kept in kinds["refused"]:
                while not kept.ids:
                    await self._try(client, kept)
            self.waits_s.append(time.monotonic() - begun)
            for kept in kinds["refused"]:
                group.create_task(self._follow(client, kept, flowing))
        if self.waits_s[-1] > MOST_WAIT_S:
            self._tally.wrong.append(f"round {number}: served {self.waits_s[-1]:.1f} s after there was room")

    def _new(self, chance: random.Random, key: str) -> Kept:
        self._kept.append(Kept(chance.randrange(len(self._tasks)), key, to_cancel=False, to_suspend=False))
        return self._kept[-1]

    async def _try(self, client: AsyncClient, kept: Kept) -> None:
        """Create a task, which may be refused because it cannot be kept, and for nothing else."""
        request = self._tasks[kept.number]
        try:
            task = await client.create_task(
                self._setting.model, request.prompt, request_id=kept.key, labels={"k": "x" * 200}, **request.options
            )
            kept.ids.add(task.task_id)
        except StoreUnavailableError:
            self.refused += 1

    def _fill_up(self, left_bytes: int) -> None:
        """Leave no more room than so much."""
        free = os.statvfs(self._ballast.parent)
        with self._ballast.open("wb") as file, suppress(OSError):
            os.posix_fallocate(file.fileno(), 0, max(1, free.f_bavail * free.f_frsize - left_bytes))


async def ordeal(folder: Path, rounds: int, seed: int) -> dict[str, object]:
    """The figures of so many rounds."""
    with small_disk(folder / "disk") as disk:
        setting = Setting(
            environment={**SETTINGS, "INFERD_STORE__URL": f"sqlite:{disk}/store"},
            model="fake",
            source=str(write_fake_model(folder, step_s=0.002, blocks=8192, max_sequences=8)),
            output_tokens=40,
            life_s=0.0,
        )
        tally = Tally()
        history = FullDisk(setting, folder, wanted_of(setting, seed), tally, disk)
        await history.fill(rounds, seed)
    for line in tally.wrong:
        print(line, file=sys.stderr)
    return {
        "name": "chaos.full_disk",
        "rounds": rounds,
        "seed": seed,
        "tasks": tally.tasks,
        "refused": history.refused,
        "wrong": len(tally.wrong),
        "service_p50_s": round(quantile(history.waits_s, 0.5), 2),
        "service_most_s": round(max(history.waits_s), 2),
    }


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1)
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        found = asyncio.run(ordeal(Path(folder), chosen.rounds, chosen.seed))
    print(json.dumps(found), flush=True)
    return 1 if found["wrong"] else 0


if __name__ == "__main__":
    sys.exit(main())
