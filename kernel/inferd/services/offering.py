"""Offering a service on a server."""

from collections.abc import Sequence
from typing import Any, Protocol

import grpc
from google.protobuf.descriptor import ServiceDescriptor
from google.protobuf.message_factory import GetMessageClass


class Offering(Protocol):
    """Where services are offered: a server, or what stands before one."""

    def add_generic_rpc_handlers(self, handlers: Sequence[grpc.GenericRpcHandler], /) -> None:
        """Offer services."""


def offer(server: Offering, service: ServiceDescriptor, servicer: object, *, known_as: str = "") -> None:
    """Offer the methods that a servicer has of a service; each is given a message, or a stream of them, and its call.

    Args:
        server: Where.
        service: What the wire says of it.
        servicer: Has a coroutine for each method, under the name of the wire; one that is missing is UNIMPLEMENTED.
        known_as: Another name of the service.
    """
    methods = {each.name: each for each in service.methods if hasattr(servicer, each.name)}
    handlers = {name: _handler(method, getattr(servicer, name)) for name, method in methods.items()}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(known_as or service.full_name, handlers),))


def _handler(method: Any, behaviour: Any) -> Any:
    makers = {
        (False, False): grpc.unary_unary_rpc_method_handler,
        (False, True): grpc.unary_stream_rpc_method_handler,
        (True, True): grpc.stream_stream_rpc_method_handler,
    }
    return makers[method.client_streaming, method.server_streaming](
        behaviour,
        request_deserializer=GetMessageClass(method.input_type).FromString,
        response_serializer=GetMessageClass(method.output_type).SerializeToString,
    )
