"""Errors about adapters; see `inferd.errors`."""

from inferd.errors import InferdError


class AdapterNotFoundError(InferdError):
    """The model has no adapter of this name, or none of what it held when the task was made."""

    reason = "ADAPTER_NOT_FOUND"
    code = "NOT_FOUND"


class AdapterLoadError(InferdError):
    """An adapter cannot be held; `metadata["cause"]` says why."""

    reason = "ADAPTER_LOAD_FAILED"
    code = "FAILED_PRECONDITION"
    outside = "the adapter cannot be loaded"
