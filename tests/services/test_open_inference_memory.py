"""Tensors in shared memory of the system, by the Open Inference Protocol."""

import os
import struct
import uuid
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
import pytest_asyncio
from connection import Connection
from guarded import guarded

from inferd.inference_settings import Inference
from inferd.runtime.front.regions import FOLDER, Regions, RegionUnopenedError
from inferd.services.inference.tensors import write_texts
from inferd.testing.kernel import kernel_here
from inferd_api.inference import grpc_service_pb2 as gp
from inferd_api.inference.grpc_service_pb2_grpc import GRPCInferenceServiceStub

pytestmark = pytest.mark.asyncio(loop_scope="module")

Code = grpc.StatusCode
OWN = f"inferd-test-{uuid.uuid4().hex}"
SIZE = 4 << 20


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def served(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Connection]:
    """A connection to a kernel with models of tensors, which may open memory of this test."""
    folder = tmp_path_factory.mktemp("memory")
    allowed = {"shared_memory": (f"{OWN}*",), "regions": 64, "region_bytes": 64 << 20}
    async with kernel_here(folder, inference=allowed) as kernel:
        made = Connection(kernel, folder)
        for name in ("identity", "types"):
            await made.create(name, tensor=name)
        await made.create("text")
        yield made
        await made.channel.close()


@pytest.fixture(scope="module")
def stub(served: Connection) -> Any:
    return GRPCInferenceServiceStub(served.channel)


@pytest.fixture
def memory() -> Iterator[Path]:
    """A file of shared memory, which is gone behind the test."""
    path = FOLDER / f"{OWN}-{uuid.uuid4().hex}"
    path.write_bytes(bytes(SIZE))
    yield path
    path.unlink(missing_ok=True)


def inside(memory: Path) -> bytes:
    return memory.read_bytes()


def fill(memory: Path, data: bytes) -> None:
    memory.write_bytes(data.ljust(SIZE, b"\0"))


def descriptors() -> int:
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


async def register(stub: Any, path: Path, name: str = "", *, start: int = 0, size: int = SIZE) -> str:
    name = name or path.name
    await stub.SystemSharedMemoryRegister(
        gp.SystemSharedMemoryRegisterRequest(name=name, key=f"/{path.name}", offset=start, byte_size=size)
    )
    return name


async def register_large(stub: Any, path: Path) -> None:
    """A byte of a file that is larger than all may be, behind one of a file that is not."""
    await register(stub, path, "small", size=1)
    large = path.with_name(f"{path.name}-large")
    large.touch()
    os.truncate(large, 64 << 20)
    try:
        await register(stub, large, "large", size=1)
    finally:
        large.unlink()


async def register_many(stub: Any, path: Path, count: int, size: int) -> None:
    for number in range(count):
        await register(stub, path, f"r{number}", size=size)


def at(region: str, size: int, start: int = 0) -> dict[str, gp.InferParameter]:
    return {
        "shared_memory_region": gp.InferParameter(string_param=region),
        "shared_memory_byte_size": gp.InferParameter(int64_param=size),
        "shared_memory_offset": gp.InferParameter(int64_param=start),
    }


async def refusal(call: Any) -> tuple[grpc.StatusCode, str]:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return caught.value.code(), str(caught.value.details())


def request(region: str, count: int, *, start: int = 0, into: int | None = None, room: int = 0) -> gp.ModelInferRequest:
    """So many floats of a region, and where the output goes."""
    made = gp.ModelInferRequest(model_name="identity")
    made.inputs.add(name="x", datatype="FP32", shape=[1, count], parameters=at(region, 4 * count, start))
    if into is not None:
        made.outputs.add(name="y", parameters=at(region, room or 4 * count, into))
    return made


@pytest.mark.parametrize("count", [2, 400_000], ids=["few", "many"])
async def test_tensors_go_by_memory(stub: Any, memory: Path, count: int) -> None:
    """Inputs are read from a region and outputs written to it, few and many bytes, and the response says where."""
    region = await register(stub, memory)
    data = os.urandom(4 * count)
    with memory.open("r+b") as opened:
        opened.seek(8)
        opened.write(data)
    got = await stub.ModelInfer(request(region, count, start=8, into=2 << 20))
    assert list(got.raw_output_contents) == [b""]
    assert got.outputs[0].parameters["shared_memory_byte_size"].int64_param == 4 * count
    assert inside(memory)[2 << 20 :][: 4 * count] == data
    assert list((await stub.ModelInfer(request(region, count, start=8))).raw_output_contents) == [data]
    await stub.SystemSharedMemoryUnregister(gp.SystemSharedMemoryUnregisterRequest(name=region))
    code, words = await refusal(stub.ModelInfer(request(region, count)))
    assert (code, words.partition(";")[0]) == (Code.NOT_FOUND, f"Unable to find shared memory region: '{region}'")


async def test_memory_and_message_together(stub: Any, memory: Path) -> None:
    """Inputs in the message and in memory go together, texts among them, on a stream as well."""
    region = await register(stub, memory)
    words = write_texts(["é", ""])
    fill(memory, words)
    mixed = gp.ModelInferRequest(model_name="types", raw_input_contents=[struct.pack("<2i", 1, 2)])
    mixed.inputs.add(name="string", datatype="BYTES", shape=[2], parameters=at(region, len(words)))
    mixed.inputs.add(name="int32", datatype="INT32", shape=[2])
    for name in ("int32", "string"):
        mixed.outputs.add(name=name)
    (told,) = [each async for each in stub.ModelStreamInfer(iter([mixed]))]
    assert list(told.infer_response.raw_output_contents) == [struct.pack("<2i", 1, 2), words]
    text = gp.ModelInferRequest(model_name="text")
    fill(memory, write_texts(["la"]))
    text.inputs.add(name="text_input", datatype="BYTES", shape=[1], parameters=at(region, 6))
    text.parameters["max_tokens"].int64_param = 2
    assert list((await stub.ModelInfer(text)).raw_output_contents) == [write_texts(["lala"])]


async def test_regions_are_told(stub: Any, memory: Path) -> None:
    """What is registered is told by name, one of them or all, and no longer when it is not; a name is taken once."""
    region = await register(stub, memory, start=16, size=64)
    told = (await stub.SystemSharedMemoryStatus(gp.SystemSharedMemoryStatusRequest(name=region))).regions[region]
    assert (told.name, told.key, told.offset, told.byte_size) == (region, f"/{memory.name}", 16, 64)
    code, words = await refusal(register(stub, memory))
    assert (code, words.partition(";")[0]) == (
        Code.ALREADY_EXISTS,
        f"shared memory region '{region}' already in manager",
    )
    await stub.SystemSharedMemoryUnregister(gp.SystemSharedMemoryUnregisterRequest())
    assert not (await stub.SystemSharedMemoryStatus(gp.SystemSharedMemoryStatusRequest())).regions
    code, words = await refusal(stub.SystemSharedMemoryStatus(gp.SystemSharedMemoryStatusRequest(name=region)))
    assert (code, "Unable to find system shared memory region" in words) == (Code.NOT_FOUND, True)
    assert "system_shared_memory" in (await stub.ServerMetadata(gp.ServerMetadataRequest())).extensions


@pytest.mark.parametrize(
    ("key", "start", "size", "code", "words"),
    [
        ("../etc/passwd", 0, 8, Code.INTERNAL, "Unable to open shared memory region: '../etc/passwd'"),
        ("/../shm/x", 0, 8, Code.INTERNAL, "Unable to open"),
        ("other", 0, 8, Code.INTERNAL, "Unable to open shared memory region: 'other'"),
        ("", 0, 8, Code.INTERNAL, "Unable to open"),
        ("OWN-none", 0, 8, Code.INTERNAL, "Unable to open"),
        ("OWN-link", 0, 8, Code.INTERNAL, "Unable to open"),
        ("OWN-folder", 0, 8, Code.INTERNAL, "Unable to open"),
        ("OWN-fifo", 0, 8, Code.INTERNAL, "Unable to open"),
        ("MEMORY", 0, 0, Code.INVALID_ARGUMENT, "invalid args"),
        ("MEMORY", 0, SIZE + 1, Code.INVALID_ARGUMENT, "invalid args"),
        ("MEMORY", 2**64 - 1, 2**64 - 1, Code.INVALID_ARGUMENT, "invalid args"),
    ],
)
async def test_what_cannot_be_registered(  # noqa: PLR0917 - a table
    stub: Any, memory: Path, key: str, start: int, size: int, code: grpc.StatusCode, words: str
) -> None:
    """A region is a part of a plain file in /dev/shm whose name is allowed: no path, link, folder or pipe."""
    made = {each: FOLDER / f"{OWN}-{each}" for each in ("link", "folder", "fifo")}
    made["link"].symlink_to(memory)
    made["folder"].mkdir()
    os.mkfifo(made["fifo"])
    try:
        asked = key.replace("OWN", OWN).replace("MEMORY", memory.name)
        got = await refusal(
            stub.SystemSharedMemoryRegister(
                gp.SystemSharedMemoryRegisterRequest(name="r", key=asked, offset=start, byte_size=size)
            )
        )
    finally:
        made["link"].unlink()
        made["folder"].rmdir()
        made["fifo"].unlink()
    assert (got[0], words in got[1]) == (code, True), got


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (lambda region: request(region, 2, start=SIZE), "Invalid offset for shared memory region"),
        (lambda region: request(region, 2, start=SIZE - 4), "Invalid offset + byte size for shared memory region"),
        (lambda region: request(region, 2, start=2**62), "Invalid offset for"),
        (lambda region: request(region, 2, into=0, room=4), "(4 bytes) should be at least 8 bytes to hold the results"),
        (
            lambda region: gp.ModelInferRequest(
                model_name="identity",
                inputs=[{"name": "x", "datatype": "FP32", "shape": [1, 2], "parameters": at(region, 4)}],
            ),
            "input byte size mismatch for input 'x' for model 'identity'. Expected 8, got 4",
        ),
        (
            lambda region: gp.ModelInferRequest(
                model_name="identity",
                inputs=[{"name": "x", "datatype": "FP32", "shape": [1, 1], "parameters": at(region, -1)}],
            ),
            "must be 0 or more",
        ),
        (
            lambda region: gp.ModelInferRequest(
                model_name="identity",
                inputs=[
                    {
                        "name": "x",
                        "datatype": "FP32",
                        "shape": [1, 1],
                        "parameters": {"shared_memory_region": gp.InferParameter(string_param=region)},
                    }
                ],
            ),
            "'shared_memory_byte_size' of inputs[0].parameters is not given",
        ),
    ],
)
async def test_what_is_not_inside_is_refused(stub: Any, memory: Path, given: Any, words: str) -> None:
    """No byte outside of a region is read or written: offsets and sizes are held against it, with both numbers."""
    region = await register(stub, memory)
    code, told = await refusal(stub.ModelInfer(given(region)))
    assert (code, words in told) == (Code.INVALID_ARGUMENT, True), told
    assert not any(inside(memory))


async def test_memory_that_is_shortened_ends_its_request(stub: Any, memory: Path) -> None:
    """A client that shortens its memory has its request refused; the kernel goes on, and does not make it longer."""
    region = await register(stub, memory)
    os.truncate(memory, 6)
    code, words = await refusal(stub.ModelInfer(request(region, 2)))
    assert (code, "has been shortened" in words) == (Code.INVALID_ARGUMENT, True)
    given = gp.ModelInferRequest(model_name="identity", raw_input_contents=[bytes(8)])
    given.inputs.add(name="x", datatype="FP32", shape=[1, 2])
    given.outputs.add(name="y", parameters=at(region, 8))
    code, words = await refusal(stub.ModelInfer(given))
    assert (code, "has been shortened" in words) == (Code.INVALID_ARGUMENT, True)
    assert len(inside(memory)) == 6


async def test_regions_have_bounds(stub: Any, memory: Path) -> None:
    """As many regions, and as many bytes of them, as the configuration says; then typed errors that name it."""
    await stub.SystemSharedMemoryUnregister(gp.SystemSharedMemoryUnregisterRequest())
    with pytest.raises(grpc.aio.AioRpcError, match=r"inference\.region_bytes") as caught:
        await register_large(stub, memory)
    assert caught.value.code() is Code.RESOURCE_EXHAUSTED
    await stub.SystemSharedMemoryUnregister(gp.SystemSharedMemoryUnregisterRequest())
    with pytest.raises(grpc.aio.AioRpcError, match=r"inference\.regions"):
        await register_many(stub, memory, 65, 8)
    await stub.SystemSharedMemoryUnregister(gp.SystemSharedMemoryUnregisterRequest())


async def test_no_descriptor_is_left(stub: Any, memory: Path) -> None:
    """The regions of a file hold one descriptor, which goes with the last of them; refused ones hold none."""
    before = descriptors()
    for number in range(20):
        await register(stub, memory, f"d{number}", size=8)
        await refusal(register(stub, memory, f"d{number}", size=8))
        await refusal(register(stub, memory, f"e{number}", size=SIZE + 1))
    assert descriptors() == before + 1
    await stub.SystemSharedMemoryUnregister(gp.SystemSharedMemoryUnregisterRequest())
    assert descriptors() == before


async def test_regions_are_their_tenants(tmp_path_factory: pytest.TempPathFactory, memory: Path) -> None:
    """A tenant neither sees nor uses what another one registers, nor its file, and both may use one name."""
    async with guarded(tmp_path_factory.mktemp("kernel"), inference={"shared_memory": (f"{OWN}*",)}) as kernel:
        stub: Any = GRPCInferenceServiceStub(kernel.tcp.channel)
        one, two = await kernel.login("user", tenants=["one"]), await kernel.login("user", tenants=["two"])
        given = gp.SystemSharedMemoryRegisterRequest(name="r", key=memory.name, byte_size=8)
        assert (await refusal(stub.SystemSharedMemoryRegister(given)))[0] is Code.UNAUTHENTICATED
        viewer = await kernel.login("viewer", tenants=["one"])
        assert (await refusal(stub.SystemSharedMemoryRegister(given, metadata=viewer)))[0] is Code.PERMISSION_DENIED
        await stub.SystemSharedMemoryRegister(given, metadata=one)
        asked = gp.SystemSharedMemoryStatusRequest()
        assert not (await stub.SystemSharedMemoryStatus(asked, metadata=two)).regions
        code, words = await refusal(stub.SystemSharedMemoryRegister(given, metadata=two))
        assert (code, "Unable to open" in words) == (Code.INTERNAL, True)
        other = memory.with_name(f"{memory.name}-two")
        other.write_bytes(bytes(8))
        try:
            given.key = other.name
            await stub.SystemSharedMemoryRegister(given, metadata=two)
        finally:
            other.unlink()
        await stub.SystemSharedMemoryUnregister(gp.SystemSharedMemoryUnregisterRequest(), metadata=two)
        assert (await stub.SystemSharedMemoryStatus(asked, metadata=one)).regions["r"].byte_size == 8
        await stub.SystemSharedMemoryUnregister(gp.SystemSharedMemoryUnregisterRequest(), metadata=one)
        given.key = memory.name
        await stub.SystemSharedMemoryRegister(given, metadata=two)  # nobody has it any more


async def test_a_user_of_the_host_registers_what_it_could_open(memory: Path) -> None:
    """For a user with a ticket no file of the kernel's own user is opened, unless it is its own or open to all."""
    regions = Regions(Inference(shared_memory=(f"{OWN}*",)), share=1.0)
    os.chmod(memory, 0o600)  # noqa: PTH101 - as the rest of this test: at once
    with pytest.raises(RegionUnopenedError, match="Unable to open"):
        regions.register("t", "r", memory.name, start=0, size_bytes=8, uid=os.getuid() + 1)
    regions.register("t", "own", memory.name, start=0, size_bytes=8, uid=os.getuid())
    os.chmod(memory, 0o666)  # noqa: PTH101, S103 - it is to be open to all  # nosec B103
    regions.register("t", "all", memory.name, start=0, size_bytes=8, uid=os.getuid() + 1)
    assert set(regions.list("t")) == {"own", "all"}
