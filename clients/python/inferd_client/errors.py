"""What a call can raise: a class per `inferd.v1.ErrorReason`, and six for what the kernel itself cannot say."""

from __future__ import annotations

from typing import TYPE_CHECKING

import grpc
from google.rpc import error_details_pb2, status_pb2

from inferd_client.dataset_errors import DatasetHeldError as DatasetHeldError  # noqa: PLC0414 - as the next
from inferd_client.dataset_errors import DatasetNotFoundError as DatasetNotFoundError  # noqa: PLC0414 - as the next
from inferd_client.error import InferdError as InferdError  # noqa: PLC0414 - the base of all that is here
from inferd_client.evaluation_errors import EvaluationNotFoundError as EvaluationNotFoundError  # noqa: PLC0414 - as above
from inferd_client.federation_errors import FederationNotFoundError as FederationNotFoundError  # noqa: PLC0414 - as above
from inferd_client.function_errors import FunctionFailedError as FunctionFailedError  # noqa: PLC0414 - as above
from inferd_client.function_errors import FunctionNotFoundError as FunctionNotFoundError  # noqa: PLC0414 - as above
from inferd_client.index_errors import DocumentNotFoundError as DocumentNotFoundError  # noqa: PLC0414 - as the next
from inferd_client.index_errors import IndexNotFoundError as IndexNotFoundError  # noqa: PLC0414 - as the next
from inferd_client.pipeline_errors import PipelineRunNotFoundError as PipelineRunNotFoundError  # noqa: PLC0414 - as above
from inferd_client.training_errors import TrainingFailedError as TrainingFailedError  # noqa: PLC0414 - as above
from inferd_client.training_errors import TrainingNotFoundError as TrainingNotFoundError  # noqa: PLC0414 - as above

if TYPE_CHECKING:
    from collections.abc import Mapping

DOMAIN, DETAILS_KEY = "inferd", "grpc-status-details-bin"
CODES: Mapping[int, str] = {code.value[0]: code.name for code in grpc.StatusCode}


class KernelUnreachableError(InferdError):
    """No kernel answers at the address, or the connection to it was lost.

    Attributes:
        unsent: Whether no kernel can have seen the call.
    """

    reason = "KERNEL_UNREACHABLE"
    code = "UNAVAILABLE"
    unsent = False


class TlsFailedError(InferdError):
    """Both ends could not agree on a connection with TLS, and it will not pass by itself; the message has the fix."""

    reason = "TLS_FAILED"
    code = "UNAVAILABLE"


class StatusError(InferdError):
    """The call ended with a status that names no reason of inferd, for example one of gRPC itself."""


class KernelTooOldError(StatusError):
    """The kernel has no such call yet; see `metadata["call"]`, `metadata["version"]` and `metadata["needed"]`."""

    reason = "KERNEL_TOO_OLD"
    code = "UNIMPLEMENTED"


class InternalError(InferdError):
    """A defect of the kernel itself, or a reason that this version of the client does not know."""

    reason = "INTERNAL"
    code = "INTERNAL"


class InvalidFieldError(InferdError):
    """A field of the call has a value outside what it allows; see `field`."""

    reason = "INVALID_FIELD"
    code = "INVALID_ARGUMENT"


class PromptTooLongError(InferdError):
    """The prompt and its output do not fit; see `metadata["prompt_tokens"]` and `metadata["limit_tokens"]`."""

    reason = "PROMPT_TOO_LONG"
    code = "INVALID_ARGUMENT"


class UnsupportedInputError(InferdError):
    """The model cannot take this kind of input, for example chat without a chat template."""

    reason = "UNSUPPORTED_INPUT"
    code = "INVALID_ARGUMENT"


class ChatTemplateError(InferdError):
    """The model's chat template refused the messages or ran out of its time."""

    reason = "CHAT_TEMPLATE_FAILED"
    code = "INVALID_ARGUMENT"


class ModelNotFoundError(InferdError):
    """No model of this name is known; `metadata["suggestion"]` is a near name."""

    reason = "MODEL_NOT_FOUND"
    code = "NOT_FOUND"


class ModelExistsError(InferdError):
    """A model of this name exists already with other contents."""

    reason = "MODEL_EXISTS"
    code = "ALREADY_EXISTS"


class ModelBusyError(InferdError):
    """The model is in use."""

    reason = "MODEL_BUSY"
    code = "FAILED_PRECONDITION"


class ModelLoadError(InferdError):
    """Loading failed; `metadata["cause"]` says why and `metadata["log"]` where to read on."""

    reason = "MODEL_LOAD_FAILED"
    code = "FAILED_PRECONDITION"


class ProbeFailedError(InferdError):
    """A version did not answer its probe: `metadata` has `version`, `prompt`, `property`, `wanted` and `found`."""

    reason = "PROBE_FAILED"
    code = "FAILED_PRECONDITION"


class CanaryFailedError(InferdError):
    """A version was worse than its steps allow: `metadata` has `version`, `step`, `bound`, `limit` and `found`."""

    reason = "CANARY_FAILED"
    code = "FAILED_PRECONDITION"


class SandboxIncompleteError(InferdError):
    """The host does not allow all of the sandbox that is required: `metadata` has `cause`."""

    reason = "SANDBOX_INCOMPLETE"
    code = "FAILED_PRECONDITION"


class TaskNotFoundError(InferdError):
    """No task of this id is known to this tenant."""

    reason = "TASK_NOT_FOUND"
    code = "NOT_FOUND"


class TaskCancelledError(InferdError):
    """The task was cancelled."""

    reason = "TASK_CANCELLED"
    code = "CANCELLED"


class TaskExpiredError(InferdError):
    """The task's deadline passed."""

    reason = "TASK_EXPIRED"
    code = "DEADLINE_EXCEEDED"


class QueueFullError(InferdError):
    """The queue is full; try again after `retry_after_s`."""

    reason = "QUEUE_FULL"
    code = "RESOURCE_EXHAUSTED"


class WorkerDiedError(InferdError):
    """The worker that ran the task died; `metadata["cause"]` says why."""

    reason = "WORKER_DIED"
    code = "UNAVAILABLE"


class BackendFailedError(InferdError):
    """The backend raised inside a step; `metadata["cause"]` says what."""

    reason = "BACKEND_FAILED"
    code = "INTERNAL"


class BackendNotFoundError(InferdError):
    """No backend of this name is installed."""

    reason = "BACKEND_NOT_FOUND"
    code = "NOT_FOUND"


class BackendUnavailableError(InferdError):
    """No backend that is ready can load this model."""

    reason = "BACKEND_UNAVAILABLE"
    code = "FAILED_PRECONDITION"


class EventsDroppedError(InferdError):
    """The events asked for are no longer held; `metadata["first_sequence"]` is the oldest one that is."""

    reason = "EVENTS_DROPPED"
    code = "OUT_OF_RANGE"


class RequestConflictError(InferdError):
    """The same `request_id` came with other contents."""

    reason = "REQUEST_CONFLICT"
    code = "ALREADY_EXISTS"


class LimitExceededError(InferdError):
    """A named bound of the kernel was hit; see `metadata["bound"]`, `metadata["value"]`, `metadata["limit"]`."""

    reason = "LIMIT_EXCEEDED"
    code = "RESOURCE_EXHAUSTED"


class ShuttingDownError(InferdError):
    """The kernel is shutting down."""

    reason = "SHUTTING_DOWN"
    code = "UNAVAILABLE"


class LeaseNotFoundError(InferdError):
    """No lease of this id is known to this tenant."""

    reason = "LEASE_NOT_FOUND"
    code = "NOT_FOUND"


class LeaseEndedError(InferdError):
    """The lease has ended, or is not held yet; `metadata["state"]` says which."""

    reason = "LEASE_ENDED"
    code = "FAILED_PRECONDITION"


class LeaseLostError(LeaseEndedError):
    """A lease that this client held does not hold any more, or the kernel has not confirmed it for its TTL."""

    reason = "LEASE_LOST"


class LeaseUnavailableError(InferdError):
    """There is no room for the claim now; see `metadata["wanted"]`, `metadata["free"]`, `metadata["capacity"]`."""

    reason = "LEASE_UNAVAILABLE"
    code = "RESOURCE_EXHAUSTED"


class NoMemoryError(InferdError):
    """A device has no room for a model, even with all idle instances gone; see `metadata["needed_bytes"]`."""

    reason = "NO_MEMORY"
    code = "RESOURCE_EXHAUSTED"


class PoisonError(InferdError):
    """Workers die of this task: see `metadata["cause"]`, `metadata["deaths"]`, `metadata["log"]`."""

    reason = "POISON"
    code = "FAILED_PRECONDITION"


class OutputInvalidError(InferdError):
    """An output is not what its grammar wants; `metadata["path"]` says where, `metadata["keyword"]` against what."""

    reason = "OUTPUT_INVALID"
    code = "FAILED_PRECONDITION"


class ModeratedError(InferdError):
    """A rule found something in what a task was given, or gave: see `metadata["rule"]` and `metadata["on"]`."""

    reason = "MODERATED"
    code = "FAILED_PRECONDITION"


class ModerationUnavailableError(InferdError):
    """What a rule finds is not known: its classifier gave no answer, or it cannot be gone by; `metadata["cause"]`."""

    reason = "MODERATION_UNAVAILABLE"
    code = "UNAVAILABLE"


class AdapterNotFoundError(InferdError):
    """The model has no adapter of this name, or it was unloaded before the task began."""

    reason = "ADAPTER_NOT_FOUND"
    code = "NOT_FOUND"


class AdapterLoadError(InferdError):
    """An adapter cannot be loaded; `metadata["cause"]` says why."""

    reason = "ADAPTER_LOAD_FAILED"
    code = "FAILED_PRECONDITION"


class FlagNotFoundError(InferdError):
    """No flag of this id is known to this client's tenants."""

    reason = "FLAG_NOT_FOUND"
    code = "NOT_FOUND"


class StoreUnavailableError(InferdError):
    """The store, in which the kernel keeps what outlives it, cannot be written or read now."""

    reason = "STORE_UNAVAILABLE"
    code = "UNAVAILABLE"


class NotLeaderError(InferdError):
    """Another kernel leads; `metadata["leader"]` has its addresses, where they are known, with commas between them."""

    reason = "NOT_LEADER"
    code = "UNAVAILABLE"


class TaskStateError(InferdError):
    """The task cannot be suspended or resumed where it stands; see `metadata["state"]`."""

    reason = "TASK_STATE"
    code = "FAILED_PRECONDITION"


class SequenceNotFoundError(InferdError):
    """A sequence of tensors is not there; `metadata["why"]` says why. Send its first request with `start` again."""

    reason = "SEQUENCE_NOT_FOUND"
    code = "NOT_FOUND"


class UploadNotFoundError(InferdError):
    """No upload of this id is known, or not all of it has come: its call must be open. The client uploads again."""

    reason = "UPLOAD_NOT_FOUND"
    code = "NOT_FOUND"


class BlobNotFoundError(InferdError):
    """This tenant has no blob of this digest, or not all of it has come."""

    reason = "BLOB_NOT_FOUND"
    code = "NOT_FOUND"


class BlobHeldError(InferdError):
    """Tasks or models hold the blob; `metadata["holders"]` says which."""

    reason = "BLOB_HELD"
    code = "FAILED_PRECONDITION"


class BlobDamagedError(InferdError):
    """The file of a blob is not what was written, or is gone; `metadata["cause"]` says what of it."""

    reason = "BLOB_DAMAGED"
    code = "DATA_LOSS"


class SourceUnavailableError(InferdError):
    """The files of a model could not be fetched; `metadata["cause"]` says why. Asked again, it goes on where it was."""

    reason = "SOURCE_UNAVAILABLE"
    code = "UNAVAILABLE"


class DiskFullError(InferdError):
    """The disk of the kernel has no room for the files of a model; see `needed_bytes` and `free_bytes`."""

    reason = "DISK_FULL"
    code = "RESOURCE_EXHAUSTED"


class UnauthenticatedError(InferdError):
    """The kernel needs a login, or does not know this one, or not any more; see `Client(credential_file=…)`."""

    reason = "UNAUTHENTICATED"
    code = "UNAUTHENTICATED"


class PermissionDeniedError(InferdError):
    """No rule of the kernel allows this; see `metadata["verb"]`, `metadata["kind"]`, `metadata["principal"]`."""

    reason = "PERMISSION_DENIED"
    code = "PERMISSION_DENIED"


class KeyNotFoundError(InferdError):
    """No key of this id is known to the caller's tenants, or it has ended and was to be changed."""

    reason = "KEY_NOT_FOUND"
    code = "NOT_FOUND"


class QuotaNotFoundError(InferdError):
    """No quota of this id was made by a call; those of the configuration are changed there."""

    reason = "QUOTA_NOT_FOUND"
    code = "NOT_FOUND"


class RuleNotFoundError(InferdError):
    """No rule of this id was made by a call; those of the configuration are changed there."""

    reason = "RULE_NOT_FOUND"
    code = "NOT_FOUND"


class QuotaExceededError(InferdError):
    """A quota of the tenant does not allow more now; `retry_after_s` says when there is room again."""

    reason = "QUOTA_EXCEEDED"
    code = "RESOURCE_EXHAUSTED"


BY_REASON: Mapping[str, type[InferdError]] = {kind.reason: kind for kind in InferdError.__subclasses__() if kind.reason}
"""Every error class by its reason."""


def from_status(status: status_pb2.Status) -> InferdError:
    """Build the error of a `google.rpc.Status`, as it comes in `Finished.error` and in trailing metadata."""
    info, retry, bad = error_details_pb2.ErrorInfo(), error_details_pb2.RetryInfo(), error_details_pb2.BadRequest()
    for detail in status.details:
        any(detail.Unpack(kind) for kind in (info, retry, bad))
    known = info.domain == DOMAIN and info.reason
    kind = BY_REASON.get(info.reason, InternalError) if known else StatusError
    error = kind(
        status.message,
        metadata=info.metadata,
        field=next((violation.field for violation in bad.field_violations), ""),
        retry_after_s=retry.retry_delay.ToTimedelta().total_seconds() if retry.HasField("retry_delay") else None,
    )
    error.code = CODES.get(status.code, "UNKNOWN")
    error.reason = info.reason if known else kind.reason
    return error
