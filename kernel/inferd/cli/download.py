"""Downloads that can be interrupted: a part file, the server's validator beside it, and a running checksum."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import re
import shutil
import ssl
from collections.abc import Callable
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, BinaryIO, TypeAlias

import httpx

from inferd import __version__
from inferd.cli import pip
from inferd.cli.amounts import size
from inferd.cli.output import CommandError
from inferd.cli.source import require_safe

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

ATTEMPTS = 5
CHUNK_BYTES = 1 << 20
MOST_LIST_BYTES = 64 << 20  # of what a hub says of a repository, or an index of a package
MARGIN_BYTES = 64 << 20  # left free on the disk
CHECK_BYTES = 16 << 20  # how much is written between two looks at what is free
TIMEOUT = httpx.Timeout(60.0, connect=20.0)


Meter: TypeAlias = Callable[[int, int | None], None]
"""Is told how far a file is: bytes done, and bytes in all where that is known."""


class AccessDeniedError(CommandError):
    """The server wants credentials that were not given."""


class Part:
    """A file on its way: one writer, which holds its lock, and the checksum of what is there.

    Attributes:
        path: The file.
        size_bytes: What is there.
    """

    def __init__(self, path: Path, file: BinaryIO) -> None:
        self.path = path
        self._file = file
        self._version = path.with_suffix(".version")
        self._unchecked_bytes = 0
        self.restart(keep=True)

    def restart(self, *, keep: bool = False) -> None:
        """Begin anew; with `keep` behind what is there."""
        self._hash = hashlib.sha256()
        self.size_bytes = 0
        self._file.seek(0)
        while keep and (chunk := self._file.read(CHUNK_BYTES)):
            self._hash.update(chunk)
            self.size_bytes += len(chunk)
        self._file.truncate(self.size_bytes)
        self._file.seek(self.size_bytes)

    def append(self, chunk: bytes) -> None:
        """Write on.

        Raises:
            CommandError: The disk is full but for what is left free. What comes may have no length, or a wrong one.
        """
        self._unchecked_bytes += len(chunk)
        if self._unchecked_bytes >= CHECK_BYTES:
            self._unchecked_bytes = 0
            require_space(self.path.parent, len(chunk))
        self._file.write(chunk)
        self._file.flush()  # what has come outlives this process, however it ends
        self._hash.update(chunk)
        self.size_bytes += len(chunk)

    @property
    def sha256(self) -> str:
        """Of what is there, in hexadecimal."""
        return self._hash.hexdigest()

    @property
    def validator(self) -> str:
        """What the server called the version that is there, or ""."""
        try:
            return self._version.read_text(encoding="utf-8")
        except FileNotFoundError:
            return ""

    @validator.setter
    def validator(self, validator: str) -> None:
        self._version.write_text(validator, encoding="utf-8")

    def remove(self) -> None:
        """Leave nothing behind."""
        self.path.unlink(missing_ok=True)
        self._version.unlink(missing_ok=True)

    def finish(self, *, sha256: str) -> None:
        """Check the whole file.

        Raises:
            CommandError: Its checksum is another; the file is removed.
        """
        self._file.flush()
        self._version.unlink(missing_ok=True)
        try:
            check_sha256(self.sha256, sha256)
        except CommandError:
            self.remove()
            raise


def check_sha256(actual: str, expected: str) -> None:
    """Hold a checksum against the one that was expected; "" expects none.

    Raises:
        CommandError: It is another.
    """
    if expected and actual != expected.lower():
        raise CommandError(
            f"the file has sha256 {actual}, {expected.lower()} was expected; what was downloaded is removed",
            reason="CHECKSUM_MISMATCH",
            metadata={"actual": actual, "expected": expected.lower()},
        )


@contextmanager
def open_part(path: Path) -> Iterator[Part]:
    """Open a part file, new or left by an interrupted download.

    Raises:
        CommandError: Another process writes it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    with path.open("r+b") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # when another process has just finished with it, this is the file that lies in the library now
            free = path.exists() and os.path.samestat(path.stat(), os.fstat(file.fileno()))
        except BlockingIOError:
            free = False
        if not free:
            raise CommandError("the same download is under way in another process", reason="DOWNLOAD_BUSY")
        part = Part(path, file)
        try:
            yield part
        finally:
            if not part.size_bytes:
                part.remove()


def part_path(folder: Path, origin: str) -> Path:
    """Where the part file of what comes from `origin` lies."""
    return folder / f"{hashlib.sha256(origin.encode()).hexdigest()[:32]}.part"


def require_space(folder: Path, needed_bytes: int) -> None:
    """Refuse what does not fit on the disk.

    Raises:
        CommandError: With both numbers.
    """
    free_bytes = shutil.disk_usage(folder).free - MARGIN_BYTES
    if needed_bytes > free_bytes:
        raise CommandError(
            f"{size(needed_bytes)} are needed and {size(max(free_bytes, 0))} are free under {folder}; "
            "make room, or set INFERD_DATA_DIR to a folder on another disk",
            reason="DISK_FULL",
            metadata={"needed_bytes": str(needed_bytes), "free_bytes": str(free_bytes)},
        )


@contextmanager
def web_client(*, any_scheme: bool = False) -> Iterator[httpx.Client]:
    """An HTTP client behind the user's proxy and with the certificates that the user's pip trusts.

    Args:
        any_scheme: Accept what pip resolved, plain http included; else every URL on the way must be safe.
    """
    chosen = pip.settings()
    bundle = chosen.get("cert") or os.environ.get("REQUESTS_CA_BUNDLE")
    if bundle:
        context = ssl.create_default_context(cafile=bundle)
    else:
        context = httpx.create_ssl_context()
        context.load_default_certs()

    def check(request: httpx.Request) -> None:
        if not any_scheme:
            require_safe(str(request.url))

    with httpx.Client(
        verify=context,
        proxy=chosen.get("proxy") or None,
        timeout=TIMEOUT,
        follow_redirects=True,
        event_hooks={"request": [check]},
        headers={"User-Agent": f"inferd/{__version__}", "Accept-Encoding": "identity"},
    ) as client:
        yield client


def download(client: httpx.Client, url: str, part: Part, *, sha256: str = "", token: str = "", meter: Meter) -> None:
    """Fetch `url` into `part`, behind what is there if that is safe: the server's validator or `sha256` says so.

    The caller holds the whole against `sha256`, see `Part.finish`.

    A connection that breaks is taken up again a few times.

    Raises:
        CommandError: The server refused, the disk is full, or the connection broke for good.
    """
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    for attempt in range(1, ATTEMPTS + 1):
        before = part.size_bytes
        try:
            _attempt(client, url, part, headers, known=bool(sha256), meter=meter)
            break
        except httpx.RequestError as error:
            if attempt == ATTEMPTS or part.size_bytes <= before:
                raise _interrupted(url, part, error) from None


def _attempt(
    client: httpx.Client, url: str, part: Part, headers: Mapping[str, str], *, known: bool, meter: Meter
) -> None:
    """One request, for what is missing."""
    if part.size_bytes and not (part.validator or known):
        part.restart()
    resume = {"Range": f"bytes={part.size_bytes}-"} if part.size_bytes else {}
    if resume and part.validator:
        resume["If-Range"] = part.validator
    with client.stream("GET", url, headers={**headers, **resume}) as response:
        if resume and response.status_code == httpx.codes.REQUESTED_RANGE_NOT_SATISFIABLE:
            if _total(response) != part.size_bytes:
                part.restart()
                _attempt(client, url, part, headers, known=known, meter=meter)
            return
        _require_success(response)
        total_bytes = _place(response, part)
        require_space(part.path.parent, (total_bytes or 0) - part.size_bytes)
        meter(part.size_bytes, total_bytes)
        for chunk in response.iter_raw():
            part.append(chunk)
            meter(part.size_bytes, total_bytes)


def _place(response: httpx.Response, part: Part) -> int | None:
    """Bring `part` to where the response begins; returns the size of the whole file, if known."""
    if response.status_code == httpx.codes.PARTIAL_CONTENT:
        start = re.match(r"bytes (\d+)-", response.headers.get("Content-Range", ""))
        if start is None or int(start[1]) != part.size_bytes:
            raise CommandError(
                f"the server was asked to go on at byte {part.size_bytes} and sent "
                f"{response.headers.get('Content-Range', 'no range')!r}",
                reason="DOWNLOAD_FAILED",
            )
        return _total(response)
    part.restart()
    weak = response.headers.get("ETag", "").startswith("W/")
    part.validator = (not weak and response.headers.get("ETag")) or response.headers.get("Last-Modified", "")
    length = response.headers.get("Content-Length")
    return int(length) if length and length.isdecimal() else None


def _total(response: httpx.Response) -> int | None:
    total = response.headers.get("Content-Range", "").rpartition("/")[2]
    return int(total) if total.isdecimal() else None


def _require_success(response: httpx.Response) -> None:
    status, host = response.status_code, response.url.host
    if status in (httpx.codes.UNAUTHORIZED, httpx.codes.FORBIDDEN):
        message = f"{host} answered {status}: it wants credentials (for hf: sources, set HF_TOKEN)"
        raise AccessDeniedError(message, reason="ACCESS_DENIED")
    if status not in (httpx.codes.OK, httpx.codes.PARTIAL_CONTENT):
        message = f"{host} answered {status} {response.reason_phrase} for {response.url}"
        raise CommandError(message, reason="DOWNLOAD_FAILED")
    if response.headers.get("Content-Encoding", "identity") != "identity":
        raise CommandError(f"{host} sent the file compressed, unasked", reason="DOWNLOAD_FAILED")


def _interrupted(url: str, part: Part, error: httpx.RequestError) -> CommandError:
    have = f" after {size(part.size_bytes)}; the same command goes on from there" if part.size_bytes else ""
    why = str(error) or type(error).__name__
    return CommandError(f"the download from {httpx.URL(url).host} broke off{have}: {why}", reason="DOWNLOAD_FAILED")


def read_list(client: httpx.Client, url: str, headers: dict[str, str]) -> Any:
    """A list in JSON, of bounded length.

    Raises:
        CommandError: It is longer.
        httpx.HTTPError: It did not come.
        ValueError: It is no JSON.
    """
    with client.stream("GET", url, headers=headers) as response:
        response.raise_for_status()
        data = bytearray()
        for chunk in response.iter_raw():
            data += chunk
            if len(data) > MOST_LIST_BYTES:
                message = f"{response.url.host} sent a list of more than {MOST_LIST_BYTES} bytes"
                raise CommandError(message, reason="DOWNLOAD_FAILED")
        return json.loads(data)
