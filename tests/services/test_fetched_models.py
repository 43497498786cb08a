"""Models whose source is elsewhere: fetched within what the configuration allows, shared, gone on with, and removed."""

import asyncio
import hashlib
import io
import struct
import threading
import zipfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest
from connection import Connection, refusal
from web_server import Web, served

from inferd.cli.fetch_child import fetch
from inferd.cli.guarded import guarded, is_allowed
from inferd.cli.output import CommandError
from inferd.content import joint
from inferd.core.ids import ModelName
from inferd.errors import InferdError
from inferd.runtime.fetching import Fetches, error_of
from inferd.source_settings import Sources
from inferd.testing.kernel import FAKE_PLUGIN, kernel_here
from inferd_api.v1 import model_pb2 as mp
from inferd_api.v1 import model_service_pb2 as ms


def sound(content: bytes) -> bytes:
    """A GGUF file with one tensor of F32, these bytes."""
    head = b"GGUF" + struct.pack("<IQQ", 3, 1, 0) + struct.pack("<Q", 1) + b"w"
    head += struct.pack("<IQIQ", 1, len(content) // 4, 0, 0)
    return head + bytes(-len(head) % 32) + content


BODY, OTHER = sound(bytes(1 << 20)), sound(bytes(range(256)) * 16)
DIGEST, OTHER_DIGEST = (f"sha256:{hashlib.sha256(each).hexdigest()}" for each in (BODY, OTHER))


@pytest.fixture
def web(tmp_path: Path) -> Iterator[Web]:
    with served(tmp_path / "certs") as made:
        made.files = {"/m.gguf": BODY, "/other.gguf": OTHER}
        yield made


@asynccontextmanager
async def fetching(
    folder: Path, web: Web, *, models: Any = (), kept: bool = False, **more: Any
) -> AsyncIterator[Connection]:
    """A kernel that may fetch from the web server."""
    settings: dict[str, Any] = {"store": {"url": f"sqlite:{folder}/kept"}} if kept else {}
    plugins = (FAKE_PLUGIN, "inferd_cpu.plugin")
    sources = web.settings(**more)
    async with kernel_here(folder, models=models, plugin_modules=plugins, sources=sources, **settings) as made:
        connection = Connection(made, folder)
        yield connection
        await connection.channel.close()


def create(connection: Connection, source: str, name: str = "m", digest: str = DIGEST, **more: Any) -> Any:
    model = mp.Model(name=name, source=source, pinned_digest=digest, **more)
    return connection.models.CreateModel(ms.CreateModelRequest(model=model))


def fetched(folder: Path) -> list[Path]:
    """The models that lie in the kernel's folder."""
    return sorted(each for each in (folder / "data" / "fetched").glob("*/models/*/*") if each.name != "manifest.json")


async def test_a_file_is_fetched_once_and_removed_with_its_last_version(tmp_path: Path, web: Web) -> None:
    """Models share what has its digest; the next kernel knows it without a fetch, and it goes when none is of it."""
    async with fetching(tmp_path, web, kept=True) as connection:
        model = (await create(connection, web.url("/m.gguf"))).model
        assert (model.source, model.backend, model.size_bytes) == (web.url("/m.gguf"), "cpu", len(BODY))
        assert model.pinned_digest == DIGEST
        await create(connection, web.url("/m.gguf"))
        await create(connection, web.url("/elsewhere.gguf"), name="n")
        strange = create(connection, "https://elsewhere.invalid/m.gguf", name="o")  # though what it names is there
        assert (await refusal(strange))[0] == "PERMISSION_DENIED"
        assert len(web.asked) == 1
    (path,) = fetched(tmp_path)
    assert path.read_bytes() == BODY
    async with fetching(tmp_path, web, kept=True) as connection:
        await connection.models.DeleteModel(ms.DeleteModelRequest(name="n"))
        assert fetched(tmp_path) == [path]
        await connection.models.DeleteModel(ms.DeleteModelRequest(name="m"))
        assert (fetched(tmp_path), len(web.asked)) == ([], 1)


async def test_a_fetch_goes_on_where_it_broke_off_and_is_shared(tmp_path: Path, web: Web) -> None:
    """It ends with the last call that waits for it and no sooner; what came is kept, and told while it comes."""
    web.stall_after = 300_000
    async with fetching(tmp_path, web) as connection:
        first, second = (asyncio.ensure_future(create(connection, web.url("/m.gguf"), name)) for name in "ab")
        told = await _told(connection, "b", 200_000)
        assert (told.source, told.fetch.total_bytes, told.state) == (
            web.url("/m.gguf"), len(BODY), mp.MODEL_STATE_UNLOADED,
        )  # fmt: skip
        first.cancel()
        await asyncio.wait([first])
        second.cancel()
        await asyncio.wait([second])
        assert len(web.asked) == 1
        with pytest.raises(grpc.aio.AioRpcError):  # the kernel has heard of it when nothing is told of it any more
            async for _ in connection.models.WatchModel(ms.WatchModelRequest(name="b"), timeout=60):
                pass
        web.stall_after = None
        web.go.set()
        assert (await create(connection, web.url("/m.gguf"), "b")).model.size_bytes == len(BODY)
        start = int(web.asked[1][1].removeprefix("bytes=").removesuffix("-"))
        assert 0 < start <= 300_000  # what its process had not written yet went with it
    web.cut_after = 500_000
    async with fetching(tmp_path / "again", web) as connection:
        await create(connection, web.url("/m.gguf"))  # a connection that breaks is taken up again by itself
        assert web.asked[-1][1].startswith("bytes=")


async def _told(connection: Connection, name: str, least_bytes: int) -> mp.Model:
    """What is told of a model once so much of it has come."""
    changes = connection.kernel.driver.watchers.models
    async with asyncio.timeout(60):
        while True:
            watched = connection.models.WatchModel(ms.WatchModelRequest(name=name))
            try:
                async for response in watched:
                    model: mp.Model = response.model
                    if model.fetch.done_bytes >= least_bytes:
                        watched.cancel()
                        return model
            except grpc.aio.AioRpcError:  # it is not known yet, nor on its way
                with changes.watch(ModelName(name)) as changed:
                    await changed.wait(changed.version, 0.05)


def failed(folder: Path, web: Web, source: str, digest: str) -> InferdError:
    """Why a process that fetches cannot, as the kernel tells it."""
    order = {
        "source": source,
        "sha256": digest.removeprefix("sha256:"),
        "folder": str(folder / "here"),
        "settings": web.settings(),
        "token": "",
    }
    with pytest.raises(CommandError) as caught:
        fetch(order, lambda **_: None)
    error = caught.value
    return error_of({"reason": error.reason, "message": error.message, "metadata": error.metadata}, source)


async def test_what_is_found_while_others_are_removed_is_there(
    tmp_path: Path, web: Web, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A model that comes to have fetched files while those of none are removed has them: they are fetched once more."""
    fetches = Fetches(Sources.model_validate(web.settings()), tmp_path / "fetched", lambda _: None)
    source, begun, goes_on = web.url("/m.gguf"), asyncio.Event(), threading.Event()
    async with asyncio.timeout(60), fetches.brought(ModelName("a"), source, DIGEST) as found:
        assert found.path.read_bytes() == BODY
    loop, sweep = asyncio.get_running_loop(), fetches._sweep

    def slow(kept: set[Path]) -> None:
        loop.call_soon_threadsafe(begun.set)
        assert goes_on.wait(60)
        sweep(kept)

    monkeypatch.setattr(fetches, "_sweep", slow)
    async with asyncio.timeout(60):
        removing = asyncio.create_task(fetches.sweep(set))
        await begun.wait()
        loop.call_later(0.1, goes_on.set)  # what is found before that would be removed behind it
        async with fetches.brought(ModelName("b"), source, DIGEST) as found:
            await removing
            assert found.path.read_bytes() == BODY
    await fetches.close()


async def test_what_may_not_or_cannot_be_fetched_is_refused_with_why(tmp_path: Path, web: Web) -> None:
    """Other hosts, redirects to them, private addresses, other contents, too much, a full disk: each has its reason."""
    outside = f"https://127.0.0.1:{web.server_port}/m.gguf"
    web.redirects = {"/away.gguf": outside, "/plain.gguf": f"http://{web.host}/m.gguf"}
    url = web.url("/m.gguf")
    async with fetching(tmp_path, web, most_bytes=len(BODY) - 1) as connection:
        for source, digest, reason, word in (
            (outside, DIGEST, "PERMISSION_DENIED", "127.0.0.1"),
            ("https://localhost/m.gguf", DIGEST, "PERMISSION_DENIED", "localhost"),
            ("hub:o/r", "", "PERMISSION_DENIED", "huggingface.co"),
            (f"https://user:pass@{web.host}/m.gguf", DIGEST, "INVALID_FIELD", ""),
            (url, "", "INVALID_FIELD", ""),
            ("package:a", "", "INVALID_FIELD", ""),
            ("http://localhost/m.gguf", DIGEST, "INVALID_FIELD", ""),
        ):
            found, facts = await refusal(create(connection, source, digest=digest))
            assert (found, word in facts.get("host", "")) == (reason, True), source
        assert not web.asked
        found, facts = await refusal(create(connection, url))
        assert (found, facts["bound"]) == ("LIMIT_EXCEEDED", "sources.most_bytes")
    for path, digest, reason, fact in (
        ("/away.gguf", DIGEST, "PERMISSION_DENIED", ("host", outside[8:].partition("/")[0])),
        ("/plain.gguf", DIGEST, "INVALID_FIELD", ("source", web.url("/plain.gguf"))),
        ("/other.gguf", DIGEST, "INVALID_FIELD", ("actual", OTHER_DIGEST.removeprefix("sha256:"))),
        ("/none.gguf", DIGEST, "SOURCE_UNAVAILABLE", ("cause", "DOWNLOAD_FAILED")),
    ):
        error = failed(tmp_path, web, web.url(path), digest)
        assert (error.reason, error.metadata.get(fact[0])) == (reason, fact[1]), (path, error.metadata)
    web.said_bytes = 1 << 40
    error = failed(tmp_path, web, web.url("/other.gguf"), OTHER_DIGEST)
    facts = error.metadata
    assert (error.reason, int(facts["needed_bytes"]) > int(facts["free_bytes"])) == ("DISK_FULL", True)
    assert not fetched(tmp_path)


def test_only_public_addresses_of_known_authorities_are_dialled(web: Web) -> None:
    """A name that leads into a private network, or to whom nobody vouches for, gets no request."""
    for settings, error in (
        (web.settings(networks=[]), CommandError),
        (web.settings(networks=["10.0.0.0/8"]), CommandError),
        (web.settings(ca_file=None), httpx.ConnectError),
    ):
        with guarded(Sources(**settings)).client() as client, pytest.raises(error):
            client.get(web.url("/m.gguf"))
    assert not web.asked
    with guarded(Sources(**web.settings())).client() as client:
        assert client.get(web.url("/m.gguf")).content == BODY
    nothing, private = Sources(), Sources.model_validate({"networks": ["10.0.0.0/8", "fd00::/8"]})
    inside = ("10.1.2.3", "::ffff:10.1.2.3", "64:ff9b::a01:203", "2002:a01:203::1", "fd00::1")
    never = ("127.0.0.1", "169.254.169.254", "::1", "fe80::1", "224.0.0.1", "192.168.1.1", "100.64.0.1")
    assert [is_allowed(ip_address(each), nothing) for each in (*inside, *never)] == [False] * 12
    assert [is_allowed(ip_address(each), private) for each in inside] == [True] * 5
    assert not any(is_allowed(ip_address(each), private) for each in never)
    assert is_allowed(ip_address("1.1.1.1"), nothing)
    hosts = Sources(hosts=("a.example", "*.b.example", "c.example:8443"))
    asked = (
        ("a.example", None), ("A.example.", 443), ("a.example", 8443), ("xa.example", None), ("x.b.example", None),
        ("b.example", None), ("b.example.evil", None), ("c.example", 8443), ("c.example", None),
    )  # fmt: skip
    allowed = [hosts.allows(host, port) for host, port in asked]
    assert allowed == [True, True, False, False, True, False, False, True, False]


async def test_hubs_and_packages_are_sources(tmp_path: Path, web: Web) -> None:
    """A repository is listed and fetched whole, a package's wheel by an index in JSON; both can be pinned."""
    names = {"config.json": b"{}", "tokenizer.json": b"{}", "model.safetensors": struct.pack("<Q", 2) + b"{}"}
    web.pages["/api/models/o/tiny/revision/main"] = {"siblings": [{"rfilename": each} for each in names]}
    web.files |= {f"/o/tiny/resolve/main/{name}": body for name, body in names.items()}
    wheel = io.BytesIO()
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("tiny_model/m.gguf", OTHER)
    sha256 = hashlib.sha256(wheel.getvalue()).hexdigest()
    web.pages["/simple/tiny-model/"] = {
        "files": [
            {"filename": f"tiny_model-{version}-py3-none-any.whl", "url": "/w.whl", "hashes": {"sha256": sha256}}
            for version in ("0.9", "1.0")
        ]
    }
    web.files["/w.whl"] = wheel.getvalue()
    pinned = joint({f"tiny/{name}": hashlib.sha256(body).hexdigest() for name, body in names.items()})
    hub = {"hub_url": f"https://{web.host}", "package_url": f"https://{web.host}/simple"}
    async with fetching(tmp_path, web, **hub) as connection:
        model = (await create(connection, "hub:o/tiny", digest=f"sha256:{pinned}")).model
        assert (model.backend, model.size_bytes > 0) == ("cpu", True)
        await create(connection, "hub:o/tiny", name="again", digest="")
        model = (await create(connection, "package:tiny.model==1.0#m.gguf", name="p", digest="")).model
        assert model.size_bytes == len(OTHER)
        found, facts = await refusal(create(connection, "package:tiny.model==2.0", name="q", digest=""))
        assert (found, facts["cause"]) == ("SOURCE_UNAVAILABLE", "DOWNLOAD_FAILED")
        assert [path for path, _ in web.asked].count("/w.whl") == 1


async def test_declared_models_are_fetched_beside_serving(tmp_path: Path, web: Web) -> None:
    """The kernel serves meanwhile, tells that they are on their way or why not, and tries again."""
    web.files.pop("/m.gguf")
    entries = [
        {"name": "late", "source": web.url("/m.gguf"), "digest": DIGEST, "aliases": ["prod"]},
        {"name": "never", "source": "https://elsewhere.invalid/m.gguf", "digest": DIGEST},
    ]
    async with fetching(tmp_path, web, models=entries, retry_s=0.05) as connection:
        faults = {each.name: each for each in (await connection.models.ListModels(ms.ListModelsRequest())).faults}
        assert sorted(faults) == ["late", "never"]
        assert (faults["late"].field, "sources.hosts" in faults["never"].why) == ("source", True)
        reason, facts = await refusal(connection.models.GetModel(ms.GetModelRequest(name="late")))
        assert (reason, "late" in facts["cause"]) == ("MODEL_NOT_FOUND", True)
        web.files["/m.gguf"] = BODY
        with connection.kernel.driver.watchers.models.watch(ModelName("late")) as changed:
            async with asyncio.timeout(30):
                while connection.kernel.driver.views.find_model(ModelName("late")) is None:
                    await changed.wait(changed.version)
        model = (await connection.models.GetModel(ms.GetModelRequest(name="prod"))).model
        assert (model.name, model.source, model.declared != "") == ("late", web.url("/m.gguf"), True)
        listed = await connection.models.ListModels(ms.ListModelsRequest())
        assert [each.name for each in listed.faults] == ["never"]
