"""Errors of federations, as `inferd.errors`: a class per reason."""

from inferd.errors import InferdError


class FederationNotFoundError(InferdError):
    """No federation of this id is known to this tenant."""

    reason = "FEDERATION_NOT_FOUND"
    code = "NOT_FOUND"


class FederationClientUnknownError(InferdError):
    """The federation has no client of this number with this token."""

    reason = "FEDERATION_CLIENT_UNKNOWN"
    code = "PERMISSION_DENIED"


class FederationRoundOverError(InferdError):
    """The round waits for this part no more, or not from this client."""

    reason = "FEDERATION_ROUND_OVER"
    code = "FAILED_PRECONDITION"


class FederationTooFewClientsError(InferdError):
    """A round was begun as often as it may be, and too few clients were left each time."""

    reason = "FEDERATION_TOO_FEW_CLIENTS"
    code = "FAILED_PRECONDITION"
