"""Whose word counts for what a task leaves open."""

from pathlib import Path
from typing import Any

import grpc
import pytest
from connection import Connection, read_all

from inferd.core.model import Model, ModelSpec
from inferd.core.sampling_defaults import SamplingDefaults
from inferd.core.version import Version
from inferd.runtime import catalogue
from inferd.sampling import ENGINE_DEFAULTS, NAMES, fill
from inferd.testing.kernel import write_fake_model
from inferd_api.v1 import model_pb2 as mp
from inferd_api.v1 import sampling_pb2 as sp
from inferd_api.v1 import task_pb2 as tp
from inferd_api.v1.model_service_pb2 import CreateModelRequest, GetModelRequest, LoadModelRequest
from inferd_api.v1.task_service_pb2 import RunTaskRequest


async def create(connection: Connection, name: str, defaults: dict[str, Any], **behaviour: Any) -> mp.Model:
    path = write_fake_model(connection.folder, name, **behaviour)
    model = mp.Model(name=name, source=str(path), sampling_defaults=sp.SamplingDefaults(**defaults))
    answer = await connection.models.CreateModel(CreateModelRequest(model=model))
    return answer.model  # type: ignore[no-any-return]


def told(defaults: sp.SamplingDefaults) -> dict[str, float]:
    return {field.name: round(value, 5) for field, value in defaults.ListFields()}


async def output(connection: Connection, model: str, **sampling: Any) -> bytes:
    """What the model makes of a text that it repeats, with a bias that makes all tokens likely as long as it is hot."""
    params = sp.SamplingParams(max_tokens=24, seed=1, **sampling)
    spec = tp.TaskSpec(model=model, prompt="la", sampling=params)
    events = await read_all(connection.tasks.RunTask(RunTaskRequest(spec=spec)))
    return bytes(n if n < 256 else 33 for event in events for n in event.output.token_ids)


async def test_precedence(connection: Connection) -> None:
    """The client's field, what the model was created with, its file, the kernel's own, in this order: GetModel says."""
    await create(connection, "own", {"temperature": 0.0, "top_k": 0}, sampling={"temperature": 90.0, "top_p": 0.5})
    await create(connection, "file", {}, sampling={"temperature": 90.0, "min_p": 0.0})
    await create(connection, "bare", {})
    before = (await connection.models.GetModel(GetModelRequest(name="file"))).model
    assert told(before.effective_sampling_defaults) == {
        name: round(value, 5) for name, value in ENGINE_DEFAULTS.numbers.items()
    }
    for name in ("own", "file", "bare"):
        await connection.models.LoadModel(LoadModelRequest(name=name))
    models = {
        name: (await connection.models.GetModel(GetModelRequest(name=name))).model for name in ("own", "file", "bare")
    }
    assert told(models["own"].sampling_defaults) == {"temperature": 0, "top_k": 0}
    assert not models["own"].sampling_defaults.HasField("top_p")
    effective = {name: told(model.effective_sampling_defaults) for name, model in models.items()}
    assert (effective["own"]["temperature"], effective["own"]["top_p"]) == (0, 0.5)
    assert (effective["file"]["temperature"], effective["file"]["min_p"]) == (90, 0)
    assert all(set(each) == set(NAMES) for each in effective.values())
    steady, wild = b"lalalalalalalalalalalala", await output(connection, "file")
    assert await output(connection, "own") == steady  # its own temperature of 0 before the file's
    assert wild != steady  # the file's temperature before the kernel's
    assert await output(connection, "file", temperature=0.0) == steady  # zero is a value
    assert await output(connection, "own", temperature=90.0, min_p=0.0, top_p=1.0) != steady
    assert await output(connection, "bare") == steady


async def test_wrong_defaults(connection: Connection) -> None:
    """A default outside its bounds is refused with its field, and another default makes another model."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await create(connection, "m", {"top_p": 1.5})
    assert "top_p is 1.5; it must be above 0 and at most 1" in str(caught.value.details())
    assert "model.sampling_defaults.top_p" in str(caught.value.trailing_metadata())
    await create(connection, "m", {"top_p": 0.5})
    await create(connection, "m", {"top_p": 0.5})
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await create(connection, "m", {"top_p": 0.75})
    assert "MODEL_EXISTS" in str(caught.value.trailing_metadata())


async def test_a_bound_that_is_lowered(connection: Connection) -> None:
    """With `fit_max_tokens` a bound is lowered to what is left of the context, and without it refused."""
    await connection.create(context_tokens=64)
    params = sp.SamplingParams(max_tokens=512, temperature=0)
    for fits in (True, False):
        params.fit_max_tokens = fits
        call = connection.tasks.RunTask(
            RunTaskRequest(spec=tp.TaskSpec(model="fake", prompt="la" * 10, sampling=params))
        )
        if fits:
            events = await read_all(call)
            assert events[-1].finished.usage.output_tokens == 44
            assert events[-1].finished.reason == tp.FINISH_REASON_MAX_TOKENS
        else:
            with pytest.raises(grpc.aio.AioRpcError, match="over the model's"):
                await read_all(call)


@pytest.fixture
def listed(monkeypatch: pytest.MonkeyPatch) -> SamplingDefaults:
    """A catalogue that knows a file "known.fake" of 2 bytes."""
    advice = SamplingDefaults(temperature=0.25, top_p=0.75)
    entry = catalogue.CatalogueEntry(
        source="pypi:x#known.fake", sha256="", size_bytes=2, licence="", description="", sampling=advice
    )
    monkeypatch.setattr(catalogue, "CATALOGUE", {"known": entry})
    return advice


async def test_the_catalogue(connection: Connection, listed: SamplingDefaults, tmp_path: Path) -> None:
    """A file of the catalogue is known by its name and size wherever it lies; its file's own words go before."""
    assert (await create(connection, "known", {})).effective_sampling_defaults.top_p == listed.numbers["top_p"]
    assert catalogue.catalogue_sampling(tmp_path / "known.fake", 3).numbers == {}
    spec = ModelSpec(
        name="m", source="", path="", format="", size_bytes=2, backend="", backend_reason="", loader="", devices=(),
        sampling=SamplingDefaults(min_p=0.5), catalogue_sampling=listed,
    )  # fmt: skip
    said = SamplingDefaults(temperature=0.125, min_p=0.25)
    model = Model(serving=Version(number=1, spec=spec, created=0.0, file_sampling=said), created=0.0)
    expected = ENGINE_DEFAULTS.numbers | {"temperature": 0.125, "top_p": 0.75, "min_p": 0.5}
    effective = model.effective_sampling.over(ENGINE_DEFAULTS)
    assert effective.numbers == expected
    filled = fill({"temperature": 2.0}, effective, task_id="t")
    assert (filled.temperature, filled.top_p, filled.min_p) == (2.0, 0.75, 0.5)
