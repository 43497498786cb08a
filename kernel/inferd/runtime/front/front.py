"""The front: all that a client may ask of the kernel."""

from dataclasses import dataclass

from inferd.runtime.clock import Clock
from inferd.runtime.front.access import Access
from inferd.runtime.front.agents import Agents
from inferd.runtime.front.asking import Asking
from inferd.runtime.front.audit import Audit
from inferd.runtime.front.auth import Auth
from inferd.runtime.front.blobs import Blobs
from inferd.runtime.front.bounds import Calls
from inferd.runtime.front.dataset_rows import DatasetRows
from inferd.runtime.front.datasets import Datasets
from inferd.runtime.front.evaluations import Evaluations
from inferd.runtime.front.explaining import Explaining
from inferd.runtime.front.federations import Federations
from inferd.runtime.front.functions import Functions
from inferd.runtime.front.health import Health
from inferd.runtime.front.hosts import Hosts
from inferd.runtime.front.index_answering import Answers
from inferd.runtime.front.indexes import Indexes
from inferd.runtime.front.leases import Leases
from inferd.runtime.front.models import Models
from inferd.runtime.front.moderation import Moderation
from inferd.runtime.front.optimizing import Optimizing
from inferd.runtime.front.pipelines import Pipelines
from inferd.runtime.front.quotas import Quotas
from inferd.runtime.front.repository import ModelRepository
from inferd.runtime.front.tasks import Tasks
from inferd.runtime.front.trainings import Trainings
from inferd.runtime.front.uploads import Uploads


@dataclass(frozen=True, slots=True, kw_only=True)
class Front:
    """The use cases of a kernel, by noun.

    Attributes:
        calls: What is open of them, over all transports.
        access: What of them may be asked by whom.
        clock: The time that callers' deadlines are on.
        rows: Of datasets, for what reads them as lines.
        repository: What may be done with the model repository; None where there is none.
    """

    calls: Calls
    access: Access
    audit: Audit
    auth: Auth
    clock: Clock
    tasks: Tasks
    uploads: Uploads
    blobs: Blobs
    datasets: Datasets
    rows: DatasetRows
    indexes: Indexes
    answers: Answers
    models: Models
    optimizing: Optimizing
    evaluations: Evaluations
    trainings: Trainings
    federations: Federations
    explaining: Explaining
    leases: Leases
    hosts: Hosts
    agents: Agents
    quotas: Quotas
    moderation: Moderation
    functions: Functions
    asking: Asking
    pipelines: Pipelines
    health: Health
    repository: ModelRepository | None = None

    async def adopt(self) -> None:
        """Hold what calls made before this kernel was started.

        Raises:
            InferdError: It cannot be read, or a rule of moderation is none.
        """
        await self.quotas.adopt()
        await self.hosts.standings.adopt(self.agents.joined())
        await self.moderation.adopt()
        await self.datasets.adopt()
        await self.indexes.adopt()
        await self.pipelines.adopt()
        await self.evaluations.adopt()
        await self.trainings.adopt()
        await self.asking.memos.adopt()
        await self.federations.adopt()
