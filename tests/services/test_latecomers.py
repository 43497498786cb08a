"""Models that are pulled and plugins that are installed while the kernel runs."""

import hashlib
import shutil
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import grpc
import pytest
from connection import Connection, memory, read_all, read_failing, reason_of, refusal, text_of
from grpc_health.v1 import health_pb2, health_pb2_grpc

from inferd.runtime.library import MANIFEST, Library, Manifest
from inferd.testing.kernel import kernel_here, write_fake_model
from inferd_api.v1.host_pb2 import BACKEND_STATE_FAILED, BACKEND_STATE_READY, Backend
from inferd_api.v1.host_service_pb2 import GetHostRequest, ListBackendsRequest
from inferd_api.v1.lease_pb2 import Claim, ModelClaim
from inferd_api.v1.model_pb2 import Model
from inferd_api.v1.model_service_pb2 import (
    CreateModelRequest,
    GetModelRequest,
    ListModelsRequest,
    LoadModelRequest,
    PlanLoadRequest,
    TokenizeRequest,
    WatchModelRequest,
)

PLUGIN = """
from inferd.plugin import BackendSpec, hookimpl

@hookimpl
def inferd_backends():
    return [BackendSpec(name={name!r}, formats=({name!r},), loader="late_{name}:Late", description="came late")]
"""
BACKEND = """
from inferd.plugin import DeviceInfo, Probe
from inferd.testing.fake import FakeBackend

class Late(FakeBackend):
    def probe(self):
        device = DeviceInfo(device_id="late:0", description="none", memory_bytes=1 << 30, cores=1)
        return Probe(devices=(device,))
"""


def pull(connection: Connection, name: str, **behaviour: Any) -> Path:
    """Put a model into the library of the kernel, as `inferd pull` does; its path there."""
    file = write_fake_model(connection.folder, "download", **behaviour)
    manifest = Manifest(
        name=name,
        source=f"file:{file}",
        file="weights.fake",
        sha256=hashlib.sha256(file.read_bytes()).hexdigest(),
        size_bytes=file.stat().st_size,
    )
    return Library(connection.folder / "data").add(manifest, file)


async def names(connection: Connection) -> list[str]:
    return [model.name for model in (await connection.models.ListModels(ListModelsRequest())).models]


WAYS: dict[str, Callable[[Connection], Any]] = {
    "get": lambda c: c.models.GetModel(GetModelRequest(name="late")),
    "load": lambda c: c.models.LoadModel(LoadModelRequest(name="late")),
    "plan": lambda c: c.models.PlanLoad(PlanLoadRequest(name="late")),
    "watch": lambda c: c.models.WatchModel(WatchModelRequest(name="late")).read(),
    "tokenize": lambda c: c.models.Tokenize(TokenizeRequest(model="late", prompt="x")),
    "run": lambda c: c.chat("hello", model="late").read(),
    "lease": lambda c: c.claim(Claim(model=ModelClaim(model="late", sequences=1)), wait=True),
    "health": lambda c: health_pb2_grpc.HealthStub(c.channel).Check(
        health_pb2.HealthCheckRequest(service="model:late")
    ),
}


@pytest.mark.parametrize("way", WAYS)
async def test_a_pulled_model_is_known(connection: Connection, way: str) -> None:
    """A model that was pulled while the kernel runs is known to the first call that names it, whichever it is."""
    pull(connection, "late")
    await WAYS[way](connection)
    assert await names(connection) == ["late"]


async def test_pulled_models_are_listed(connection: Connection) -> None:
    """The list has what was pulled since the last one, and what is pulled again has its new size."""
    assert await names(connection) == []
    pull(connection, "b")
    assert await names(connection) == ["b"]
    pull(connection, "a/b:c")
    path = pull(connection, "b", context_tokens=64)
    assert await names(connection) == ["a/b:c", "b"]
    model = (await connection.models.GetModel(GetModelRequest(name="b"))).model
    assert (model.source, model.size_bytes) == (str(path), path.stat().st_size)
    assert text_of(await read_all(connection.chat("hello", model="b"))) == "hello"


async def test_a_broken_folder_says_why(connection: Connection) -> None:
    """A pulled model that cannot be used is MODEL_NOT_FOUND with the cause; others are not touched by it."""
    path = pull(connection, "late")
    path.unlink()
    pull(connection, "good")
    _, error = await read_failing(connection.chat("hello", model="late"))
    reason, facts = reason_of(error)
    assert (error.code(), reason) == (grpc.StatusCode.NOT_FOUND, "MODEL_NOT_FOUND")
    assert "weights.fake" in facts["cause"]
    (path.parent / MANIFEST).write_text("{")
    assert (await refusal(connection.models.GetModel(GetModelRequest(name="late"))))[0] == "MODEL_NOT_FOUND"
    assert await names(connection) == ["good"]


@pytest.mark.parametrize("name", ["nothing", "../../etc", "a b", "x" * 500, "\0"])
@pytest.mark.asyncio(loop_scope="module")
async def test_what_was_never_pulled(shared: Connection, name: str) -> None:
    """A name that stands for nothing is MODEL_NOT_FOUND, whatever it is made of."""
    assert (await refusal(shared.models.GetModel(GetModelRequest(name=name))))[0] == "MODEL_NOT_FOUND"


@pytest.fixture
async def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[tuple[Connection, Path]]:
    """A connection to a kernel, and a folder for installed packages that is on its path."""
    folder = tmp_path / "site"
    folder.mkdir()
    monkeypatch.setenv("PYTHONPATH", str(folder))
    monkeypatch.setattr(sys, "path", [str(folder), *sys.path])
    async with kernel_here(tmp_path, backends=("late", "broken")) as kernel:
        connection = Connection(kernel, tmp_path)
        yield connection, folder
        await connection.channel.close()


def install(folder: Path, name: str, plugin: str) -> None:
    """Install a package with a plugin, as pip does: its metadata come last."""
    (folder / f"late_{name}.py").write_text(BACKEND)
    (folder / f"plugin_{name}.py").write_text(plugin)
    metadata = folder / f"inferd_{name}-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: inferd-{name}\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text(f"[inferd.backends]\n{name} = plugin_{name}\n")


async def backends(connection: Connection) -> dict[str, Backend]:
    return {found.name: found for found in (await connection.hosts.ListBackends(ListBackendsRequest())).backends}


async def test_an_installed_plugin_is_listed(site: tuple[Connection, Path]) -> None:
    """A plugin that was installed while the kernel runs is listed, its devices too; one that is broken says why."""
    connection, folder = site
    assert not {"late", "broken"} & set(await backends(connection))
    install(folder, "late", PLUGIN.format(name="late"))
    install(folder, "broken", "raise ImportError('no such framework')")
    found = await backends(connection)
    assert (found["late"].state, found["late"].package) == (BACKEND_STATE_READY, "inferd-late 1.0")
    assert found["broken"].state == BACKEND_STATE_FAILED
    assert "no such framework" in found["broken"].why
    devices = {device.device_id for device in (await connection.hosts.GetHost(GetHostRequest())).host.devices}
    assert "late:0" in devices
    shutil.rmtree(folder / "inferd_late-1.0.dist-info")
    assert "late" not in await backends(connection)


async def test_an_installed_plugin_loads(site: tuple[Connection, Path]) -> None:
    """A model whose backend was installed meanwhile is placed, loaded and run, with nobody having listed anything."""
    connection, folder = site
    path = write_fake_model(connection.folder).rename(connection.folder / "model.late")
    wanted = CreateModelRequest(model=Model(name="m", source=str(path)))
    assert (await refusal(connection.models.CreateModel(wanted)))[0] == "BACKEND_UNAVAILABLE"
    install(folder, "late", PLUGIN.format(name="late"))
    assert (await connection.models.CreateModel(wanted)).model.backend == "late"
    assert text_of(await read_all(connection.chat("hello", model="m"))) == "hello"
    await connection.claim(memory(1, "late:0"))
