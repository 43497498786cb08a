"""Server reflection, `grpc.reflection.v1` and the older `v1alpha`: they differ in the package's name alone."""

from collections.abc import AsyncIterator, Iterable
from typing import Any

from google.protobuf import descriptor_pb2
from google.protobuf.descriptor import FileDescriptor
from google.protobuf.descriptor_pool import Default, DescriptorPool
from google.rpc import error_details_pb2
from grpc_reflection.v1alpha import reflection, reflection_pb2

from inferd.services.calls import Call
from inferd.services.offering import Offering, offer

OLD_PACKAGE, PACKAGE = "grpc.reflection.v1alpha", "grpc.reflection.v1"
SERVICES = tuple(f"{package}.ServerReflection" for package in (PACKAGE, OLD_PACKAGE))
DETAILS = error_details_pb2.DESCRIPTOR.name  # named here so that it stays imported: clients look up what errors carry


class _Pool:
    """All that this process knows, and `grpc.reflection.v1`, of which the library has no code."""

    def __init__(self) -> None:
        self._own = DescriptorPool()
        file = descriptor_pb2.FileDescriptorProto()
        reflection_pb2.DESCRIPTOR.CopyToProto(file)
        self._own.AddSerializedFile(_renamed(file).SerializeToString())

    def FindFileByName(self, name: str) -> FileDescriptor:  # noqa: N802 - the pool's name, as below
        """A file.

        Raises:
            KeyError: It is not known.
        """
        try:
            return self._own.FindFileByName(name)
        except KeyError:
            return Default().FindFileByName(name)

    def FindFileContainingSymbol(self, symbol: str) -> FileDescriptor:  # noqa: N802
        """The file of a symbol.

        Raises:
            KeyError: It is not known.
        """
        try:
            return self._own.FindFileContainingSymbol(symbol)
        except KeyError:
            return Default().FindFileContainingSymbol(symbol)

    def __getattr__(self, name: str) -> Any:
        return getattr(Default(), name)  # of extensions, which v1 has none of


def _renamed(file: Any) -> Any:
    """`grpc.reflection.v1` from the file of v1alpha."""
    file.name, file.package = f"{PACKAGE.replace('.', '/')}/reflection.proto", PACKAGE
    file.ClearField("options")
    for message in file.message_type:
        for field in message.field:
            if field.type_name:
                field.type_name = field.type_name.replace(OLD_PACKAGE, PACKAGE)
    for method in (method for service in file.service for method in service.method):
        method.input_type = method.input_type.replace(OLD_PACKAGE, PACKAGE)
        method.output_type = method.output_type.replace(OLD_PACKAGE, PACKAGE)
    return file


class Reflection:
    """Answers what the library knows of the named services and of itself."""

    def __init__(self, services: Iterable[str]) -> None:
        self._answers = reflection.aio.ReflectionServicer((*services, *SERVICES), pool=_Pool())

    async def ServerReflectionInfo(self, requests: AsyncIterator[Any], call: Call) -> None:  # noqa: N802 - the wire's name
        """Answer each question."""
        async for response in self._answers.ServerReflectionInfo(requests, None):
            await call.write(response)


def add_reflection(server: Offering, services: Iterable[str]) -> None:
    """Offer reflection of the named services and of itself, under both names."""
    (service,) = reflection_pb2.DESCRIPTOR.services_by_name.values()
    servicer = Reflection(services)
    for name in SERVICES:
        offer(server, service, servicer, known_as=name)
