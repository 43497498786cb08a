"""What goes wrong with `/v1/vector_stores`: nothing is left of it, and nothing is added that was not asked for."""

from pathlib import Path
from typing import Any

import pytest
from test_http_batches import kept
from test_http_gateway import Web, web_of
from test_http_vector_stores import search

PATH = "/v1/vector_stores"


async def upload(web: Web, name: str, data: bytes) -> str:
    said = await web.http.post("/v1/files", data={"purpose": "assistants"}, files={"file": (name, data, "text/plain")})
    found: str = said.json()["id"]
    return found


async def test_a_store_that_cannot_be_filled_is_not_left(tmp_path: Path) -> None:
    """One file that cannot be read: the store goes again, as nobody knows its id; one that is named twice is one."""
    async with web_of(tmp_path, kernel=kept(tmp_path)) as web:
        oak, bad = await upload(web, "oak.txt", b"Jays bury acorns."), await upload(web, "bad.pdf", b"no PDF")
        status, error = await web.refused(PATH, name="x", file_ids=[oak, bad])
        assert (status, error["param"]) == (400, "documents[1].file")
        assert (await web.http.get(PATH)).json()["data"] == []
        made = await web.post(PATH, file_ids=[oak, oak])
        assert made["file_counts"]["completed"] == 1
        for wrong in ({"file_ids": [[oak]]}, {"fields": {"inferd.attributes": "number"}}):
            assert (await web.refused(PATH, **wrong))[0] == 400
        for query in ({"order": "up"}, {"filter": "done"}, {"before": oak}):
            refused = await web.http.get(f"{PATH}/{made['id']}/files", params=query)
            assert (refused.status_code, refused.json()["error"]["param"]) == (400, next(iter(query)))


async def test_attributes_are_changed_of_what_is_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A change of attributes adds no file that is not in the store; one that is stays as old as it was."""
    async with web_of(tmp_path, kernel=kept(tmp_path)) as web:
        oak, fox = await upload(web, "oak.txt", b"Jays bury acorns."), await upload(web, "fox.txt", b"Foxes.")
        store = (await web.post(PATH, file_ids=[oak]))["id"]
        path = f"{PATH}/{store}/files"
        assert (await web.refused(f"{path}/{fox}", attributes={"a": 1}))[0] == 404
        assert await search(web, store, query="foxes") == []
        before = (await web.http.get(f"{path}/{oak}")).json()
        monkeypatch.setattr("inferd.http.vector_stores.time.time", lambda: before["created_at"] + 1000.0)
        many: dict[str, Any] = {f"name {n}": "x" * 512 for n in range(16)}
        changed = await web.post(f"{path}/{oak}", attributes=many)
        assert (changed["created_at"], changed["attributes"]) == (before["created_at"], many)
        last = {"type": "eq", "key": "name 15", "value": "x" * 512}
        assert await search(web, store, query="acorns", filters=last) == ["oak.txt"]
        assert await search(web, store, query="acorns", filters={**last, "value": "x" * 511}) == []
        assert (await web.refused(f"{path}/{oak}", attributes={"inferd.http": 1}))[0] == 400
