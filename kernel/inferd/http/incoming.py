"""What comes in with requests: bodies within bounds of bytes and time, each and over all, and what they say."""

from __future__ import annotations

import asyncio
import re
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import Request

from inferd.http.bodies import check_values, parse
from inferd.http.calls import DISCONNECT, GoneError
from inferd.http.problems import Refusal

if TYPE_CHECKING:
    from collections.abc import Generator, Hashable, Mapping
    from concurrent.futures import Executor

    from starlette.datastructures import Headers
    from starlette.types import Message, Receive

    from inferd.http_settings import Http

FORM: Final = "multipart/form-data"
MOST_FIELDS: Final = 32  # of a form
SMALL_BYTES: Final = 64 << 10  # read at once: a thread would cost more
MANY_VALUES: Final = 50_000  # that C reads within some milliseconds
MARKS: Final = (b",", b":", b"[", b"{")
"""One of these is beside each value of JSON, and each name of a field."""
TEXT: Final = re.compile(rb'"(?:[^"\\]++|\\.?)*+(?:"|\Z)', re.DOTALL)
SOME_TEXTS: Final = re.compile(rb'(?:[^"]*+"(?:[^"\\]++|\\.?)*+(?:"|\Z)){1,1000}+', re.DOTALL)
"""So many texts, and what is between them: others have their turn after each of these."""


class Bodies:
    """The bodies of all requests that are under way, whose bytes have a bound. One writer: the gateway's loop.

    Args:
        settings: Of the gateway.

    Attributes:
        held_bytes: How many they have.
    """

    def __init__(self, settings: Http) -> None:
        self._settings = settings
        self._by: dict[Hashable, int] = {}
        self._reader = ThreadPoolExecutor(1, thread_name_prefix="bodies")  # one, so that the loop has its share
        self.held_bytes = 0

    @contextmanager
    def of(self, caller: Hashable) -> Generator[Room]:
        """Room for the body of a request, which is given back at the end."""
        room = Room(self, caller)
        try:
            yield room
        finally:
            self._add(caller, -room.held_bytes)

    def reader_of(self, room: Room) -> Executor | None:
        """Where a body is read that takes so much; None where that is little."""
        return self._reader if room.held_bytes > SMALL_BYTES else None

    async def parse(self, body: bytes) -> Mapping[str, Any]:
        """As `parse`, of not too many values; what is large is read beside the loop."""
        if len(body) <= SMALL_BYTES:
            return self._parse(body)
        return await asyncio.get_running_loop().run_in_executor(self._reader, self._parse, body)

    def _parse(self, body: bytes) -> Mapping[str, Any]:
        marks = check_marks(body, self._settings.body_values)
        yields = marks > MANY_VALUES
        return parse(body, self._settings.body_depth, self._settings.body_lists, yields=yields)

    def close(self) -> None:
        """End the thread that reads."""
        self._reader.shutdown(wait=False, cancel_futures=True)

    def take(self, caller: Hashable, size_bytes: int) -> None:
        """Hold so many more for a caller.

        Raises:
            Refusal: They are more than may be.
        """
        for held, most, whose, bound in (
            (self._by.get(caller, 0), self._settings.key_bodies_bytes, "of this key", "key_bodies_bytes"),
            (self.held_bytes, self._settings.bodies_bytes, "of all callers", "bodies_bytes"),
        ):
            if held + size_bytes > most:
                raise Refusal(
                    f"the bodies {whose} that are under way have {held + size_bytes} bytes, over the {most} of "
                    f"http.{bound}; send less at once, or try again later",
                    status=503,
                    code="LIMIT_EXCEEDED",
                    retry_after_s=1,
                )
        self._add(caller, size_bytes)

    def _add(self, caller: Hashable, size_bytes: int) -> None:
        self.held_bytes += size_bytes
        self._by[caller] = self._by.get(caller, 0) + size_bytes
        if not self._by[caller]:
            del self._by[caller]


class Room:
    """What one body takes of the bytes for all of them."""

    def __init__(self, bodies: Bodies, caller: Hashable) -> None:
        self._bodies = bodies
        self._caller = caller
        self.held_bytes = 0

    def take(self, size_bytes: int) -> None:
        """Hold so many more. Raises as `Bodies.take`."""
        self._bodies.take(self._caller, size_bytes)
        self.held_bytes += size_bytes

    async def read_json(self, headers: Headers, receive: Receive, settings: Http) -> Mapping[str, Any]:
        """The body of a request that is no upload.

        Raises:
            Refusal: It is no JSON object, too large, or does not come in time.
            GoneError: The caller has left.
        """
        incoming = Incoming(
            headers, receive, settings, self, bound="body", most_bytes=settings.body_bytes, within_s=settings.body_s
        )
        body = bytearray()
        while True:
            message = await incoming.receive()
            body += message.get("body", b"")
            if not message.get("more_body", False):
                break
        return await self._bodies.parse(bytes(body))

    async def read_form(self, headers: Headers, receive: Receive, settings: Http) -> dict[str, Any]:
        """The fields of a form of several parts, its files as bytes, and their names as `NAME.name`.

        Raises:
            Refusal: It is none, too large, or does not come in time.
            GoneError: The caller has left.
        """
        if headers.get("content-type", "").partition(";")[0].strip().lower() != FORM:
            raise Refusal(f"the body must be a form: {FORM} with a part `file`", status=415)
        incoming = Incoming(
            headers,
            receive,
            settings,
            self,
            bound="upload",
            most_bytes=settings.upload_bytes,
            within_s=settings.upload_s,
        )
        scope = {"type": "http", "headers": headers.raw, "method": "POST", "query_string": b"", "path": ""}
        try:
            stream = Request(scope, incoming.receive).stream()
            parser = MultiPartParser(headers, stream, max_files=1, max_fields=MOST_FIELDS)
            parser.spool_max_size = settings.upload_bytes  # else what is said goes to a disk
            form = await parser.parse()
        except MultiPartException as error:
            raise Refusal(f"the form cannot be read: {error.message}") from None
        fields: dict[str, Any] = {}
        try:
            for name, value in form.multi_items():
                if name.endswith("[]"):
                    if not isinstance(value, str):
                        raise Refusal(f"{name} is a file in the form; send texts", param=name)
                    fields.setdefault(name, []).append(value)
                elif name in fields:
                    raise Refusal(f"{name} is twice in the form; say it once", param=name)
                elif isinstance(value, UploadFile):
                    fields[name] = await value.read()
                    fields[f"{name}.name"] = value.filename or name
                else:
                    fields[name] = value
        finally:
            await form.close()
        check_values(fields)
        return fields


class Incoming:
    """A body as it comes, within its bounds.

    Args:
        headers: Of the request.
        receive: Gives its pieces.
        settings: Of the gateway.
        room: Holds it.
        bound: What its own bounds are called: http.BOUND_bytes and http.BOUND_s.
        most_bytes: The first.
        within_s: The second.

    Raises:
        Refusal: It says to be larger than it may be.
    """

    def __init__(
        self,
        headers: Mapping[str, str],
        receive: Receive,
        settings: Http,
        room: Room,
        *,
        bound: str,
        most_bytes: int,
        within_s: float,
    ) -> None:
        self._receive = receive
        self._settings = settings
        self._room = room
        self._bound = bound
        self._most_bytes = most_bytes
        self._within_s = within_s
        self._until = asyncio.get_running_loop().time() + within_s
        said = headers.get("content-length", "")
        if said.isdecimal() and (len(said) > len(str(most_bytes)) or int(said) > most_bytes):
            raise self._too_large(said)

    async def receive(self) -> Message:
        """The next piece.

        Raises:
            Refusal: There is too much of it, or it does not come in time.
            GoneError: The caller has left.
        """
        silent_until = asyncio.get_running_loop().time() + self._settings.body_silent_s
        try:
            async with asyncio.timeout_at(min(self._until, silent_until)):
                message = await self._receive()
        except TimeoutError:
            what = (
                f"did not come within {self._within_s:g} s (http.{self._bound}_s)"
                if self._until <= silent_until
                else f"stopped coming for {self._settings.body_silent_s:g} s (http.body_silent_s)"
            )
            raise Refusal(f"the body {what}", status=408, code="LIMIT_EXCEEDED") from None
        if message["type"] == DISCONNECT:
            raise GoneError
        size_bytes = len(message.get("body", b""))
        if self._room.held_bytes + size_bytes > self._most_bytes:
            raise self._too_large(str(self._room.held_bytes + size_bytes))
        self._room.take(size_bytes)
        return message

    def _too_large(self, size_bytes: str) -> Refusal:
        return Refusal(
            f"the body has {size_bytes[:20]} bytes or more, over the {self._most_bytes} of http.{self._bound}_bytes; "
            "send less",
            status=413,
            code="LIMIT_EXCEEDED",
        )


def check_marks(body: bytes, most: int) -> int:
    """Refuse a body of JSON with too many values: what reading one costs depends on them. How many it has at most.

    Raises:
        Refusal: It has.
    """
    if (marks := sum(body.count(mark) for mark in MARKS)) <= most:
        return marks
    if b"\0" in body:  # of UTF-16 or UTF-32, whose texts are not found
        raise Refusal("the body cannot be read as JSON: it is not in UTF-8")
    found = end = 0
    while found <= most and (part := SOME_TEXTS.match(body, end)) is not None:
        between, end = TEXT.sub(b"", part[0]), part.end()
        found += sum(between.count(mark) for mark in MARKS)
    found += sum(body.count(mark, end) for mark in MARKS)
    if found > most:
        raise Refusal(
            f"the body has more than {most} values and names of fields (http.body_values); send several requests",
            status=413,
            code="LIMIT_EXCEEDED",
        )
    return found
