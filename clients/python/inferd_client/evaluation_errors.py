"""What calls about evaluations can raise; see `inferd_client.errors`."""

from inferd_client.error import InferdError


class EvaluationNotFoundError(InferdError):
    """No evaluation of this id is known to this tenant."""

    reason = "EVALUATION_NOT_FOUND"
    code = "NOT_FOUND"
