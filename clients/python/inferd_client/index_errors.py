"""Errors of indexes; see `inferd_client.errors`, which has them too."""

from inferd_client.error import InferdError


class IndexNotFoundError(InferdError):
    """The tenant has no index of this name."""

    reason = "INDEX_NOT_FOUND"
    code = "NOT_FOUND"


class DocumentNotFoundError(InferdError):
    """The index has no document of this id."""

    reason = "DOCUMENT_NOT_FOUND"
    code = "NOT_FOUND"
