"""Errors of datasets; see `inferd_client.errors`, which has them too."""

from inferd_client.error import InferdError


class DatasetNotFoundError(InferdError):
    """The tenant has no dataset of this name, or not this version, or none that is whole."""

    reason = "DATASET_NOT_FOUND"
    code = "NOT_FOUND"


class DatasetHeldError(InferdError):
    """A run of a pipeline that has not ended reads the dataset, or an evaluation that is being made."""

    reason = "DATASET_HELD"
    code = "FAILED_PRECONDITION"
