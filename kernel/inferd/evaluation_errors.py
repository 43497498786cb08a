"""Errors of evaluations, as `inferd.errors`: a class per reason."""

from inferd.errors import InferdError


class EvaluationNotFoundError(InferdError):
    """No evaluation of this id is known to this tenant."""

    reason = "EVALUATION_NOT_FOUND"
    code = "NOT_FOUND"
