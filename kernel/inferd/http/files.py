"""`/v1/files`: blobs of the tenant, with a name each."""

from __future__ import annotations

import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

from starlette.responses import StreamingResponse

from inferd.http.calls import answer
from inferd.http.fields import check_fields, need, read_number, shown
from inferd.http.problems import Refusal
from inferd.http.record_kinds import FILE
from inferd.http.records import Record, facts_in
from inferd_client.errors import BlobNotFoundError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from starlette.types import ASGIApp

    from inferd.http.calls import Call
    from inferd.http.records import Records
    from inferd_client import AsyncClient

PREFIX: Final = "file-"
MOST_NAME: Final = 255
MOST_PAGE: Final = 10_000
USUAL_PAGE: Final = 100


class Files:
    """Answers requests about files.

    Args:
        records: What files are called.
    """

    def __init__(self, records: Records) -> None:
        self._records = records

    async def create(self, call: Call) -> ASGIApp:
        """Keep a file."""
        fields = dict(call.body)
        name = str(fields.pop("file.name", FILE))[:MOST_NAME]
        check_fields(fields, {"file", "purpose"}, {})
        purpose = need(fields, "purpose", str, "what it is for, as batch")
        data = need(fields, "file", bytes, "a file")
        if facts_in(data) is not None:
            raise Refusal("file is what the gateway itself keeps of a file or a batch; it cannot be one", param="file")
        return answer(described(await self.keep(call.client, name, purpose, data)))

    async def keep(self, client: AsyncClient, name: str, purpose: str, data: bytes) -> Record:
        """Keep bytes as a file."""
        blob = await client.put_blob(data)
        facts = {"filename": name, "purpose": purpose, "bytes": len(data), "content": blob.digest}
        return await self._records.keep(client, FILE, {**facts, "created_at": int(time.time())})

    async def list(self, call: Call) -> ASGIApp:
        """Those of the tenant."""
        found = await self._records.all_of(call.client, FILE)
        purpose = call.query.get("purpose")
        chosen = [each for each in found if purpose in (None, each.facts["purpose"])]
        if call.query.get("order") == "asc":
            chosen.reverse()
        return answer(page([described(each) for each in chosen], call.query, most=MOST_PAGE, usual=MOST_PAGE))

    async def get(self, call: Call) -> ASGIApp:
        """One of them."""
        return answer(described(await self.find(call.client, call.path["id"])))

    async def content(self, call: Call) -> ASGIApp:
        """Its bytes."""
        record = await self.find(call.client, call.path["id"])
        await call.client.get_blob(record.facts["content"])  # while there is a status to tell by that it is gone
        parts = call.client.read_blob(record.facts["content"])
        return StreamingResponse(parts, media_type="application/octet-stream")

    async def delete(self, call: Call) -> ASGIApp:
        """Forget one; its bytes too, unless another file has the same."""
        record = await self.find(call.client, call.path["id"])
        content = record.facts["content"]
        others = [each for each in await self._records.all_of(call.client, FILE) if each.hex != record.hex]
        await call.client.delete_blob(f"sha256:{record.hex}")
        if not any(each.facts["content"] == content for each in others):
            with suppress(BlobNotFoundError):
                await call.client.delete_blob(content)
        return answer({"id": call.path["id"], "object": FILE, "deleted": True})

    async def find(self, client: AsyncClient, file_id: str, param: str = "file_id") -> Record:
        """A file by its id.

        Raises:
            Refusal: There is none.
        """
        hexes = file_id.removeprefix(PREFIX)
        facts = await self._records.find(client, FILE, hexes) if file_id.startswith(PREFIX) else None
        if facts is None:
            raise lacking("file", file_id, param)
        return Record(hexes, facts)


def described(record: Record) -> dict[str, Any]:
    """A file in OpenAI's words."""
    facts = record.facts
    return {
        "id": PREFIX + record.hex,
        "object": FILE,
        "bytes": facts["bytes"],
        "created_at": facts["created_at"],
        "expires_at": None,
        "filename": facts["filename"],
        "purpose": facts["purpose"],
        "status": "processed",
    }


def lacking(what: str, named: str, param: str) -> Refusal:
    """The refusal of an id that is none."""
    return Refusal(
        f"there is no {what} {named!r} of this tenant; blobs that nobody used for long are deleted (blobs.retention_s)",
        status=404,
        code="BLOB_NOT_FOUND",
        param=param,
    )


def page(data: Sequence[dict[str, Any]], query: Mapping[str, str], *, most: int, usual: int) -> dict[str, Any]:
    """A page of a list, behind `after` and of `limit`.

    Raises:
        Refusal: `limit` is no number, or nothing has the id `after`.
    """
    limit = read_number(query.get("limit", str(usual)), "limit", 1, most)
    ids = [each["id"] for each in data]
    after = query.get("after")
    if after and after not in ids:
        raise Refusal(f"after is {shown(after)}, which is not in this list (any more)", param="after")
    begin = ids.index(after) + 1 if after else 0
    told = list(data[begin : begin + limit])
    return {
        "object": "list",
        "data": told,
        "first_id": told[0]["id"] if told else None,
        "last_id": told[-1]["id"] if told else None,
        "has_more": begin + len(told) < len(data),
    }
