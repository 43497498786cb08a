"""`/v1/vector_stores` before a kernel in this process."""

from pathlib import Path
from typing import Any

from test_http_batches import kept
from test_http_gateway import Web, web_of

TEXTS = {"oak.md": "# Oaks\n\nJays bury acorns in autumn.", "whale.txt": "Whales sing in the sea.", "fox.txt": "Foxes."}


async def upload(web: Web, name: str) -> str:
    """The id of a file."""
    sent = {"file": (name, TEXTS[name].encode(), "text/plain")}
    said = await web.http.post("/v1/files", data={"purpose": "assistants"}, files=sent)
    found: str = said.json()["id"]
    return found


async def search(web: Web, store: str, **body: Any) -> list[str]:
    """Names of the files that are found."""
    said = await web.http.post(f"/v1/vector_stores/{store}/search", json=body)
    assert said.status_code == 200, said.text
    return [each["filename"] for each in said.json()["data"]]


async def test_files_are_found_by_what_they_say(tmp_path: Path) -> None:
    """A store is made, filled, searched with filters of any attributes, emptied and deleted; gRPC sees its index."""
    async with web_of(tmp_path, kernel=kept(tmp_path)) as web:
        ids = {name: await upload(web, name) for name in TEXTS}
        given = {"name": "nature", "metadata": {"of": "us"}, "file_ids": [ids["oak.md"]], "fields": {"size": "number"}}
        made = (await web.http.post("/v1/vector_stores", json=given)).json()
        store, path = made["id"], f"/v1/vector_stores/{made['id']}"
        assert (made["name"], made["metadata"], made["file_counts"]["completed"]) == ("nature", {"of": "us"}, 1)
        for name, attributes in {
            "whale.txt": {"kind": "sea", "size": 30},
            "fox.txt": {"kind": "land", "size": 1},
        }.items():
            added = await web.http.post(f"{path}/files", json={"file_id": ids[name], "attributes": attributes})
            assert (added.json()["status"], added.json()["attributes"]) == ("completed", attributes), added.text
            assert added.json()["usage_bytes"] == len(TEXTS[name])
        assert await search(web, store, query="Where are acorns?", max_num_results=1) == ["oak.md"]
        either = ["sing foxes", "acorns"]
        sea = {"type": "eq", "key": "kind", "value": "sea"}
        land = {"type": "eq", "key": "kind", "value": "land"}
        for filters, found in (
            (sea, {"whale.txt"}),
            ({"type": "or", "filters": [sea, land]}, {"whale.txt", "fox.txt"}),
            ({"type": "nin", "key": "kind", "value": ["sea", "land"]}, {"oak.md"}),
            ({"type": "and", "filters": [{"type": "gt", "key": "size", "value": 10}, sea]}, {"whale.txt"}),
        ):
            assert {*await search(web, store, query=either, filters=filters)} == found, filters
        listed = (await web.http.get(f"{path}/files", params={"limit": "2"})).json()
        assert (len(listed["data"]), listed["has_more"]) == (2, True)
        text = (await web.http.get(f"{path}/files/{ids['oak.md']}/content")).json()["data"][0]["text"]
        assert "Jays bury acorns" in text
        assert (await web.http.delete(f"{path}/files/{ids['oak.md']}")).json()["deleted"]
        assert await search(web, store, query="acorns") == []
        (index,) = [each async for each in web.kernel.list_indexes()]
        assert store == f"vs_{index.spec.name}"
        assert [each["id"] for each in (await web.http.get("/v1/vector_stores")).json()["data"]] == [store]
        loaded = {
            each.name async for each in web.kernel.list_models()
        }  # the functions that searched are loaded as models
        models = {each["id"] for each in (await web.http.get("/v1/models")).json()["data"]}
        models |= {
            each["name"] for kind in ("ps", "tags") for each in (await web.http.get(f"/api/{kind}")).json()["models"]
        }
        assert {name for name in loaded - models if not name.startswith("package@")} == set()
        assert "package@retrieval" in loaded - models
        assert (await web.http.delete(path)).json()["deleted"]
        assert (await web.http.get(path)).status_code == 404


async def test_what_an_index_cannot_is_refused(tmp_path: Path) -> None:
    """Files that are none, unknown stores, comparisons without a field, and changes of a store are told as such."""
    async with web_of(tmp_path, kernel=kept(tmp_path)) as web:
        path = f"/v1/vector_stores/{(await web.http.post('/v1/vector_stores', json={})).json()['id']}"
        less = {"query": "a", "filters": {"type": "lt", "key": "size", "value": 1}}
        deep: dict[str, Any] = {"type": "eq", "key": "a", "value": 1}
        for _ in range(10):
            deep = {"type": "and", "filters": [deep]}
        for where, body, status, code in (
            (f"{path}/files", {"file_id": "file-0"}, 404, "BLOB_NOT_FOUND"),
            (f"{path}/search", less, 400, "UNSUPPORTED_FIELD"),
            (f"{path}/search", {"query": "a", "filters": deep}, 400, "INVALID_FIELD"),
            (f"{path}/search", {"query": []}, 400, "INVALID_FIELD"),
            (f"{path}/search", {"query": "a", "max_num_results": 51}, 400, "INVALID_FIELD"),
            (path, {"name": "another"}, 400, "UNSUPPORTED_FIELD"),
            ("/v1/vector_stores", {"expires_after": {"anchor": "last_active_at", "days": 1}}, 400, "UNSUPPORTED_FIELD"),
            ("/v1/vector_stores", {"metadata": {"a": "b" * 2000}}, 400, "INVALID_FIELD"),
            ("/v1/vector_stores/vs_nobody/search", {"query": "a"}, 404, "INDEX_NOT_FOUND"),
            ("/v1/vector_stores/nobody/search", {"query": "a"}, 404, "INDEX_NOT_FOUND"),
        ):
            said = await web.http.post(where, json=body)
            assert (said.status_code, said.json()["error"]["code"]) == (status, code), (where, said.text)
