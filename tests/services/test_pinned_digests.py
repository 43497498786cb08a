"""What a model's files hold is told, and where it is pinned seen to before each load."""

import hashlib
from pathlib import Path

import grpc
import pytest
from connection import Connection, read_all, reason_of, refusal, text_of
from time_limits import LONG_S

from inferd.content import content_digest
from inferd.testing.kernel import write_fake_model
from inferd_api.v1 import model_pb2 as mp
from inferd_api.v1 import model_service_pb2 as ms

OTHER = f"sha256:{'0' * 64}"


def digest(path: Path) -> str:
    return "sha256:" + hashlib.sha256(path.read_bytes()).hexdigest()


async def test_a_model_is_loaded_only_of_files_that_hold_what_is_pinned(connection: Connection) -> None:
    """Of others the load fails, with both digests, also where they have changed since; a new source needs a new pin."""
    path = write_fake_model(connection.folder, "m")
    model = mp.Model(name="m", source=str(path), pinned_digest=digest(path))
    await connection.models.CreateModel(ms.CreateModelRequest(model=model))
    assert text_of(await read_all(connection.chat("hi", model="m"))) == "hi"
    other = write_fake_model(connection.folder, "other", context_tokens=256)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await connection.models.UpdateModel(ms.UpdateModelRequest(name="m", source=str(other), pinned_digest=OTHER[7:]))
    reason, facts = reason_of(caught.value)
    assert (reason, facts["found"], facts["pinned"]) == ("MODEL_LOAD_FAILED", digest(other), OTHER)
    assert caught.value.code() is grpc.StatusCode.FAILED_PRECONDITION
    for word in ("model 'm'", str(other), "pinned_digest", f"inferd models set m --digest {digest(other)}"):
        assert word in str(caught.value.details())
    found = (await connection.models.GetModel(ms.GetModelRequest(name="m"))).model
    assert (found.version, found.pinned_digest) == (1, digest(path))
    await connection.models.UnloadModel(ms.UnloadModelRequest(name="m"))
    pinned, changed = digest(path), write_fake_model(connection.folder, "m", context_tokens=512)
    reason, facts = await refusal(connection.models.LoadModel(ms.LoadModelRequest(name="m")))
    assert (reason, facts["found"], facts["pinned"]) == ("MODEL_LOAD_FAILED", digest(changed), pinned)
    await connection.models.UpdateModel(ms.UpdateModelRequest(name="m", source=str(other)))
    found = (await connection.models.GetModel(ms.GetModelRequest(name="m"))).model
    assert (found.version, found.pinned_digest, found.state) == (3, "", mp.MODEL_STATE_READY)


async def test_what_files_hold_is_told_once_it_is_known(connection: Connection) -> None:
    """Who watches a model is told of it; before that nothing is said, and a list tells what is known."""
    await connection.create("m")
    watched = connection.models.WatchModel(ms.WatchModelRequest(name="m"), timeout=LONG_S)
    async for response in watched:
        if response.model.content_digest:
            watched.cancel()
            break
    (model,) = (await connection.models.ListModels(ms.ListModelsRequest())).models
    assert (model.content_digest, model.digest_fraction) == (digest(connection.folder / "m.fake"), 1.0)
    (version,) = (await connection.models.ListModelVersions(ms.ListModelVersionsRequest(name="m"))).versions
    assert version.content_digest == model.content_digest
    wrong = mp.Model(name="x", source="/x", pinned_digest="sha256:12")
    reason, _ = await refusal(connection.models.CreateModel(ms.CreateModelRequest(model=wrong)))
    assert reason == "INVALID_FIELD"


async def test_an_adapter_has_a_pin_of_its_own(connection: Connection) -> None:
    """A file or a folder that a setting names and that was exchanged fails the load with both digests and the fix."""
    adapter = connection.folder / "adapter"
    adapter.mkdir()
    (adapter / "weights").write_bytes(b"right")
    pinned = content_digest(adapter)
    settings = {"adapter": str(adapter), "adapter_digest": pinned}
    path = write_fake_model(connection.folder, "m")
    model = mp.Model(name="m", source=str(path), settings=settings)
    await connection.models.CreateModel(ms.CreateModelRequest(model=model))
    assert (await connection.models.LoadModel(ms.LoadModelRequest(name="m"))).model.state == mp.MODEL_STATE_READY
    await connection.models.UnloadModel(ms.UnloadModelRequest(name="m"))
    (adapter / "weights").write_bytes(b"wrong")
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await connection.models.LoadModel(ms.LoadModelRequest(name="m"))
    assert reason_of(caught.value)[0] == "MODEL_LOAD_FAILED"
    found = content_digest(adapter)
    for word in (str(adapter), f"has the digest {found}, and adapter_digest is {pinned}", f"adapter_digest={found}"):
        assert word in str(caught.value.details())
    for wrong in ({"adapter_digest": pinned}, {**settings, "adapter_digest": "sha256:1"}):
        other = mp.Model(name="n", source=str(path), settings=wrong)
        reason, _ = await refusal(connection.models.CreateModel(ms.CreateModelRequest(model=other)))
        assert reason == "INVALID_FIELD"
