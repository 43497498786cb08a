"""Bytes that clients give in chunks, for tasks to name."""

import uuid
from collections.abc import Iterator
from contextlib import AbstractAsyncContextManager, ExitStack, contextmanager
from hashlib import sha256

from inferd.errors import InvalidFieldError, LimitExceededError, UploadNotFoundError, words_of
from inferd.runtime.driver import Driver
from inferd.runtime.front.bounds import ByteBound
from inferd.runtime.front.caller import Caller
from inferd.shared import Memory, Part, can_share

SIZE_FIELD = "start.size_bytes"


class Upload:
    """One upload. One writer: the call that receives it.

    Attributes:
        upload_id: Its id.
        size_bytes: How many bytes it is to have.
        received_bytes: How many have come.
        used: How often a task has named it.
    """

    def __init__(self, size_bytes: int) -> None:
        self.upload_id = uuid.uuid4().hex
        self.size_bytes = size_bytes
        self.received_bytes = 0
        self.used = 0
        self._memory = Memory.make(size_bytes)
        self._digest = sha256()  # of what has come

    @property
    def complete(self) -> bool:
        """Whether all of it has come."""
        return self.received_bytes == self.size_bytes

    def add(self, chunk: bytes) -> None:
        """The next bytes have come; with the last ones nobody changes it any more.

        Raises:
            InvalidFieldError: They are more than were stated, or none.
        """
        have = self.received_bytes + len(chunk)
        if have > self.size_bytes or not chunk:
            raise InvalidFieldError(
                f"a chunk of {len(chunk)} bytes comes behind {self.received_bytes} of the {self.size_bytes} bytes that "
                "start.size_bytes states; send as many as it says, none of them empty",
                field="chunk",
            )
        self._memory.write(self.received_bytes, chunk)
        self._digest.update(chunk)
        self.received_bytes = have
        if self.complete:
            self._memory.seal()

    def part(self, start: int, size_bytes: int) -> Part:
        """Some of its bytes, which a task takes.

        Raises:
            InvalidFieldError: It ends before.
        """
        if start + size_bytes > self.size_bytes:
            raise InvalidFieldError(
                f"start is {start} and size_bytes {size_bytes}; the upload ends at {self.size_bytes}",
                field="size_bytes",
            )
        self.used += 1
        return Part(self._memory, start, size_bytes)

    def digest(self, part: Part) -> bytes:
        """Equal for the same part of uploads of the same bytes; no byte is gone through again for it."""
        place = part.start.to_bytes(8) + part.size_bytes.to_bytes(8)
        return sha256(self._digest.digest() + place).digest()


class Uploads:
    """What is being received, and what has come and whose call is open.

    Args:
        driver: Of the kernel.
        count_open: Bounds how many there are.
        bytes_open: Bounds their bytes, as they state them.
        most_bytes: Of one, `limits.task_input_bytes`.
        idle_s: For so long nothing need come, and no task need name it.

    Attributes:
        idle_s: Its argument.
    """

    def __init__(
        self, driver: Driver, *, count_open: ByteBound, bytes_open: ByteBound, most_bytes: int, idle_s: float
    ) -> None:
        self.idle_s = idle_s
        self._driver = driver
        self._count_open = count_open
        self._bytes_open = bytes_open
        self._most_bytes = most_bytes
        self._uploads: dict[tuple[str, str], Upload] = {}  # by tenant and id

    @contextmanager
    def open(self, caller: Caller, size_bytes: int) -> Iterator[Upload]:
        """One upload, which tasks may name as long as the block; what they took of it stays theirs.

        Raises:
            InvalidFieldError: It is to have no bytes.
            LimitExceededError: It is too large, or all that are open would be, or they are too many.
        """
        self._driver.check_open()
        self._check_size(size_bytes)
        with self._place(caller.tenant, size_bytes):
            upload = _make(size_bytes)
            key = caller.tenant, upload.upload_id
            self._uploads[key] = upload
            try:
                yield upload
            finally:
                del self._uploads[key]

    def _place(self, tenant: str, size_bytes: int) -> ExitStack:
        """A place for one, until it is closed."""
        with ExitStack() as places:
            places.enter_context(self._count_open.place(tenant, 1))
            try:
                places.enter_context(self._bytes_open.place(tenant, size_bytes))
            except LimitExceededError as error:
                error.field = SIZE_FIELD
                raise
            return places.pop_all()

    def _check_size(self, size_bytes: int) -> None:
        if size_bytes < 1:
            raise InvalidFieldError(f"start.size_bytes is {size_bytes}; it must be 1 or more", field=SIZE_FIELD)
        if size_bytes > self._most_bytes:
            raise LimitExceededError(
                f"start.size_bytes is {size_bytes} and limits.task_input_bytes is {self._most_bytes}; give less, or "
                "raise that setting of the kernel",
                metadata={
                    "bound": "limits.task_input_bytes",
                    "value": str(size_bytes),
                    "limit": str(self._most_bytes),
                },
                field=SIZE_FIELD,
            )

    def find(self, caller: Caller, upload_id: str) -> Upload:
        """A tenant's upload.

        Raises:
            UploadNotFoundError: There is none, or not all of it has come.
        """
        upload = self._uploads.get((caller.tenant, upload_id))
        if upload is None:
            raise UploadNotFoundError(
                f"no upload {upload_id[:80]!r}; it never was, or its call has ended; upload again"
            )
        if not upload.complete:
            raise UploadNotFoundError(
                f"of upload {upload_id!r} {upload.received_bytes} bytes have come, of {upload.size_bytes}; name it "
                "when it is complete"
            )
        return upload

    def cut_short(self) -> AbstractAsyncContextManager[None]:
        """Whatever the block waits for, it ends when the kernel closes.

        Raises:
            ShuttingDownError: It did.
        """
        return self._driver.closing.cut_short()


def _make(size_bytes: int) -> Upload:
    try:
        if can_share():
            return Upload(size_bytes)
        cause = "this system has no memfd_create"
    except OSError as error:
        cause = words_of(error)
    message = f"there is no memory for an upload of {size_bytes} bytes: {cause}"
    raise LimitExceededError(message, metadata={"value": str(size_bytes)}, field=SIZE_FIELD)
