"""Errors of datasets, as `inferd.errors`: a class per reason."""

from inferd.errors import InferdError


class DatasetNotFoundError(InferdError):
    """The tenant has no dataset of this name, or not this version of it, or none that is whole."""

    reason = "DATASET_NOT_FOUND"
    code = "NOT_FOUND"


class DatasetHeldError(InferdError):
    """Something reads the dataset that has not ended; `metadata["holders"]` says what."""

    reason = "DATASET_HELD"
    code = "FAILED_PRECONDITION"
