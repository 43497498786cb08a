"""The dashboard of the gateway before a kernel: its files, and the stream that keeps a page up to date."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from test_http_gateway import gateway_at, web_of
from time_limits import LONG_S

from inferd.http.dashboard.pages import FOLDER
from inferd.testing.kernel import kernel_here, write_fake_model
from inferd_api.v1 import policy_pb2
from inferd_api.v1.auth_pb2 import Rule
from inferd_client import AsyncClient
from inferd_client.claims import cores


class Page:
    """What a page knows: the state that the messages of its stream come to."""

    def __init__(self, lines: AsyncIterator[str]) -> None:
        self._lines = lines
        self.sections: dict[str, dict[str, Any]] = {}
        self.messages = 0

    def rows(self, section: str) -> dict[str, Any]:
        return self.sections.get(section, {})

    async def until(self, holds: Callable[["Page"], Any]) -> Any:
        """Read on until something holds of the state."""
        async with asyncio.timeout(LONG_S):
            while not (found := holds(self)):
                line = await anext(self._lines)
                if line.startswith("data: "):
                    self._take(json.loads(line[6:]))
        return found

    def _take(self, told: Any) -> None:
        assert "error" not in told, told
        self.messages += 1
        if told["whole"]:
            self.sections = {}
        for section, rows in told["set"].items():
            self.sections.setdefault(section, {}).update(rows)
        for section, keys in told["gone"].items():
            for key in keys:
                self.sections.get(section, {}).pop(key, None)


@asynccontextmanager
async def page_of(http: httpx.AsyncClient, **headers: str) -> AsyncIterator[Page]:
    async with http.stream("GET", "/dashboard/events", headers=headers) as response:
        assert response.status_code == 200, await response.aread()
        yield Page(response.aiter_lines())


async def test_the_page_and_its_files(tmp_path: Path) -> None:
    """All files of the page come under a policy that lets nothing else run, and only once where they are unchanged."""
    async with web_of(tmp_path) as web, httpx.AsyncClient(base_url=web.url) as anyone:
        names = {path.name for path in FOLDER.iterdir()}
        assert {"index.html", "main.js", "style.css"} <= names
        for name in ("", *names):
            got = await anyone.get(f"/dashboard/{name}")
            assert got.status_code == 200, name
            policy = got.headers["content-security-policy"]
            assert "default-src 'none'" in policy
            assert "script-src 'self';" in policy
            assert "unsafe" not in policy
            assert "http" not in policy
            assert got.headers["x-content-type-options"] == "nosniff"
            again = await anyone.get(f"/dashboard/{name}", headers={"if-none-match": got.headers["etag"]})
            assert (again.status_code, again.content) == (304, b"")
            assert again.headers["etag"] == got.headers["etag"]
        page = (FOLDER / "index.html").read_text()
        assert "<style" not in page
        assert page.count("<script") == page.count('<script type="module" src=')


def test_nothing_comes_from_elsewhere() -> None:
    """No file names an address outside, but for the names of namespaces; no script makes markup of a text."""
    for path in FOLDER.iterdir():
        text = path.read_text().replace("http://www.w3.org/2000/svg", "")
        assert "http://" not in text, path.name
        assert "https://" not in text, path.name
        for way in ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "style=", 'onclick="'):
            assert way not in text, (path.name, way)


@pytest.mark.parametrize(
    "path",
    [
        *("/dashboard/nothing.js", "/dashboard/../gateway.py", "/dashboard/%2e%2e/gateway.py"),
        *("/dashboard/..%2fgateway.py", "/dashboard//etc/passwd", "/dashboard/static/index.html"),
        *("/dashboard/%00", "/dashboard/index.html%00.js"),
    ],
)
async def test_files_that_are_none_of_the_page(tmp_path: Path, path: str) -> None:
    """What is not a file of the page is not there, however its path is written."""
    async with gateway_at(f"unix:{tmp_path}/none") as url:
        host, port = url.removeprefix("http://").split(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())
        async with asyncio.timeout(LONG_S):
            assert b" 404 " in await reader.readline()
        writer.close()


async def test_the_root_leads_browsers_to_the_page(tmp_path: Path) -> None:
    """Who looks at the root is led to the dashboard, programs find what they look for; off, it is not there."""
    async with gateway_at(f"unix:{tmp_path}/none") as url, httpx.AsyncClient(base_url=url) as http:
        looked = await http.get("/", headers={"accept": "text/html,*/*;q=0.8"})
        assert (looked.status_code, looked.headers["location"]) == (307, "/dashboard/")
        assert (await http.get("/dashboard")).headers["location"] == "/dashboard/"
        assert (await http.get("/")).text == "Ollama is running"
    off = {"enabled": False}
    async with gateway_at(f"unix:{tmp_path}/none", dashboard=off) as url, httpx.AsyncClient(base_url=url) as http:
        assert (await http.get("/dashboard/")).status_code == 404
        assert (await http.get("/", headers={"accept": "text/html"})).text == "Ollama is running"


async def test_what_the_kernel_does_reaches_the_page(tmp_path: Path) -> None:
    """Hosts, devices, models, instances, queues and tasks come and end on the page as in the kernel."""
    async with web_of(tmp_path, behaviour={"step_s": 0.01}) as web, page_of(web.http) as page:
        await page.until(lambda page: page.rows("models").get("fake", {}).get("state") == "unloaded")
        assert page.rows("kernel")["identity"] == {"name": "web", "roles": ["user"], "tenant": "default"}
        devices = await page.until(lambda page: page.rows("hosts").get("local", {}).get("devices"))
        assert all(each["capacity"] >= each["free"] for each in devices)
        task = await web.kernel.create_task("fake", "go on ", max_tokens=900, ignore_eos=True)
        await page.until(lambda page: page.rows("tasks").get(task.task_id, {}).get("state") == "running")
        row = page.rows("tasks")[task.task_id]
        await page.until(lambda page: row["instance"] in page.rows("instances"))
        await page.until(lambda page: page.rows("models")["fake"]["state"] == "ready")
        loads = await page.until(lambda page: page.rows("loads") or None)
        assert [(each["tenant"], each["class"]) for each in loads.values()] == [("default", "normal")]
        assert (await web.http.post("/dashboard/cancel", json={"task_id": task.task_id})).status_code == 200
        ended = await page.until(lambda page: page.rows("ended").get(task.task_id))
        assert (ended["state"], task.task_id in page.rows("tasks")) == ("cancelled", False)
        lease = await web.kernel.create_lease(cores(1), ttl_s=60)
        held = await page.until(lambda page: page.rows("leases").get(lease.lease_id))
        assert (held["state"], held["claims"]) == ("active", [{"device": "cpu:0", "cores": 1}])
        await page.until(lambda page: page.rows("clock"))
        answer = await web.http.get("/dashboard/history?span_s=600")
        told = answer.json()
        assert answer.headers["cache-control"] == "no-store"
        for span in ("9" * 4301, "0600", "-600", ""):
            refused = await web.http.get(f"/dashboard/history?span_s={span}")
            assert (refused.status_code, refused.json()["error"]["param"]) == (400, "span_s")
        assert len(told["points"]) >= 1
        assert len(told["points"][-1]) == len(told["names"])


async def test_nobody_sees_what_is_of_another_tenant(tmp_path: Path) -> None:
    """Two keys of two tenants have streams of their own: neither tells of the other's tasks, queues or texts."""
    async with kernel_here(tmp_path) as made, AsyncClient(made.addresses[0], credential="") as client:
        await client.create_model("fake", str(write_fake_model(tmp_path, step_s=0.01)))
        keys = [
            (await client.create_key(name, roles=["user"], tenants=[name])).credential for name in ("crimson", "azure")
        ]
        async with gateway_at(made.addresses[0]) as url:
            red, blue = (
                httpx.AsyncClient(base_url=url, headers={"authorization": f"Bearer {key}"}, timeout=LONG_S)
                for key in keys
            )
            async with red, blue, AsyncClient(made.addresses[0], credential="", tenant="crimson") as owner:
                task = await owner.create_task("fake", "secret ", max_tokens=900, ignore_eos=True)
                async with page_of(red) as own, page_of(blue) as other:
                    await own.until(lambda page: page.rows("tasks").get(task.task_id, {}).get("state") == "running")
                    await own.until(lambda page: page.rows("loads"))
                    await other.until(lambda page: page.rows("host").get("local", {}).get("running") is not None)
                    began = (await other.until(lambda page: page.rows("clock")))["now"]["second"]
                    await other.until(lambda page: page.rows("clock")["now"]["second"] > began + 1)
                    assert task.task_id not in json.dumps(other.sections)
                    assert "crimson" not in json.dumps(other.sections)
                    refused = await blue.get(f"/dashboard/tasks/{task.task_id}/text")
                    assert (refused.status_code, refused.json()["error"]["code"]) == (404, "TASK_NOT_FOUND")
                    refused = await blue.post("/dashboard/cancel", json={"task_id": task.task_id})
                    assert refused.json()["error"]["code"] == "TASK_NOT_FOUND"
                    text = await text_of(red, task.task_id, len("secret secret"))
                    assert "secret secret".startswith(text[:13])
                    refused = await blue.get("/dashboard/events", headers={"inferd-tenant": "crimson"})
                    assert refused.status_code == 403


async def text_of(http: httpx.AsyncClient, task_id: str, least: int) -> str:
    """The begin of what a task produces."""
    said = ""
    async with asyncio.timeout(LONG_S), http.stream("GET", f"/dashboard/tasks/{task_id}/text") as response:
        async for line in response.aiter_lines():
            if line.startswith("data: "):
                said += json.loads(line[6:]).get("text", "")
            if len(said) >= least:
                break
    return said


async def test_a_text_is_cut_to_its_newest(tmp_path: Path) -> None:
    """Of an output that is longer than may be shown at once its last letters come, and then how the task ended."""
    async with web_of(tmp_path, dashboard={"text_chars": 100}) as web:
        task = await web.kernel.create_task("fake", "0123456789" * 30)
        told = [event async for event in web.kernel.watch(task.task_id)]
        whole = "".join(event.output.text for event in told)
        async with web.http.stream("GET", f"/dashboard/tasks/{task.task_id}/text") as response:
            lines = [json.loads(line[6:]) async for line in response.aiter_lines() if line.startswith("data: ")]
        assert all(len(each.get("text", "")) <= 100 for each in lines)
        said = "".join(each.get("text", "") for each in lines)
        assert whole.endswith(said[-100:])
        assert lines[-1] == {"finished": "succeeded", "error": ""}


async def test_who_is_not_known(tmp_path: Path) -> None:
    """Without a key there is no stream; one that is revoked ends the streams that came with it, by its reason."""
    async with web_of(tmp_path) as web, httpx.AsyncClient(base_url=web.url) as anyone:
        for path in ("/dashboard/events", "/dashboard/history", "/dashboard/tasks/a/text"):
            assert (await anyone.get(path)).status_code == 401
        key = await anext(web.kernel.list_keys())
        async with web.http.stream("GET", "/dashboard/events") as response:
            lines = response.aiter_lines()
            async with asyncio.timeout(LONG_S):
                while '"clock"' not in await anext(lines):
                    pass
                await web.kernel.revoke_key(key.key_id)
                told = [line async for line in lines if line.startswith("data: ")]
        assert json.loads(told[-1][6:])["error"]["code"] == "UNAUTHENTICATED"


async def test_a_gateway_that_needs_no_key(tmp_path: Path) -> None:
    """Where calls need no key the page works at once."""
    async with kernel_here(tmp_path) as made, AsyncClient(made.addresses[0], credential="") as client:
        key = (await client.create_key("web", roles=["user"])).credential
        async with (
            gateway_at(made.addresses[0], keyless=key) as url,
            httpx.AsyncClient(base_url=url, timeout=LONG_S) as http,
            page_of(http) as page,
        ):
            await page.until(lambda page: page.rows("host"))


async def test_more_pages_than_may_be_open(tmp_path: Path) -> None:
    """One more page than a key may have, or all may, is refused with when to come again, and comes once one left."""
    for bound, settings in (("browsers", {"browsers": 1}), ("key_browsers", {"key_browsers": 1})):
        folder = tmp_path / bound
        folder.mkdir()
        async with web_of(folder, dashboard=settings) as web:
            async with page_of(web.http) as page:
                await page.until(lambda page: page.rows("host"))
                refused = await web.http.get("/dashboard/events")
                assert (refused.status_code, refused.json()["error"]["code"]) == (503, "LIMIT_EXCEEDED")
                assert f"http.dashboard.{bound}" in refused.json()["error"]["message"]
                assert int(refused.headers["retry-after"]) >= 1
            async with asyncio.timeout(LONG_S):
                while (await status_of(web.http)) != 200:
                    pass


async def status_of(http: httpx.AsyncClient) -> int:
    async with http.stream("GET", "/dashboard/events") as response:
        return response.status_code


async def test_more_identities_than_are_watched_for(tmp_path: Path) -> None:
    """Where as many identities are watched for as may be, one whose page is closed gives way, none whose is open."""
    async with web_of(tmp_path, dashboard={"feeds": 1}) as web:
        second = (await web.kernel.create_key("second", roles=["user"])).credential
        other = {"authorization": f"Bearer {second}"}
        async with page_of(web.http) as page:
            await page.until(lambda page: page.rows("host"))
            refused = await web.http.get("/dashboard/events", headers=other)
            assert "http.dashboard.feeds" in refused.json()["error"]["message"]
        async with asyncio.timeout(LONG_S):
            while (await web.http.get("/dashboard/history", headers=other)).status_code != 404:
                pass
            while True:
                async with web.http.stream("GET", "/dashboard/events", headers=other) as response:
                    if response.status_code == 200:
                        break
        assert (await web.http.get("/dashboard/history")).status_code == 404


async def test_what_may_not_be_done_is_told(tmp_path: Path) -> None:
    """A button that the key may not press answers with the kernel's reason; who may loads and unloads a model."""
    async with web_of(tmp_path) as web:
        refused = await web.http.post("/dashboard/load", json={"model": "fake"})
        assert (refused.status_code, refused.json()["error"]["code"]) == (403, "PERMISSION_DENIED")
        wrong = await web.http.post("/dashboard/load", json={"modl": "fake"})
        assert (wrong.status_code, wrong.json()["error"]["param"]) == (400, "modl")
        key = (await web.kernel.create_key("operator", roles=["operator"])).credential
        operator = {"authorization": f"Bearer {key}"}
        async with page_of(web.http) as page:
            for verb, state in (("load", "ready"), ("unload", "unloaded")):
                done = await web.http.post(f"/dashboard/{verb}", json={"model": "fake"}, headers=operator)
                assert (done.status_code, done.json()) == (200, {})
                await page.until(lambda page, state=state: page.rows("models").get("fake", {}).get("state") == state)


async def test_what_may_not_be_read_any_more(tmp_path: Path) -> None:
    """A rule takes all from the page that was told by what it denies: queues, instances, ended tasks, plots."""
    async with web_of(tmp_path) as web, page_of(web.http) as page:
        ended = await web.kernel.create_task("fake", "x")
        await page.until(lambda page: ended.task_id in page.rows("ended") and page.rows("instances"))
        await page.until(lambda page: page.rows("clock"))
        kinds = [policy_pb2.RESOURCE_KIND_TASK, policy_pb2.RESOURCE_KIND_HOST]
        await web.kernel.create_rule(Rule(who="principal:web", deny=True, verbs=[policy_pb2.VERB_READ], kinds=kinds))
        await page.until(lambda page: {"host", "tasks"} <= page.rows("notes").keys())
        sections = ("host", "loads", "instances", "clock", "tasks", "ended")
        await page.until(lambda page: not any(map(page.rows, sections)))
        assert (await web.http.get("/dashboard/history")).json()["points"] == []


async def test_pages_of_one_identity_share_a_watch(tmp_path: Path) -> None:
    """However many pages a key has open, the kernel is watched once for them, and not at all once they are closed."""
    async with web_of(tmp_path, kernel={"limits": {"host_watchers": 2}}, dashboard={"linger_s": 0.0}) as web:
        async with page_of(web.http) as first, page_of(web.http) as second, page_of(web.http) as third:
            for page in (first, second, third):  # each feed watches its own host and all hosts: two
                await page.until(lambda page: page.rows("host") and page.rows("hosts"))
                assert "host" not in page.rows("notes")
        async with asyncio.timeout(LONG_S):
            while (await web.http.get("/dashboard/history")).status_code != 404:
                pass


async def test_more_tasks_than_rows(tmp_path: Path) -> None:
    """Of more tasks than a page has rows the newest are shown, and the others come where those have ended."""
    rows = {"rows": 10, "poll_s": 0.2}
    async with web_of(tmp_path, behaviour={"step_s": 0.2}, dashboard=rows) as web:

        async def create() -> str:
            return (await web.kernel.create_task("fake", "go on ", max_tokens=900, ignore_eos=True)).task_id

        made = [await create() for _ in range(14)]
        newest, oldest = set(made[4:]), set(made[:4])
        async with page_of(web.http) as page:
            await page.until(lambda page: page.rows("tasks").keys() == newest)
            for each in made[8:]:
                await web.kernel.cancel_task(each)
            await page.until(
                lambda page: page.rows("tasks").keys() == set(made[4:8]) or oldest <= page.rows("tasks").keys()
            )
            now = (await page.until(lambda page: page.rows("clock")))["now"]["second"]
            await page.until(lambda page: page.rows("clock")["now"]["second"] > now + 1)
            last = await create()  # what has changed is looked at then
            await page.until(lambda page: page.rows("tasks").keys() == {*made[:8], last})
