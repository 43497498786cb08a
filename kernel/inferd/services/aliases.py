"""Names of models in requests: where one is an alias, it is made the model's own before anything looks at it.

So rules judge the model itself, and what is kept and told of a task names it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from inferd.core.policy import ResourceKind, Verb
from inferd_api.v1 import lease_service_pb2 as ls
from inferd_api.v1 import task_service_pb2 as ts

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from google.protobuf.message import Message

    from inferd.core.traits import Aliases
    from inferd.runtime.front.caller import Caller
    from inferd.services.policies import CallPolicy

OWN = (Verb.CREATE, Verb.DELETE)  # what makes or deletes a model needs its own name


class OwnNames:
    """Puts the names of models in the place of their aliases.

    Args:
        aliases: The models by their aliases, kept up to date.
        made: The model of the task that a request of an id has made, if it has: the same again finds that, though
            the alias stands for another model by now.
        claimed: Likewise the models of the claims of the lease that one has made.
    """

    def __init__(
        self,
        aliases: Aliases,
        made: Callable[[Caller, str], str | None],
        claimed: Callable[[Caller, str], Sequence[str | None]],
    ) -> None:
        self._aliases = aliases
        self._made = made
        self._claimed = claimed

    def put(self, request: Message, policy: CallPolicy, caller: Caller) -> None:
        """Have a request name models by their own names."""
        if not self._aliases or (policy.policy.kind is ResourceKind.MODEL and policy.policy.verb in OWN):
            return
        if isinstance(request, ts.RunTaskRequest | ts.CreateTaskRequest):
            known = request.request_id and request.spec.model in self._aliases
            if known and (made := self._made(caller, request.request_id)):
                request.spec.model = made
        elif isinstance(request, ls.CreateLeaseRequest):
            for claim, model in zip(request.spec.claims, self._claimed(caller, request.request_id), strict=False):
                if model is not None and claim.model.model in self._aliases:
                    claim.model.model = model
        policy.rename(request, self._aliases)
