"""Models with all their files, read over the wire."""

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from guarded import guarded

from inferd.runtime.front import exports
from inferd.testing.kernel import kernel_here, write_fake_model
from inferd_api.v1.bundle_pb2 import ExportModelResponse
from inferd_client import AsyncClient
from inferd_client.errors import InferdError, InvalidFieldError, ModelBusyError, PermissionDeniedError

PIECE_BYTES = 64


@asynccontextmanager
async def client_of(folder: Path, **settings: Any) -> AsyncIterator[AsyncClient]:
    async with (
        kernel_here(folder, store={"url": f"sqlite:{folder}/kept/store"}, **settings) as made,
        AsyncClient(made.addresses[0]) as client,
    ):
        yield client


async def told(client: AsyncClient, name: str, **more: Any) -> list[ExportModelResponse]:
    return [each async for each in client.export_model(name, **more)]


def bytes_of(messages: list[ExportModelResponse]) -> bytes:
    return b"".join(each.chunk for each in messages)


async def test_all_of_a_model_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Files by path, and the blobs that they become, with pieces by digest; those that one has are left out."""
    monkeypatch.setattr(exports, "PIECE_BYTES", PIECE_BYTES)
    file = write_fake_model(tmp_path, "model", vocab=[f"word{n}" for n in range(20)])
    file.with_suffix(".recipe.toml").write_text("# beside it\n")
    data, beside = file.read_bytes(), file.with_suffix(".recipe.toml").read_bytes()
    async with client_of(tmp_path) as client:
        await client.create_model("file", str(file), settings={"context_tokens": 512})
        await client.upload_model("blobs", file)
        for name in ("file", "blobs"):
            messages = await told(client, name)
            start, files = messages[0].start, [each.file for each in messages if each.HasField("file")]
            assert (start.model.name, start.files) == (name, 2)
            assert {each.name: each.digest for each in files} == {
                "model.fake": f"sha256:{sha256(data).hexdigest()}",
                "model.recipe.toml": f"sha256:{sha256(beside).hexdigest()}",
            }
            assert bytes_of(messages) == data + beside
        digests = files[0].piece_digests
        assert len(digests) == 32 * -(-len(data) // PIECE_BYTES)
        assert bytes_of(await told(client, "file", had_pieces=digests[32:])) == data[:PIECE_BYTES] + beside
        with pytest.raises(InvalidFieldError, match="had_pieces has 5 bytes"):
            await told(client, "file", had_pieces=b"12345")


async def test_the_adapter_of_a_model_goes_with_it(tmp_path: Path) -> None:
    """Files that the setting `adapter` names follow the model's own, and are told apart from them."""
    (tmp_path / "lora" / "inner").mkdir(parents=True)
    for name in ("adapter_config.json", ".hidden", "weights.safetensors"):
        (tmp_path / "lora" / name).write_text(name)
    async with client_of(tmp_path) as client:
        file = write_fake_model(tmp_path, "model")
        await client.create_model("model", str(file), settings={"adapter": str(tmp_path / "lora")})
        messages = await told(client, "model")
        assert messages[0].start.path_settings == ["adapter"]
        files = [(each.file.setting, each.file.name) for each in messages if each.HasField("file")]
        own = ("", "model.fake")
        assert files == [own, ("adapter", "adapter_config.json"), ("adapter", "weights.safetensors")]
        assert bytes_of(messages) == file.read_bytes() + b"adapter_config.jsonweights.safetensors"
        (tmp_path / "lora").rename(tmp_path / "gone")
        with pytest.raises(InvalidFieldError, match=r"the adapter of model 'model', .*lora: has no files"):
            await told(client, "model")


async def test_bytes_come_as_they_are_made(tmp_path: Path) -> None:
    """What raises where bytes come from is raised where they are given; given again, what came is not sent twice."""
    parts = [bytes([number]) * 300_000 for number in range(5)]
    digest, taken = f"sha256:{sha256(b''.join(parts)).hexdigest()}", []

    def broken() -> Iterator[bytes]:
        yield from parts[:3]
        raise OSError("the stick is gone")

    async with client_of(tmp_path) as client:
        with pytest.raises(OSError, match="the stick is gone"):
            await client.put_chunks(digest, 1_500_000, broken())
        assert (await client.get_blob(digest)).received_bytes == 900_000
        progress: list[int] = []
        blob = await client.put_chunks(digest, 1_500_000, parts, progress=lambda done, _: progress.append(done))
        assert (blob.received_bytes, progress[0]) == (1_500_000, 900_000)
        whole = (taken.append(part) or part for part in parts)
        await client.put_chunks(digest, 1_500_000, whole)
        assert taken == []


async def test_what_changes_is_not_passed_on(tmp_path: Path) -> None:
    """A file that is another one since the model was made of it, or while it is read, is MODEL_BUSY."""
    file = write_fake_model(tmp_path, "model")
    async with client_of(tmp_path) as client:
        await client.create_model("model", str(file))
        reading = client.export_model("model")
        assert (await anext(reading)).start.files == 1
        await reading.aclose()
        file.write_text("{} ")
        with pytest.raises(ModelBusyError, match="have changed since"):
            await told(client, "model")


async def test_who_may_change_a_model_reads_files_within_roots(tmp_path: Path) -> None:
    """An operator exports what it could name, and nothing else."""
    inside, outside = tmp_path / "roots", tmp_path / "elsewhere"
    async with guarded(tmp_path, sources={"roots": [str(inside)]}) as kernel:
        made = (await kernel.key(roles=["operator"])).credential
        async with AsyncClient(kernel.kernel.addresses[0]) as owner:
            for folder in (inside, outside):
                folder.mkdir()
                await owner.create_model(folder.name, str(write_fake_model(folder, folder.name)))
        async with AsyncClient(kernel.kernel.addresses[1], credential=made) as operator:
            assert bytes_of(await told(operator, "roots"))
            with pytest.raises(InferdError) as caught:
                await told(operator, "elsewhere")
            assert caught.value.reason == "PERMISSION_DENIED"


async def test_links_in_an_adapter_lead_nowhere_else(tmp_path: Path) -> None:
    """Who exports within roots gets an adapter's files by links within them, and none that links lead out to."""
    inside, secret = tmp_path / "roots", tmp_path / "secret"
    adapter, kept = inside / "lora", inside / "kept"
    adapter.mkdir(parents=True)
    kept.write_text("kept")
    secret.write_text("secret")
    (adapter / "weights.safetensors").symlink_to(kept)  # as caches of models have it
    async with guarded(tmp_path, sources={"roots": [str(inside)]}) as kernel:
        made = (await kernel.key(roles=["operator"])).credential
        file = write_fake_model(inside, "model")
        async with AsyncClient(kernel.kernel.addresses[1], credential=made) as operator:
            await operator.create_model("model", str(file), settings={"adapter": str(adapter)})
            assert bytes_of(await told(operator, "model")) == file.read_bytes() + b"kept"
            (adapter / "stolen").symlink_to(secret)
            with pytest.raises(PermissionDeniedError, match="lora/stolen' is not in a folder"):
                await told(operator, "model")
            with pytest.raises(PermissionDeniedError, match="lora/stolen' is not in a folder"):
                await operator.create_model("other", str(file), settings={"adapter": str(adapter)})


@pytest.mark.parametrize("swapped", ["file", "folder", "other"])
async def test_what_is_swapped_while_it_is_read_is_not_passed_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, swapped: str
) -> None:
    """A file that becomes a link, another file, or one in a folder that becomes a link, once it was looked at."""
    folder, elsewhere = tmp_path / "models", tmp_path / "elsewhere"
    folder.mkdir()
    elsewhere.mkdir()
    file = write_fake_model(folder, "model")
    (elsewhere / file.name).write_bytes(file.read_bytes())
    look = exports.stat_files

    def swap(path: Path) -> tuple[int, str]:
        found = look(path)
        if swapped == "folder":
            folder.rename(tmp_path / "moved")
            folder.symlink_to(elsewhere)
        elif swapped == "file":
            file.rename(folder / "moved")
            file.symlink_to(folder / "moved")  # the very same file: links are not followed at all
        else:
            (elsewhere / file.name).rename(file)
        return found

    async with client_of(tmp_path) as client:
        await client.create_model("model", str(file))
        monkeypatch.setattr(exports, "stat_files", swap)
        with pytest.raises(ModelBusyError, match="changed, or went, while it was read"):
            await told(client, "model")
