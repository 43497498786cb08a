"""The Python client of inferd: `Client` and `AsyncClient`, with the same methods.

    with Client() as client:
        for text in client.stream("smollm2", [{"role": "user", "content": "Name the capital of France."}]):
            print(text, end="")

Resources are the messages of `inferd_api.v1`; every failure is a class of `inferd_client.errors`. What a lease can
claim is made by `inferd_client.claims`.
"""

from inferd_api.v1.sampling_pb2 import Choice, Grammar
from inferd_api.v1.tensor_pb2 import InferSequence
from inferd_client.absence import DEFAULT_ADDRESS
from inferd_client.adapters import Adapters, AsyncAdapters
from inferd_client.audit import AsyncAudit, Audit
from inferd_client.claims import LeaseOptions
from inferd_client.credentials import CredentialError
from inferd_client.datasets import AsyncDatasets, Datasets
from inferd_client.errors import InferdError, KernelUnreachableError, LeaseLostError, TlsFailedError
from inferd_client.evaluations import AsyncEvaluations, Evaluations
from inferd_client.explanations import AsyncExplanations, Explanations
from inferd_client.federations import AsyncFederations, Federations
from inferd_client.functions import AsyncFunctions, Functions, call_output
from inferd_client.generations import Generation, Sample
from inferd_client.holding import HeldLease
from inferd_client.hosts import AsyncHosts, Hosts
from inferd_client.indexes import AsyncIndexes, Indexes
from inferd_client.inferences import AsyncInferences, Inferences
from inferd_client.invites import AsyncInvites, Invites
from inferd_client.keys import AsyncKeys, Keys, NewKey
from inferd_client.leases import AsyncLeases, Leases
from inferd_client.model_exports import AsyncModelExports, ModelExports
from inferd_client.model_uploads import AsyncModelUploads, ModelUploads
from inferd_client.model_versions import AsyncModelVersions, ModelVersions
from inferd_client.models import AsyncModels, Models
from inferd_client.moderation import AsyncModeration, Moderation
from inferd_client.optimizations import AsyncOptimizations, Optimizations
from inferd_client.options import ChatOptions, DefaultLimitWarning, InferOptions, RunOptions, TaskOptions
from inferd_client.pipelines import AsyncPipelines, Pipelines
from inferd_client.prompts import Message, Prompt
from inferd_client.quotas import AsyncQuotas, Quotas
from inferd_client.rankings import Ranked
from inferd_client.tensors import blob_tensor
from inferd_client.trainings import AsyncTrainings, Trainings
from inferd_client.vocabularies import AsyncVocabularies, Vocabularies

__all__ = [
    "DEFAULT_ADDRESS",
    "AsyncClient",
    "ChatOptions",
    "Choice",
    "Client",
    "CredentialError",
    "DefaultLimitWarning",
    "Generation",
    "Grammar",
    "HeldLease",
    "InferOptions",
    "InferSequence",
    "InferdError",
    "KernelUnreachableError",
    "LeaseLostError",
    "LeaseOptions",
    "Message",
    "NewKey",
    "Prompt",
    "Ranked",
    "RunOptions",
    "Sample",
    "TaskOptions",
    "TlsFailedError",
    "blob_tensor",
    "call_output",
]


class Client(
    Functions,
    Inferences,
    Models,
    Adapters,
    ModelVersions,
    ModelExports,
    Leases,
    Hosts,
    ModelUploads,
    Datasets,
    Indexes,
    Invites,
    Keys,
    Quotas,
    Audit,
    Moderation,
    Optimizations,
    Pipelines,
    Evaluations,
    Explanations,
    Trainings,
    Federations,
    Vocabularies,
):
    """A synchronous client; safe to use from several threads. Close it, or use it in a `with` statement."""


class AsyncClient(
    AsyncFunctions,
    AsyncInferences,
    AsyncModels,
    AsyncAdapters,
    AsyncModelVersions,
    AsyncModelExports,
    AsyncLeases,
    AsyncHosts,
    AsyncModelUploads,
    AsyncDatasets,
    AsyncIndexes,
    AsyncInvites,
    AsyncKeys,
    AsyncQuotas,
    AsyncAudit,
    AsyncModeration,
    AsyncOptimizations,
    AsyncPipelines,
    AsyncEvaluations,
    AsyncExplanations,
    AsyncTrainings,
    AsyncFederations,
    AsyncVocabularies,
):
    """An asynchronous client of one event loop. Close it, or use it in an `async with` statement."""
