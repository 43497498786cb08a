"""Models whose files are given to the kernel. `ModelUploads` and `AsyncModelUploads` differ in `await` only."""

from __future__ import annotations

import asyncio
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Final

import grpc

from inferd_api.v1.model_pb2 import Model
from inferd_api.v1.model_service_pb2 import ModelFile, UploadModelRequest, UploadModelStart
from inferd_api.v1.model_service_pb2_grpc import ModelServiceStub
from inferd_client.blobs import AsyncBlobs, Blobs
from inferd_client.errors import BlobNotFoundError, KernelUnreachableError
from inferd_client.options import strict
from inferd_client.values import setting_texts

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from os import PathLike

    from inferd_api.v1.blob_pb2 import Blob
    from inferd_api.v1.model_service_pb2_grpc import ModelServiceAsyncStub
    from inferd_client.values import Setting

    FileProgress = Callable[[str, int, int], None]
    """Is told the name of a file, how many bytes of it the kernel has, and how many there are."""

ENDINGS: Final = (".recipe.toml", ".toml")  # of what lies beside a model's file under its name: its recipe


def model_files(path: str | PathLike[str]) -> list[Path]:
    """The files of a model: a file with the recipe beside it, or those of a folder that are not hidden.

    Raises:
        ValueError: It is neither, or the folder has folders, whose files would have no names.
    """
    path = Path(path)
    if path.is_file():
        return [path, *(beside for ending in ENDINGS if (beside := path.with_suffix(ending)).is_file())]
    if not path.is_dir():
        raise ValueError(f"there is no file and no folder {path}")
    files = sorted(each for each in path.iterdir() if not each.name.startswith("."))
    if folders := [each.name for each in files if each.is_dir()]:
        raise ValueError(f"{path} has folders in it ({', '.join(folders)}), and the files of a model have names only")
    return files


def _start(files: Sequence[Path], blobs: Sequence[Blob], model: Model) -> UploadModelRequest:
    named = [
        ModelFile(name=file.name, digest=blob.digest, size_bytes=blob.size_bytes)
        for file, blob in zip(files, blobs, strict=True)
    ]
    return UploadModelRequest(start=UploadModelStart(model=model, files=named))


def _model(name: str, backend: str, device: str, settings: Mapping[str, Setting] | None) -> Model:
    return Model(name=name, backend=backend, device=device, settings=setting_texts(settings))


@strict
class ModelUploads(Blobs):
    """Gives models."""

    @cached_property
    def _uploading(self) -> ModelServiceStub:
        return ModelServiceStub(self._channel)

    def upload_model(
        self,
        name: str,
        path: str | PathLike[str],
        *,
        backend: str = "",
        device: str = "",
        settings: Mapping[str, Setting] | None = None,
        progress: FileProgress | None = None,
    ) -> Model:
        """Give a model's file or folder, what the kernel does not have of it, and make it known as `name`.

        Raises:
            InferdError: As `put_blob` and `create_model`.
            ValueError: The path is no file, and no folder of files.
        """
        files = model_files(path)
        blobs = [self.put_blob(file, progress=_of(file, progress)) for file in files]
        request = _start(files, blobs, _model(name, backend, device, settings))
        call = self._uploading.UploadModel(iter([request]), metadata=self._metadata_of(None))
        try:
            for response in call:
                if response.HasField("complete"):
                    return response.complete.model
                raise BlobNotFoundError(f"{response.accepted.name} was deleted while the model was given; try again")
        except grpc.RpcError as error:
            raise self._failure(error, request) from None
        finally:
            call.cancel()
        raise KernelUnreachableError(f"{self.address} ended the call that gave a model")


@strict
class AsyncModelUploads(AsyncBlobs):
    """Gives models; each method is as its namesake in `ModelUploads`."""

    @cached_property
    def _uploading(self) -> ModelServiceAsyncStub:
        return ModelServiceStub(self._channel)

    async def upload_model(
        self,
        name: str,
        path: str | PathLike[str],
        *,
        backend: str = "",
        device: str = "",
        settings: Mapping[str, Setting] | None = None,
        progress: FileProgress | None = None,
    ) -> Model:
        """Give a model's file or folder, what the kernel does not have of it, and make it known as `name`."""
        files = await asyncio.to_thread(model_files, path)
        blobs = [await self.put_blob(file, progress=_of(file, progress)) for file in files]
        request = _start(files, blobs, _model(name, backend, device, settings))
        call = self._uploading.UploadModel(iter([request]), metadata=self._metadata_of(None))
        try:
            async for response in call:
                if response.HasField("complete"):
                    return response.complete.model
                raise BlobNotFoundError(f"{response.accepted.name} was deleted while the model was given; try again")
        except grpc.RpcError as error:
            raise await self._failure(error, request) from None
        finally:
            call.cancel()
        raise KernelUnreachableError(f"{self.address} ended the call that gave a model")


def _of(file: Path, progress: FileProgress | None) -> Callable[[int, int], None] | None:
    return None if progress is None else lambda done, whole: progress(file.name, done, whole)
