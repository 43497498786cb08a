"""Errors of indexes, as `inferd.errors`: a class per reason."""

from inferd.errors import InferdError


class IndexNotFoundError(InferdError):
    """The tenant has no index of this name."""

    reason = "INDEX_NOT_FOUND"
    code = "NOT_FOUND"


class DocumentNotFoundError(InferdError):
    """The index has no document of this id."""

    reason = "DOCUMENT_NOT_FOUND"
    code = "NOT_FOUND"
