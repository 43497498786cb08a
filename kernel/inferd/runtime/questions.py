"""What is asked of a model beside its tasks: tokens of a text, and what it takes and gives. It is loaded for that."""

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

from inferd.core.ids import NO_LEASE, LeaseId, ModelName, Tenant
from inferd.core.model import Instance
from inferd.errors import UnsupportedInputError
from inferd.runtime.queries import Asker, Queries
from inferd_api.worker.v1 import task_pb2

if TYPE_CHECKING:
    from inferd.runtime.supervisor import Supervisor


Find = Callable[[ModelName, LeaseId], Awaitable[Instance]]


class Questions:
    """Asks models, which are loaded for that if need be. It keeps nothing but the open queries.

    Args:
        queries: Those that wait for their answers.
        supervisor: Knows the workers.
        find: Finds an instance of a model that answers under a lease; has it loaded if need be.
    """

    def __init__(self, queries: Queries, supervisor: "Supervisor", find: Find) -> None:
        self._queries = queries
        self._supervisor = supervisor
        self._find = find

    async def query(
        self, name: ModelName, given: object, *, tenant: Tenant, lease_id: LeaseId = NO_LEASE
    ) -> task_pb2.Answer:
        """The tokens of a text or a conversation, or the text of tokens; loads the model if need be.

        An instance that was loaded under a lease answers calls under that lease only.

        Raises:
            InferdError: Loading failed, the model cannot take the input, or the answer did not come.
        """
        worker = self._supervisor.workers[(await self._find(name, lease_id)).instance_id]
        return await self._queries.ask(worker, given, Asker(tenant, name))

    async def signature(self, name: ModelName, *, lease_id: LeaseId = NO_LEASE) -> bytes:
        """What a model of tensors takes and gives, as its worker wrote it; loads it if need be.

        Raises:
            InferdError: Loading failed, or it is a language model.
        """
        signature = await self.find_signature(name, lease_id=lease_id)
        if not signature:
            message = f"model {name!r} reads text and has no signature; give it a prompt, a chat or tokens"
            raise UnsupportedInputError(message, field="model")
        return signature

    async def find_signature(self, name: ModelName, *, lease_id: LeaseId = NO_LEASE) -> bytes:
        """As `signature`, but nothing of a language model.

        Raises:
            InferdError: Loading failed.
        """
        return self._supervisor.workers[(await self._find(name, lease_id)).instance_id].signature
