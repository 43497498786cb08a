"""What each call asks the rules for, as its proto says; a kernel with a call that says nothing does not start."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from inferd.core.policy import Policy, ResourceKind, Verb
from inferd_api.v1 import policy_pb2

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from google.protobuf.descriptor import Descriptor, MethodDescriptor, ServiceDescriptor

OTHERS: Mapping[str, tuple[Verb, ResourceKind]] = {
    "grpc.health.v1.Health": (Verb.READ, ResourceKind.HEALTH),
    "grpc.reflection.v1.ServerReflection": (Verb.READ, ResourceKind.REFLECTION),
    "grpc.reflection.v1alpha.ServerReflection": (Verb.READ, ResourceKind.REFLECTION),
}
"""Services whose protos are not ours."""


class NoPolicyError(Exception):
    """A call does not say what the rules must allow: a defect of the proto, with which no kernel starts."""


@dataclass(frozen=True, slots=True)
class CallPolicy:
    """What a call asks for.

    Attributes:
        method: Its path, like "/inferd.v1.TaskService/RunTask".
        policy: What the rules must allow.
        fields: The way to the models that a request names, field by field; none where it names none.
    """

    method: str
    policy: Policy
    fields: tuple[tuple[str, bool], ...] = ()

    def models(self, request: Any) -> tuple[str, ...]:
        """The models that a request names."""
        return tuple(_named(request, self.fields)) if self.fields else ()

    def one_model(self, request: Any) -> str:
        """The one model that a request names; "" for none, and where several may be named: those are not looked at."""
        for name, repeated in self.fields:
            if repeated and len(getattr(request, name)) != 1:
                return ""
            request = getattr(request, name)[0] if repeated else getattr(request, name)
        return request if self.fields else ""

    def rename(self, request: Any, names: Mapping[str, str]) -> None:
        """Put other names in the place of those of models in a request."""
        if self.fields:
            _rename(request, self.fields, names)


def read_policies(services: Iterable[ServiceDescriptor]) -> dict[str, CallPolicy]:
    """What each call of the services asks for, and those of health and reflection, by path.

    Raises:
        NoPolicyError: One does not say so, or names a field that its request does not have.
    """
    found = [_read(method) for service in services for method in service.methods]
    for name, (verb, kind) in OTHERS.items():
        found += [
            CallPolicy(f"/{name}/{each}", Policy(verb, kind)) for each in ("Check", "Watch", "ServerReflectionInfo")
        ]
    return {each.method: each for each in found}


def _read(method: MethodDescriptor) -> CallPolicy:
    options = method.GetOptions()
    said = options.Extensions[policy_pb2.policy]
    if not options.HasExtension(policy_pb2.policy) or not said.verb or not said.kind:
        raise NoPolicyError(f"{method.full_name} has no option (inferd.v1.policy) with a verb and a kind")
    service = method.containing_service.full_name
    return CallPolicy(
        f"/{service}/{method.name}",
        Policy(Verb(said.verb), ResourceKind(said.kind)),
        tuple(_way(method, method.input_type, said.model_field.split("."))) if said.model_field else (),
    )


def _way(method: MethodDescriptor, message: Descriptor | None, names: list[str]) -> Iterator[tuple[str, bool]]:
    for name in names:
        field = None if message is None else message.fields_by_name.get(name)
        if field is None:
            raise NoPolicyError(f"{method.full_name} has a policy with model_field {'.'.join(names)!r}: no {name!r}")
        yield name, field.is_repeated
        message = field.message_type


def _rename(message: Any, fields: tuple[tuple[str, bool], ...], names: Mapping[str, str]) -> None:
    (name, repeated), rest = fields[0], fields[1:]
    if rest:
        for each in getattr(message, name) if repeated else (getattr(message, name),):
            _rename(each, rest, names)
    elif (other := names.get(getattr(message, name))) is not None:
        setattr(message, name, other)


def _named(message: Any, fields: tuple[tuple[str, bool], ...]) -> Iterator[str]:
    if isinstance(message, str):
        if message:  # what is not given is for others to refuse
            yield message
        return
    (name, repeated), rest = fields[0], fields[1:]
    for each in getattr(message, name) if repeated else (getattr(message, name),):
        yield from _named(each, rest)
