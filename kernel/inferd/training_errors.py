"""Errors of trainings, as `inferd.errors`: a class per reason."""

from inferd.errors import InferdError


class TrainingNotFoundError(InferdError):
    """No training of this id is known to this tenant."""

    reason = "TRAINING_NOT_FOUND"
    code = "NOT_FOUND"


class TrainingFailedError(InferdError):
    """A training cannot be made, or cannot go on; `metadata` has the cause."""

    reason = "TRAINING_FAILED"
    code = "FAILED_PRECONDITION"
