"""Small facts that are to be found again, kept as blobs of the tenant: each is written once and never changed.

The gateway has no place of its own. What a file is called, or how a batch has ended, is a blob of JSON whose digest is
the id; those of a kind are found by going through the tenant's small blobs. Nobody makes one by an upload here; who has
a key of the tenant could by the kernel, and could delete its blobs as well: what is no whole record is passed over.
"""

from __future__ import annotations

import json
from contextlib import aclosing
from typing import TYPE_CHECKING, Any, Final, NamedTuple
from uuid import uuid4

from inferd.http.problems import Refusal
from inferd.http.record_kinds import KIND, is_record
from inferd.http.streams import dumps
from inferd_api.v1.blob_pb2 import BlobState
from inferd_client.errors import BlobNotFoundError, InvalidFieldError

if TYPE_CHECKING:
    from inferd_client import AsyncClient

SHA: Final = "sha256:"
MOST_BYTES: Final = 16 << 10
MOST_REMEMBERED: Final = 10_000


class Record(NamedTuple):
    """A record: the 64 digits of its digest, and what it says."""

    hex: str
    facts: dict[str, Any]


class Records:
    """The records of all tenants, of which those are remembered that were read. One writer: the gateway's loop."""

    def __init__(self) -> None:
        self._known: dict[str, dict[str, Any] | None] = {}  # by digest; None for a blob that is none

    async def keep(self, client: AsyncClient, kind: str, facts: dict[str, Any]) -> Record:
        """Keep a record.

        Raises:
            Refusal: It is too large.
            ValueError: It is none of this kind.
            InferdError: As the client's `put_blob`.
        """
        facts = {KIND: kind, "nonce": str(uuid4()), **facts}
        if not is_record(facts):
            raise ValueError(f"what is to be kept is no record of the kind {kind!r}")
        data = dumps(facts).encode()
        if len(data) > MOST_BYTES:
            raise Refusal(f"what is to be kept of it has {len(data)} bytes; at most {MOST_BYTES}: send less metadata")
        blob = await client.put_blob(data)
        self._remember(blob.digest, facts)
        return Record(blob.digest.removeprefix(SHA), facts)

    async def find(self, client: AsyncClient, kind: str, record_hex: str) -> dict[str, Any] | None:
        """A record of a kind by its digest; None where the caller's tenant has none."""
        try:
            blob = await client.get_blob(SHA + record_hex)  # another tenant's may be remembered
        except (BlobNotFoundError, InvalidFieldError):
            return None
        facts = await self._read(client, blob.digest, blob.size_bytes)
        return facts if facts is not None and facts[KIND] == kind else None

    async def all_of(self, client: AsyncClient, *kinds: str) -> list[Record]:
        """All of some kinds, newest first."""
        found = []
        async with aclosing(client.list_blobs()) as blobs:
            async for blob in blobs:
                if blob.state != BlobState.BLOB_STATE_WHOLE:
                    continue
                facts = await self._read(client, blob.digest, blob.size_bytes)
                if facts is not None and facts[KIND] in kinds:
                    found.append((blob.create_time.ToNanoseconds(), Record(blob.digest.removeprefix(SHA), facts)))
        return [record for _, record in sorted(found, key=lambda one: -one[0])]

    async def _read(self, client: AsyncClient, digest: str, size_bytes: int) -> dict[str, Any] | None:
        if digest in self._known:
            return self._known[digest]
        if size_bytes > MOST_BYTES:
            return None
        try:
            facts = facts_in(await read_blob(client, digest))
        except BlobNotFoundError:
            return None
        self._remember(digest, facts)
        return facts

    def _remember(self, digest: str, facts: dict[str, Any] | None) -> None:
        if len(self._known) >= MOST_REMEMBERED:
            del self._known[next(iter(self._known))]
        self._known[digest] = facts


def facts_in(data: bytes) -> dict[str, Any] | None:
    """What a record says; None for bytes that are none."""
    if len(data) > MOST_BYTES:
        return None
    try:
        said = json.loads(data)
    except (ValueError, RecursionError):
        return None
    return said if is_record(said) else None


async def read_blob(client: AsyncClient, digest: str) -> bytes:
    """All of a blob."""
    data = bytearray()
    async with aclosing(client.read_blob(digest)) as parts:
        async for part in parts:
            data += part
    return bytes(data)
