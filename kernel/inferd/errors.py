"""The one error tree: a class per reason.

Each class names its reason (`inferd.v1.ErrorReason` without the prefix) and its canonical gRPC code. `message` is for
people and ends with the fix where one is known; `metadata` carries the same facts for programs. Translators at the
edges (`inferd.services.status`, the worker link) use `reason`, `code` and `metadata` and never parse a message.
"""

from collections.abc import Mapping
from copy import copy
from typing import Self, TypeVar

from inferd.panics import is_failure as is_failure  # noqa: PLC0414 - for who checks types
from inferd.panics import words_of as words_of  # noqa: PLC0414 - as above
from inferd.spelling import suggestion as suggestion  # noqa: PLC0414 - for who checks types

T = TypeVar("T")


class InferdError(Exception):
    """Base of every error that a client may see.

    Attributes:
        reason: Name in `inferd.v1.ErrorReason` without its prefix.
        code: Name of the canonical gRPC status code.
        message: For people.
        metadata: Facts for programs, by name.
        field: Path of the request's field that is wrong, else "".
        retry_after_s: When trying again makes sense, in seconds; else None.
        outside: Said to those outside in place of a `message` that may hold paths, addresses, what others say; or "".
        names: A model that it tells of besides what was asked for, or "".
        unnamed: What is said in place of `message` and facts to those who may not read that.
    """

    reason = "INTERNAL"
    code = "INTERNAL"
    outside = ""
    names = ""
    unnamed = ""

    def __init__(
        self,
        message: str,
        *,
        metadata: Mapping[str, str] | None = None,
        field: str = "",
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.metadata = dict(metadata or {})
        self.field = field
        self.retry_after_s = retry_after_s

    def __str__(self) -> str:
        """The message, as it is now."""
        return self.message

    def about(self, model: str) -> Self:
        """This error with the name of the model that it is about among its facts, unless it names one."""
        if not model or "model" in self.metadata:
            return self
        other = copy(self)
        other.metadata = {**self.metadata, "model": model}
        return other

    def naming(self, model: str, *, unnamed: str) -> Self:
        """This error, which `names` a model."""
        self.names, self.unnamed = model, unnamed
        return self

    @property
    def subject(self) -> str:
        """What a bound is about that was hit."""
        return self.reason


class InternalError(InferdError):
    """A defect of the kernel itself."""

    outside = "a defect of inferd"


class InvalidFieldError(InferdError):
    """A field of the call has a value outside what it allows."""

    reason = "INVALID_FIELD"
    code = "INVALID_ARGUMENT"


class PromptTooLongError(InferdError):
    """The prompt and its output do not fit into the model's context."""

    reason = "PROMPT_TOO_LONG"
    code = "INVALID_ARGUMENT"


class UnsupportedInputError(InferdError):
    """The model cannot take this kind of input."""

    reason = "UNSUPPORTED_INPUT"
    code = "INVALID_ARGUMENT"


class ChatTemplateError(InferdError):
    """The model's chat template refused the messages or ran out of its time."""

    reason = "CHAT_TEMPLATE_FAILED"
    code = "INVALID_ARGUMENT"


class ModelNotFoundError(InferdError):
    """No model of this name is known."""

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
    """Loading failed; `metadata["cause"]` says why."""

    reason = "MODEL_LOAD_FAILED"
    code = "FAILED_PRECONDITION"
    outside = "the model cannot be loaded"


class ProbeFailedError(InferdError):
    """A new version of a model did not answer its probe as it must; `metadata` has the prompt and both values."""

    reason = "PROBE_FAILED"
    code = "FAILED_PRECONDITION"


class CanaryFailedError(InferdError):
    """A new version of a model was worse than its steps allow; `metadata` has the bound and both values."""

    reason = "CANARY_FAILED"
    code = "FAILED_PRECONDITION"


class SandboxIncompleteError(InferdError):
    """The host does not allow all of the sandbox that is required; `metadata["cause"]` says what it lacks."""

    reason = "SANDBOX_INCOMPLETE"
    code = "FAILED_PRECONDITION"


class OutputInvalidError(InferdError):
    """An output is complete, and not what its grammar wants; `metadata["path"]` and `metadata["keyword"]` say where."""

    reason = "OUTPUT_INVALID"
    code = "FAILED_PRECONDITION"


class ModeratedError(InferdError):
    """A rule found something in what a task was given or gave; `metadata` names the rule."""

    reason = "MODERATED"
    code = "FAILED_PRECONDITION"


class ModerationUnavailableError(InferdError):
    """What a rule finds is not known: its classifier gave no answer, or it cannot be gone by; `metadata["cause"]`."""

    reason = "MODERATION_UNAVAILABLE"
    code = "UNAVAILABLE"
    outside = "what a rule finds could not be found out"


class FlagNotFoundError(InferdError):
    """No flag of this id is known to the caller's tenants."""

    reason = "FLAG_NOT_FOUND"
    code = "NOT_FOUND"


class BrokenModelError(ModelNotFoundError):
    """A model of this name was pulled and cannot be used; `metadata["cause"]` says why."""

    outside = "a model of this name was pulled and cannot be used"


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
    """The queue is full."""

    reason = "QUEUE_FULL"
    code = "RESOURCE_EXHAUSTED"


class WorkerDiedError(InferdError):
    """The worker that ran the task died."""

    reason = "WORKER_DIED"
    code = "UNAVAILABLE"
    outside = "the worker of the model died"


class PoisonError(InferdError):
    """Workers die of this task: it was present at several deaths, and alone at the last one."""

    reason = "POISON"
    code = "FAILED_PRECONDITION"
    outside = "workers died of this task, or of one like it"


class StoreUnavailableError(InferdError):
    """The store, in which the kernel keeps what outlives it, cannot be written or read now."""

    reason = "STORE_UNAVAILABLE"
    code = "UNAVAILABLE"
    outside = "the store of the kernel cannot be written or read"


class NotLeaderError(InferdError):
    """Another kernel leads, or none does now; `metadata["leader"]` has its addresses."""

    reason = "NOT_LEADER"
    code = "UNAVAILABLE"


class BackendFailedError(InferdError):
    """The backend raised inside a step."""

    reason = "BACKEND_FAILED"
    code = "INTERNAL"
    outside = "the backend of the model failed"


class BackendNotFoundError(InferdError):
    """No backend of this name is installed."""

    reason = "BACKEND_NOT_FOUND"
    code = "NOT_FOUND"


class BackendUnavailableError(InferdError):
    """No backend that is ready can load this model."""

    reason = "BACKEND_UNAVAILABLE"
    code = "FAILED_PRECONDITION"
    outside = "no backend can load this model"


class EventsDroppedError(InferdError):
    """The events asked for are no longer held."""

    reason = "EVENTS_DROPPED"
    code = "OUT_OF_RANGE"


class UnreadableEventsError(EventsDroppedError):
    """The events asked for were kept and cannot be read; `metadata["cause"]` says why."""

    outside = "events of this task cannot be read; those behind `first_sequence` can"


class RequestConflictError(InferdError):
    """The same `request_id` came with other contents."""

    reason = "REQUEST_CONFLICT"
    code = "ALREADY_EXISTS"


class LimitExceededError(InferdError):
    """A named bound of the kernel was hit."""

    reason = "LIMIT_EXCEEDED"
    code = "RESOURCE_EXHAUSTED"


class QuotaExceededError(InferdError):
    """A quota does not allow the tenant more now; `metadata["quota"]` says which, by its setting."""

    reason = "QUOTA_EXCEEDED"
    code = "RESOURCE_EXHAUSTED"

    @property
    def subject(self) -> str:
        """Whose quota it is, as `google.rpc.QuotaFailure` has it."""
        return f"tenant:{self.metadata['tenant']}"


class ShuttingDownError(InferdError):
    """The kernel is shutting down."""

    reason = "SHUTTING_DOWN"
    code = "UNAVAILABLE"


class LeaseNotFoundError(InferdError):
    """No lease of this id is known to this tenant."""

    reason = "LEASE_NOT_FOUND"
    code = "NOT_FOUND"


class LeaseEndedError(InferdError):
    """The lease has ended, or is not held yet."""

    reason = "LEASE_ENDED"
    code = "FAILED_PRECONDITION"


class LeaseUnavailableError(InferdError):
    """There is no room for the claim now."""

    reason = "LEASE_UNAVAILABLE"
    code = "RESOURCE_EXHAUSTED"


class NoMemoryError(InferdError):
    """A device has no room for a model, even with all idle instances gone."""

    reason = "NO_MEMORY"
    code = "RESOURCE_EXHAUSTED"


class TaskStateError(InferdError):
    """The task cannot be suspended or resumed where it stands."""

    reason = "TASK_STATE"
    code = "FAILED_PRECONDITION"


class SequenceNotFoundError(InferdError):
    """A sequence of tensor requests was not started, or is not kept any more."""

    reason = "SEQUENCE_NOT_FOUND"
    code = "NOT_FOUND"


class UploadNotFoundError(InferdError):
    """No upload of this id is known, or not all of it has come."""

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
    outside = "the file of this blob is damaged or gone; delete it and put it again"


class SourceUnavailableError(InferdError):
    """The files of a model could not be fetched from where they are; `metadata["cause"]` says why."""

    reason = "SOURCE_UNAVAILABLE"
    code = "UNAVAILABLE"
    outside = "the files of this model could not be fetched"


class DiskFullError(InferdError):
    """There is no room on the disk for the files of a model."""

    reason = "DISK_FULL"
    code = "RESOURCE_EXHAUSTED"
    outside = "there is no room for the files of this model"


class UnauthenticatedError(InferdError):
    """The call says not who makes it, or what it says does not hold, or no longer."""

    reason = "UNAUTHENTICATED"
    code = "UNAUTHENTICATED"


class PermissionDeniedError(InferdError):
    """No rule allows the call, or one denies it."""

    reason = "PERMISSION_DENIED"
    code = "PERMISSION_DENIED"


class KeyNotFoundError(InferdError):
    """No key of this id is known to this tenant."""

    reason = "KEY_NOT_FOUND"
    code = "NOT_FOUND"


class QuotaNotFoundError(InferdError):
    """No quota of this id was made by a call; those of the configuration are changed there."""

    reason = "QUOTA_NOT_FOUND"
    code = "NOT_FOUND"


class RuleNotFoundError(InferdError):
    """No rule of this id was made by a call."""

    reason = "RULE_NOT_FOUND"
    code = "NOT_FOUND"


def present(value: T | None) -> T:
    """A value that is there, or an InternalError: inferd has a defect. Holds under `python -O`, too."""
    if value is not None:
        return value
    raise InternalError("a defect of inferd: a value is missing that was to be there")
