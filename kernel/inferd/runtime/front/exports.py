"""Models with all their files, read for whoever takes them elsewhere."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Final

from inferd.core.ids import ModelName
from inferd.errors import BlobDamagedError, InvalidFieldError, ModelBusyError, PermissionDeniedError, words_of
from inferd.plugin.recipe_file import find_recipe
from inferd.runtime.blob_opening import blobs_of
from inferd.runtime.front.caller import ANYONE
from inferd.runtime.model_files import SOURCE, check_names, read_list
from inferd.runtime.placement import stat_files
from inferd.runtime.seen_files import SeenFile, open_seen, see
from inferd.runtime.sources import check_real, check_setting, files_of, find_source

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Callable, Container, Sequence
    from contextlib import AbstractAsyncContextManager

    from inferd.core.model import Model, ModelSpec
    from inferd.runtime.driver import Driver
    from inferd.runtime.front.bounds import SharedBound
    from inferd.runtime.front.caller import Caller
    from inferd.runtime.plugins import Plugins
    from inferd.runtime.shelf import Shelf
    from inferd.runtime.sources import Roots

PIECE_BYTES: Final = 4 << 20  # of a file that is left out or taken as a whole
MOST_MEASURED: Final = 1000  # files of models for hosts, of which is remembered what they are
ADAPTER: Final = "adapter"  # the setting whose files go with the model


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportedFile:
    """A file of a model.

    Attributes:
        name: Its name, without a folder.
        seen: It as it was when it was found to be what may be read.
        setting: The setting that names it or its folder; "" for the model's own.
        digest: SHA-256 of all its bytes, in hexadecimal.
        size_bytes: How many bytes it has.
        pieces: SHA-256 of each of its pieces.
    """

    name: str
    seen: SeenFile
    setting: str
    digest: str
    size_bytes: int
    pieces: tuple[bytes, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Export:
    """A model and its files.

    Attributes:
        model: As it stands.
        files: Its own first, then those of its adapter.
        path_settings: Settings whose values are paths of this host.
    """

    model: Model
    files: Sequence[ExportedFile]
    path_settings: Sequence[str]


class Exports:
    """Reads models. Files are read on threads, a piece at a time.

    Args:
        driver: Of the kernel.
        plugins: Say which settings name files.
        shelf: Where models are that were pulled.
        bound: Of those that are read at once.
        roots: Within which a caller may name files; None for anywhere.
    """

    def __init__(
        self,
        driver: Driver,
        plugins: Plugins,
        shelf: Shelf,
        *,
        bound: SharedBound,
        roots: Callable[[Caller], Roots | None],
    ) -> None:
        self._driver = driver
        self._plugins = plugins
        self._shelf = shelf
        self._bound = bound
        self._roots = roots
        self._measured: OrderedDict[SeenFile, ExportedFile] = OrderedDict()

    @asynccontextmanager
    async def open(self, name: str, caller: Caller) -> AsyncIterator[Export]:
        """A model whose files have been gone through once; in the block, their bytes may be read.

        Raises:
            ModelNotFoundError: There is none.
            PermissionDeniedError: The caller may not read its files.
            InvalidFieldError: One has a name that a model elsewhere cannot have.
            ModelBusyError: They have changed since the model was made of them, or change now.
            BlobDamagedError: One is not what was given.
            LimitExceededError: As many are read as may be, or the tenant has its share.
        """
        self._driver.check_open()
        await self._shelf.look_for(name)
        async with AsyncExitStack() as stack:
            stack.enter_context(self._bound.place(caller.tenant))
            model = self._driver.views.model(ModelName(name))
            spec, roots = model.spec, self._roots(caller)
            paths = self._path_settings(spec)
            await stack.enter_async_context(self._driver.supervisor.opening(spec.path))
            own = await self._own(spec, caller, roots)
            adapter = await asyncio.to_thread(_adapter, spec, roots) if ADAPTER in paths else []
            for files in (own, adapter):
                _check([seen.path.name for seen in files])
            found = [await _measured(seen, "", expected) for seen, expected in own.items()]
            found += [await _measured(seen, ADAPTER, None) for seen in adapter]
            yield Export(model=model, files=found, path_settings=paths)

    @asynccontextmanager
    async def for_host(self, spec: ModelSpec) -> AsyncIterator[Sequence[ExportedFile]]:
        """The own files of a version of a model, for a host that is to load it; in the block, their bytes may be read.

        What they are is read once as long as they do not change.

        Raises:
            ModelBusyError, BlobDamagedError: As `open`.
        """
        self._driver.check_open()
        async with self._driver.supervisor.opening(spec.path):
            try:
                own = await self._own(spec, ANYONE, None)
            except OSError as error:
                raise _changed(Path(spec.path), words_of(error)) from None
            _check([seen.path.name for seen in own])
            yield [await self._measured_once(seen, expected) for seen, expected in own.items()]

    async def _measured_once(self, seen: SeenFile, expected: str | None) -> ExportedFile:
        if (known := self._measured.get(seen)) is None or expected not in {None, known.digest}:
            known = self._measured[seen] = await _measured(seen, "", expected)
            if len(self._measured) > MOST_MEASURED:
                self._measured.popitem(last=False)
        return known

    def _path_settings(self, spec: ModelSpec) -> list[str]:
        named = {
            setting.name
            for report in self._plugins.reports
            if report.name == spec.backend and report.spec is not None
            for setting in report.spec.settings
            if setting.names_file
        }
        return sorted(named & spec.settings.keys())

    async def _own(self, spec: ModelSpec, caller: Caller, roots: Roots | None) -> dict[SeenFile, str | None]:
        """The model's own files, with the digests that they are known to have."""
        if not spec.source.startswith(SOURCE):
            return dict.fromkeys(await asyncio.to_thread(_files, spec, roots))
        if spec.tenant != caller.tenant and not caller.principal.local:
            raise PermissionDeniedError(
                f"the files of model {spec.name!r} are blobs of another tenant; ask as that one", field="name"
            )
        blobs, digest = blobs_of(self._driver.keeper), spec.source.removeprefix(SOURCE)
        if blobs is None:
            raise BlobDamagedError(f"the files of model {spec.name!r} are blobs, and this kernel keeps none")
        files = read_list(b"".join([piece async for piece in blobs.pieces(spec.tenant, digest)]))
        folder = blobs.opened.folder(spec.tenant, digest)
        found = await asyncio.to_thread(_see, [folder / file.name for file in files], None, "source")
        return {seen: file.digest for seen, file in zip(found, files, strict=True)}

    async def pieces(self, files: Sequence[ExportedFile], had: Container[bytes]) -> AsyncGenerator[bytes]:
        """The bytes of the files, a piece at a time, but for pieces whose digests are among those `had`.

        Raises:
            ModelBusyError: A file is not what it was.
        """
        for file in files:
            async with _opened(file.seen) as opened:
                for number, wanted in enumerate(file.pieces):
                    if wanted in had:
                        continue
                    data = await asyncio.to_thread(_read_at, opened, number * PIECE_BYTES)
                    if await asyncio.to_thread(_digest, data) != wanted:
                        raise _changed(file.seen.path, "its bytes are others")
                    yield data

    def cut_short(self) -> AbstractAsyncContextManager[None]:
        """Whatever the block waits for, it ends when the kernel closes.

        Raises:
            ShuttingDownError: It did.
        """
        return self._driver.closing.cut_short()


def _files(spec: ModelSpec, roots: Roots | None) -> list[SeenFile]:
    """The files of a model that is of no blobs, which are as they were when it was made of them."""
    path = Path(spec.path) if roots is None else find_source(spec.path, roots)
    beside = find_recipe(path)
    files = [*files_of(path), *([beside] if path.is_file() and beside.is_file() else [])]
    found = _see([file for file in files if not file.name.startswith(".")], roots, "source")
    if stat_files(path)[1] != spec.file_version:  # after they were seen, and they are opened as they were then
        raise ModelBusyError(
            f"the files of model {spec.name!r} at {path} have changed since it was made of them; give it a version of"
            f" them first: inferd models set {spec.name} --source {path}"
        )
    return found


def _adapter(spec: ModelSpec, roots: Roots | None) -> list[SeenFile]:
    value = spec.settings[ADAPTER]
    if roots is not None:
        check_setting(ADAPTER, value, roots)
    path, why = Path(value), "has no files"
    try:
        files = [path] if path.is_file() else sorted(path.iterdir()) if path.is_dir() else []
        found = [file for file in files if file.is_file() and not file.name.startswith(".")]
    except OSError as error:
        found, why = [], words_of(error)
    if not found:
        raise InvalidFieldError(f"the adapter of model {spec.name!r}, {path}: {why}", field="name")
    return _see(found, roots, f"setting {ADAPTER!r}")


def _see(files: Sequence[Path], roots: Roots | None, what: str) -> list[SeenFile]:
    """Files as they are now, within roots; what they are later is held against that.

    Raises:
        PermissionDeniedError: Links lead out of the roots.
        ModelBusyError: One has gone.
    """
    found = list[SeenFile]()
    for file in files:
        try:
            seen = see(file)
        except (OSError, RuntimeError) as error:
            raise _changed(file, words_of(error)) from None
        if roots is not None:
            check_real(seen.real, str(file), roots, what=what, field="name")
        found.append(seen)
    return found


def _check(names: Sequence[str]) -> None:
    """Refuse names that a model elsewhere could not have."""
    try:
        check_names(names or ["none"])
    except InvalidFieldError as error:
        field = error.field.removeprefix("start.")
        number = int(field[len("files[") : field.index("]")]) if "[" in field else None
        what = "the model's files" if number is None else f"the file {names[number][:200]!r}"
        raise InvalidFieldError(
            f"{what} cannot be given elsewhere, where files have labels and no paths: {error}; rename it, or move it"
            " out of the model's folder",
            field="name",
        ) from None


async def _measured(seen: SeenFile, setting: str, expected: str | None) -> ExportedFile:
    """What a file is, by reading all of it."""
    digest, pieces, size_bytes = sha256(), [], 0
    async with _opened(seen) as opened:
        while data := await asyncio.to_thread(_read_at, opened, size_bytes):
            pieces.append(await asyncio.to_thread(_digest, data))
            await asyncio.to_thread(digest.update, data)
            size_bytes += len(data)
    found = digest.hexdigest()
    if expected not in (None, found):
        raise BlobDamagedError(
            f"{seen.path} has digest sha256:{found} and was given with sha256:{expected}: give the model again",
            metadata={"digest": f"sha256:{expected}", "cause": f"its digest is sha256:{found}"},
        )
    return ExportedFile(
        name=seen.path.name, seen=seen, setting=setting, digest=found, size_bytes=size_bytes, pieces=tuple(pieces)
    )


@asynccontextmanager
async def _opened(seen: SeenFile) -> AsyncIterator[BinaryIO]:
    try:
        opened = await asyncio.to_thread(open_seen, seen)
    except OSError as error:
        raise _changed(seen.path, words_of(error)) from None
    try:
        yield opened
    finally:
        opened.close()


def _read_at(opened: BinaryIO, start: int) -> bytes:
    """The piece that begins there; b"" at the end.

    Raises:
        ModelBusyError: It cannot be read.
    """
    try:
        opened.seek(start)
        return opened.read(PIECE_BYTES)
    except OSError as error:
        raise _changed(Path(opened.name), words_of(error)) from None


def _digest(data: bytes) -> bytes:
    return sha256(data).digest()


def _changed(path: Path, why: str) -> ModelBusyError:
    return ModelBusyError(f"{path} changed, or went, while it was read ({why}); try again when nobody writes it")
