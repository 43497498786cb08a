"""`inferd.v1.AuditService`."""

from inferd.errors import InvalidFieldError
from inferd.runtime.front.audit import Audit
from inferd.runtime.kept_trail import Place
from inferd.services.calls import Call
from inferd.services.pages import name_of, size_of, token_for
from inferd_api.v1 import audit_service_pb2 as aus

ABOUT_ALL = "the trail is about all of them"


class Audits:
    """Translates; see the proto for what each call means."""

    def __init__(self, audit: Audit) -> None:
        self._audit = audit

    async def GetAuditTrail(self, request: aus.GetAuditTrailRequest, call: Call) -> aus.GetAuditTrailResponse:  # noqa: ARG002, N802 - the wire's name
        """Where the trail stands."""
        call.admission.check_all_tenants(ABOUT_ALL)
        standing = self._audit.standing()
        return aus.GetAuditTrailResponse(
            trail=aus.AuditTrail(
                line_count=standing.count,
                first_line=standing.first,
                checkpoint=standing.checkpoint,
                public_key=bytes.fromhex(standing.public),
                durable=standing.durable,
                failing=standing.failing,
                lost_count=standing.lost,
            )
        )

    async def ListAuditLines(self, request: aus.ListAuditLinesRequest, call: Call) -> aus.ListAuditLinesResponse:  # noqa: N802 - the wire's name
        """List lines by number."""
        call.admission.check_all_tenants(ABOUT_ALL)
        place = _read_place(request.page_token) or await self._audit.behind(request.after_line)
        lines, following = await self._audit.lines(place, size_of(request.page_size))
        token = "" if following is None else token_for(f"{following.segment}.{following.line}")
        return aus.ListAuditLinesResponse(lines=lines, next_page_token=token)


def _read_place(token: str) -> Place | None:
    """The place that a page token names; None for no token.

    Raises:
        InvalidFieldError: It is not one that this service gave.
    """
    name = name_of(token)
    if name is None:
        return None
    segment, _, index = name.partition(".")
    if not (segment.isdecimal() and index.isdecimal() and len(name) <= 40):  # noqa: PLR2004 - two numbers
        raise InvalidFieldError(f"page_token {token[:80]!r} is not one that this service gave", field="page_token")
    return Place(int(segment), int(index))
