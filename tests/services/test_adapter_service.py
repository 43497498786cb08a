"""Adapters of a served model: loaded, listed and taken away by calls, and tasks that are computed with them."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from connection import Connection, read_all, reason_of, refusal

from inferd.testing.kernel import kernel_here
from inferd_api.v1 import adapter_service_pb2 as asp
from inferd_api.v1 import model_pb2 as mp
from inferd_api.v1 import model_service_pb2 as ms
from inferd_api.v1.adapter_service_pb2_grpc import AdapterServiceStub
from inferd_api.v1.sampling_pb2 import SamplingParams
from inferd_api.v1.task_pb2 import TaskSpec, TokenPrompt
from inferd_api.v1.task_service_pb2 import RunTaskRequest
from inferd_cpu.native import LIBRARY

pytest.importorskip("torch")
pytest.importorskip("transformers")
if not LIBRARY.exists():
    pytest.skip("the native library is not built", allow_module_level=True)
from tiny_adapters import draw, write_gguf_adapter, write_peft
from tiny_networks import write_network

IDS = list(range(3, 51))
SETTINGS = {"kv_tokens": "2048", "compute": "native", "block_tokens": "16"}


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model and three adapters of it, the last one for other shapes."""
    at = tmp_path_factory.mktemp("adapters")
    network = write_network("llama", at / "model")
    write_gguf_adapter(network, draw(network, 1), at / "one.gguf")
    write_peft(draw(network, 2), at / "two")
    name, (down, up) = next(iter(draw(network, 3).items()))
    write_peft({name: (down[:, 1:].copy(), up)}, at / "wrong")
    return at


class Adapted(Connection):
    """A connection to a kernel with a model that has adapters."""

    def make_stubs(self) -> None:
        super().make_stubs()
        self.adapters: Any = AdapterServiceStub(self.channel)

    async def load(self, name: str, path: Path, **more: Any) -> asp.Adapter:
        request = asp.LoadAdapterRequest(model="m", name=name, path=str(path), **more)
        adapter: asp.Adapter = (await self.adapters.LoadAdapter(request, timeout=60)).adapter
        return adapter

    async def unload(self, name: str) -> None:
        await self.adapters.UnloadAdapter(asp.UnloadAdapterRequest(model="m", name=name), timeout=60)

    async def all(self) -> dict[str, asp.Adapter]:
        response = await self.adapters.ListAdapters(asp.ListAdaptersRequest(model="m"))
        return {each.name: each for each in response.adapters}

    def run(self, adapter: str = "", tokens: int = 12, **more: Any) -> Any:
        sampling = SamplingParams(max_tokens=tokens, temperature=0, ignore_eos=True)
        prompt = TokenPrompt(token_ids=IDS)
        spec = TaskSpec(model="m", tokens=prompt, sampling=sampling, adapter=adapter)
        return self.tasks.RunTask(RunTaskRequest(spec=spec, **more), timeout=60)

    async def told(self, adapter: str = "", tokens: int = 12) -> tuple[list[int], int]:
        """The tokens of a task, and how many of its prompt were in the cache."""
        events = await read_all(self.run(adapter, tokens))
        ids = [token for event in events for token in event.output.token_ids]
        return ids, events[-1].finished.usage.cached_tokens


@asynccontextmanager
async def serving(folder: Path, files: Path, **settings: Any) -> AsyncIterator[Adapted]:
    """A kernel with the model, which is not loaded yet."""
    async with kernel_here(folder, backends=("cpu",), **settings) as kernel:
        made = Adapted(kernel, folder)
        model = mp.Model(name="m", source=str(files / "model"), backend="cpu", settings=SETTINGS)
        await made.models.CreateModel(ms.CreateModelRequest(model=model))
        yield made
        await made.channel.close()


@pytest.fixture
async def adapted(tmp_path: Path, files: Path) -> AsyncIterator[Adapted]:
    """The same."""
    async with serving(tmp_path, files) as made:
        yield made


async def test_tasks_name_adapters_that_come_and_go_while_the_model_serves(adapted: Adapted, files: Path) -> None:
    """Each adapter and none give other tokens, side by side as alone; an unknown name is told with a near one."""
    plain, _ = await adapted.told()
    one = await adapted.load("one", files / "one.gguf")
    assert (one.state, one.rank) == (asp.ADAPTER_STATE_LOADED, 3)
    await adapted.load("two", files / "two")
    alone = {name: (await adapted.told(name))[0] for name in ("one", "two")}
    assert plain != alone["one"] != alone["two"] != plain
    together = await asyncio.gather(*(adapted.told(name) for name in ("one", "", "two", "one", "")))
    assert [ids for ids, _ in together] == [alone["one"], plain, alone["two"], alone["one"], plain]
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await read_all(adapted.run("on"))
    assert reason_of(caught.value) == ("ADAPTER_NOT_FOUND", {"adapter": "on", "suggestion": "one", "model": "m"})
    assert "did you mean 'one'" in caught.value.details()
    await adapted.unload("one")
    assert [*await adapted.all()] == ["two"]
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await read_all(adapted.run("one"))
    assert reason_of(caught.value)[0] == "ADAPTER_NOT_FOUND"
    assert (await adapted.told())[0] == plain


async def test_no_cached_prefix_crosses_adapters(adapted: Adapted, files: Path) -> None:
    """A prompt is computed anew for each adapter and found again for the same, by what it holds and not its name."""
    await adapted.load("one", files / "one.gguf")
    await adapted.load("two", files / "two")
    whole = len(IDS) // 16 * 16 - 16
    for name in ("", "one", "two"):
        assert (await adapted.told(name))[1] == 0
    for name in ("two", "", "one"):
        assert (await adapted.told(name))[1] >= whole
    await adapted.load("same", files / "one.gguf")
    assert (await adapted.told("same"))[1] >= whole
    await adapted.load("one", files / "two", replace=True)
    assert (await adapted.told("one"))[0] == (await adapted.told("two"))[0]


async def test_what_cannot_be_loaded_leaves_everything_as_it_was(adapted: Adapted, files: Path) -> None:
    """Another model's adapter is refused with both shapes; a taken name, a wrong digest and no path, too."""
    await adapted.told()
    await adapted.load("one", files / "one.gguf")
    again = await adapted.load("one", files / "one.gguf")
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await adapted.load("wrong", files / "wrong")
    assert reason_of(caught.value)[0] == "ADAPTER_LOAD_FAILED"
    assert "the adapter is for another model" in caught.value.details()
    assert str(files / "wrong") in caught.value.details()
    for reason, name, path, more in (
        ("MODEL_EXISTS", "one", files / "two", {}),
        ("INVALID_FIELD", "x", files / "one.gguf", {"digest": "sha256:" + 64 * "0"}),
        ("INVALID_FIELD", "a/b", files / "one.gguf", {}),
        ("INVALID_FIELD", "x", files / "nothing", {}),
        ("INVALID_FIELD", "x", Path("relative"), {}),
        ("INVALID_FIELD", "x", files / "two" / "adapter_config.json", {}),
    ):
        request = asp.LoadAdapterRequest(model="m", name=name, path=str(path), **more)
        assert (await refusal(adapted.adapters.LoadAdapter(request)))[0] == reason
    assert [*(await adapted.all()).values()] == [again]
    assert (await adapted.models.GetModel(ms.GetModelRequest(name="m"))).model.adapters == {
        "one": str(files / "one.gguf")
    }


async def test_adapters_outlive_workers_and_kernels(tmp_path: Path, files: Path) -> None:
    """A worker that is loaded again, and that of the next kernel, is given them; one whose file has changed says so."""
    store = {"url": f"sqlite:{tmp_path}/kept"}
    moved = tmp_path / "moved.gguf"
    moved.write_bytes((files / "one.gguf").read_bytes())
    async with serving(tmp_path, files, store=store) as made:
        assert (await made.load("one", moved)).state == asp.ADAPTER_STATE_KNOWN
        first, _ = await made.told("one")
        assert (await made.all())["one"].state == asp.ADAPTER_STATE_LOADED
        await made.models.UnloadModel(ms.UnloadModelRequest(name="m"))
        assert (await made.told("one"))[0] == first
    async with serving(tmp_path, files, store=store) as made:
        assert (await made.told("one"))[0] == first
        await made.models.UnloadModel(ms.UnloadModelRequest(name="m"))
        moved.write_bytes((files / "one.gguf").read_bytes()[:-1])
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await read_all(made.run("one"))
        assert reason_of(caught.value)[0] == "ADAPTER_LOAD_FAILED"
        assert (await made.all())["one"].state == asp.ADAPTER_STATE_FAILED


async def test_adapters_are_loaded_and_removed_under_load(adapted: Adapted, files: Path) -> None:
    """While tasks run others are loaded and removed: each task has the tokens that it has alone."""
    await adapted.load("one", files / "one.gguf")
    expected = {name: (await adapted.told(name, 40))[0] for name in ("", "one")}
    ended = asyncio.Event()

    async def change() -> None:
        for turn in range(6):
            await adapted.load(f"t{turn}", files / "two")
            await adapted.unload(f"t{turn}")
        ended.set()

    async def work(name: str) -> None:
        while not ended.is_set():
            assert (await adapted.told(name, 40))[0] == expected[name]

    async with asyncio.TaskGroup() as group:
        for name in ("", "one", "one"):
            group.create_task(work(name))
        group.create_task(change())
    running = aiter(adapted.run("one", 200))
    told = [(await anext(running)).event]
    while not told[-1].output.token_ids:
        told.append((await anext(running)).event)
    await adapted.unload("one")
    assert [*await adapted.all()] == []
    told += [response.event async for response in running]
    assert sum(len(event.output.token_ids) for event in told) == 200


async def test_bounds_of_adapters_are_named(tmp_path: Path, files: Path) -> None:
    """More adapters, larger files and higher ranks than the configuration allows are refused with the bound's name."""
    size = (files / "one.gguf").stat().st_size
    async with serving(tmp_path, files, adapters={"of_model": 1, "file_bytes": size, "rank": 2}) as made:
        request = asp.LoadAdapterRequest(model="m", name="one", path=str(files / "one.gguf"))
        await made.adapters.LoadAdapter(request)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await read_all(made.run("one"))
        assert reason_of(caught.value)[1]["bound"] == "adapters.rank"
        request.name = "two"
        assert (await refusal(made.adapters.LoadAdapter(request)))[1]["bound"] == "adapters.of_model"
        large = tmp_path / "large.gguf"
        large.write_bytes((files / "one.gguf").read_bytes() + b"x")
        request.name, request.path = "one", str(large)
        assert (await refusal(made.adapters.LoadAdapter(request)))[1]["bound"] == "adapters.file_bytes"
