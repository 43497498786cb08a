"""Errors of functions."""

from inferd_client.error import InferdError


class FunctionNotFoundError(InferdError):
    """No function of this name is known, or not this version; `metadata["suggestion"]` is a near name."""

    reason = "FUNCTION_NOT_FOUND"
    code = "NOT_FOUND"


class FunctionFailedError(InferdError):
    """A function raised, gave what it does not declare, or its process died; `metadata["cause"]` says which."""

    reason = "FUNCTION_FAILED"
    code = "INTERNAL"
