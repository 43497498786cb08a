"""What callers may name as files of models, and which models' names they are told."""

import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest
import pytest_asyncio
from connection import memory, read_until
from guarded import Guarded, Metadata, bytes_of, failing, guarded, refused

from inferd.errors import InvalidFieldError, PermissionDeniedError
from inferd.plugin import BackendSpec, DeviceInfo
from inferd.plugin.backend import Setting
from inferd.plugin.registry import BackendReport, BackendState
from inferd.runtime import ticket_door
from inferd.runtime.front.versions import again
from inferd.runtime.placement import place
from inferd.runtime.sources import Roots, find_source
from inferd.testing.kernel import write_fake_model
from inferd_api.v1 import host_service_pb2 as hs
from inferd_api.v1 import lease_service_pb2 as ls
from inferd_api.v1 import model_pb2 as mp
from inferd_api.v1 import model_service_pb2 as ms
from inferd_client import AsyncClient, errors

pytestmark = pytest.mark.asyncio(loop_scope="module")

NAMES = ("hidden", "other")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def kernel(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Guarded]:
    """A kernel that takes models from one folder, and has some of its owner's."""
    folder = tmp_path_factory.mktemp("named")
    (folder / "root").mkdir()
    devices = {"memory_bytes": {"fake:0": 1 << 30}}
    async with guarded(folder, sources={"roots": [str(folder / "root")]}, devices=devices) as made:
        for name in NAMES:
            await made.owner.create(name, weights_bytes=400 << 20, step_s=0.02)
        yield made


def creating(kernel: Guarded, source: Path | str, metadata: Metadata, name: str = "new") -> Any:
    request = ms.CreateModelRequest(model=mp.Model(name=name, source=str(source)))
    return kernel.tcp.models.CreateModel(request, metadata=metadata)


async def test_the_owner_names_any_file_and_others_those_within_roots(kernel: Guarded) -> None:
    """`local` may name each file, and a key those of `sources.roots` and of the library, by links within them, too."""
    folder, login = kernel.tcp.folder, await kernel.login("operator")
    root, library = folder / "root", folder / "data" / "models"
    library.mkdir(parents=True, exist_ok=True)
    (root / "link.fake").symlink_to(write_fake_model(root, "inside"))
    for number, path in enumerate([root / "inside.fake", root / "link.fake", write_fake_model(library, "pulled")]):
        await creating(kernel, path, login, f"new-{number}")
    assert (await refused(creating(kernel, folder / "other.fake", login)))[0] == "PERMISSION_DENIED"
    for only in (True, False):  # a new version of a model that is known is held to them, too
        request = ms.UpdateModelRequest(name="new-0", source=str(folder / "other.fake"), validate_only=only)
        updating = kernel.tcp.models.UpdateModel(request, metadata=login)
        assert (await refused(updating))[0] == "PERMISSION_DENIED"


async def test_a_version_of_before_is_held_to_roots_too(kernel: Guarded) -> None:
    """A model that was given a file within roots is given back one outside by its owner alone."""
    root, login = kernel.tcp.folder / "root", await kernel.login("operator")
    await kernel.owner.create("moved", weights_bytes=1 << 20)
    inside = ms.UpdateModelRequest(name="moved", source=str(write_fake_model(root, "moved")))
    await kernel.tcp.models.UpdateModel(inside, metadata=login)
    for only in (True, False):
        back = ms.UpdateModelRequest(name="moved", version=1, validate_only=only)
        error = await failing(kernel.tcp.models.UpdateModel(back, metadata=login))
        assert error.code() is grpc.StatusCode.PERMISSION_DENIED
        assert "is not in a folder that callers may name files of" in str(error.details())
    assert (await kernel.owner.models.UpdateModel(back)).model.version == 1
    await kernel.owner.models.UnloadModel(ms.UnloadModelRequest(name="moved"))


async def test_a_socket_that_lets_others_in_makes_nobody_an_owner(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a shared socket the kernel's own user names any file, by its ticket, and others those of roots alone."""
    (tmp_path / "root").mkdir()
    source, inside = str(write_fake_model(tmp_path)), str(write_fake_model(tmp_path / "root"))
    settings: dict[str, Any] = {"sources": {"roots": [str(tmp_path / "root")]}, "auth": {"user_roles": ["operator"]}}
    async with guarded(tmp_path, socket_mode="0660", **settings) as kernel:
        async with AsyncClient(kernel.kernel.addresses[0]) as owner:
            await owner.create_model("own", source=source)
        monkeypatch.setattr(ticket_door, "uid_of", lambda _: os.geteuid() + 4711)
        async with AsyncClient(kernel.kernel.addresses[0]) as other:
            with pytest.raises(errors.PermissionDeniedError):
                await other.create_model("new", source=source)
            await other.create_model("new", source=inside)


async def test_what_is_outside_of_roots_is_not_told(kernel: Guarded) -> None:
    """A path outside is refused with the same words whether it is there or not, by a link too; roots go to admins."""
    folder, login = kernel.tcp.folder, await kernel.login("operator")
    root = folder / "root"
    (root / "out.fake").symlink_to(folder / "other.fake")
    (root / "loop").symlink_to(root / "loop")
    (root / "folder").mkdir()
    (root / "folder" / "config.json").symlink_to(folder / "other.fake")
    sources = ["/etc/passwd", "/etc/passwd-none", root / "out.fake", root / "loop" / "x", root / "folder", f"{root}x/y"]
    for source in map(str, sources):
        error = await failing(creating(kernel, source, login))
        assert error.code() is grpc.StatusCode.PERMISSION_DENIED, source
        code, details, raw = bytes_of(error)
        same = bytes_of(await failing(creating(kernel, "/none", login)))
        assert (code, str(details).replace(source, "/none")) == same[:2]
        assert str(root).encode() not in raw.replace(source.encode(), b"")
    told = await failing(creating(kernel, "/etc/passwd", await kernel.login("admin")))
    assert str(root) in str(told.details())
    reason, _ = await refused(creating(kernel, root / ".." / "root" / "inside.fake", login))
    assert reason == "INVALID_FIELD"


async def test_settings_name_no_other_files(tmp_path: Path) -> None:
    """A setting that names a file for the worker is held to the same roots, but what the model already has."""
    setting = Setting(name="adapter", kind="str", description="", names_file=True)
    spec = BackendSpec(name="cpu", loader="a:B", formats=("gguf",), description="", settings=(setting,))
    device = DeviceInfo(device_id="cpu:0", description="", memory_bytes=1)
    reports = (BackendReport(name="cpu", state=BackendState.READY, spec=spec, devices=(device,)),)
    (tmp_path / "m.gguf").write_bytes(b"GGUF")
    wanted: Any = {"name": "m", "source": str(tmp_path / "m.gguf"), "roots": Roots(folders=(tmp_path,))}
    place(reports, **wanted, settings={"adapter": str(tmp_path / "a")})
    place(reports, **wanted, settings={"adapter": "/a"}, accepted={"adapter": "/a"})
    with pytest.raises(PermissionDeniedError, match="setting 'adapter' '/etc/a' is not in a folder"):
        place(reports, **wanted, settings={"adapter": "/etc/a"})
    with pytest.raises(InvalidFieldError, match="no absolute path"):
        place(reports, **wanted, settings={"adapter": "a"})
    before, now = (place(reports, **{**wanted, "roots": None}, settings={"adapter": each}) for each in ("/a", "/b"))
    place(reports, roots=wanted["roots"], **again(before, before))
    with pytest.raises(PermissionDeniedError, match="setting 'adapter' '/a' is not in a folder"):
        place(reports, roots=wanted["roots"], **again(before, now))


@pytest.mark.parametrize(
    "source",
    ["https://h/m.gguf", "http://127.0.0.1:1/m", "hf:a/b", "pypi:x#y", "file://host/m", "ftp://h/m", "s3://b/m"],
)
async def test_no_source_is_dialled(source: str) -> None:
    """Whatever names another host is refused by its form alone, with the command that fetches it."""
    with pytest.raises(InvalidFieldError, match="fetch it first"):
        find_source(source)


async def test_a_file_states_no_digest() -> None:
    """What a file's URL says behind its path is refused, and not left out."""
    for more in ("#sha256=00", "?digest=00"):
        with pytest.raises(InvalidFieldError, match="more than a path"):
            find_source(f"file:///m.gguf{more}")


async def test_names_of_models_and_tenants_are_told_who_may_read_them(kernel: Guarded) -> None:
    """WatchHost, PlanLoad and the loads of the host leave out what the caller may not read; its owner is told all."""
    owner, tcp = kernel.owner, kernel.tcp
    await kernel.rule("role:user", models="hidden", verbs=["VERB_READ"], kinds=["RESOURCE_KIND_MODEL"])
    login = await kernel.login("user", tenants=["web"])
    lease = await owner.claim(memory(400 << 20, "fake:0"))  # with what runs no room is left
    task, own = owner.endless(model="hidden"), tcp.endless(model="hidden", metadata=login)
    await read_until(task, "output")  # before, nothing may be held of the device yet
    await read_until(own, "output")

    async def told(connection: Any, metadata: Metadata = ()) -> tuple[set[str], set[str], Any]:
        watch = connection.hosts.WatchHost(hs.WatchHostRequest(), metadata=metadata)
        seen = await watch.read()
        watch.cancel()
        host = (await connection.hosts.GetHost(hs.GetHostRequest(), metadata=metadata)).host
        asked = ms.PlanLoadRequest(name="other")
        plan = (await connection.models.PlanLoad(asked, metadata=metadata)).plan
        return {each.model for each in seen.instances}, {load.tenant for load in host.loads}, plan

    models, tenants, plan = await told(tcp, login)
    assert (models, tenants) == (set(), {"web"})
    assert (plan.fits, *plan.busy_instances, *plan.lease_ids) == (False,)
    assert plan.reason.endswith("it is held by 1 that are not told here")
    models, tenants, plan = await told(owner)
    assert (models, tenants) == ({"hidden"}, {"web", "default"})
    assert (plan.fits, *plan.busy_instances, *plan.lease_ids) == (False, "hidden-1")
    assert plan.reason.endswith("it is held by instance hidden-1")
    await owner.leases.ReleaseLease(ls.ReleaseLeaseRequest(lease_id=lease.lease_id))
    task.cancel()
    own.cancel()


async def test_a_link_that_was_put_there_later_is_not_followed(kernel: Guarded) -> None:
    """An adapter's folder gets a link behind the model's back: no load follows it, also by another setting's update."""
    root, login = kernel.tcp.folder / "root", await kernel.login("operator")
    adapter = root / "adapter"
    adapter.mkdir()
    (adapter / "real").write_text("x")
    (adapter / "old").symlink_to(adapter / "real")
    source = str(write_fake_model(root, "linked"))
    model = mp.Model(name="linked", source=source, settings={"adapter": str(adapter)})
    await kernel.tcp.models.CreateModel(ms.CreateModelRequest(model=model), metadata=login)
    load = ms.LoadModelRequest(name="linked")
    await kernel.tcp.models.LoadModel(load, metadata=login)
    await kernel.tcp.models.UnloadModel(ms.UnloadModelRequest(name="linked"), metadata=login)
    (adapter / "config.json").symlink_to(source)
    reason, facts = await refused(kernel.tcp.models.LoadModel(load, metadata=login))
    assert (reason, "config.json has led elsewhere" in facts["cause"]) == ("MODEL_LOAD_FAILED", True)
    other = ms.UpdateModelRequest(name="linked", settings={"context_tokens": "64"})
    assert (await refused(kernel.tcp.models.UpdateModel(other, metadata=login)))[0] == "MODEL_LOAD_FAILED"
    (adapter / "config.json").unlink()
    await kernel.tcp.models.LoadModel(load, metadata=login)
