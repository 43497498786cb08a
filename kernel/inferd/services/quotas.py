"""`inferd.v1.QuotaService`."""

from inferd.core.principal import ANY
from inferd.core.quota import MEASURES, Quota
from inferd.errors import InvalidFieldError
from inferd.runtime.front import quotas as front
from inferd.services.auth import PATTERN_FORM
from inferd.services.calls import Call
from inferd.services.pages import page_of
from inferd.services.quota_values import write_quota, write_use
from inferd_api.v1 import quota_pb2 as pb
from inferd_api.v1 import quota_service_pb2 as qs

MOST = 1 << 62  # of what is counted
MOST_S = 1e9
ABOUT_ALL = "quotas are about any of them"


class Quotas:
    """Translates; see the proto for what each call means."""

    def __init__(self, quotas: front.Quotas) -> None:
        self._quotas = quotas

    async def CreateQuota(self, request: qs.CreateQuotaRequest, call: Call) -> qs.CreateQuotaResponse:  # noqa: N802 - the wire's name
        """Make a quota."""
        call.admission.check_all_tenants(ABOUT_ALL)
        quota = await self._quotas.create(_read(request.quota))
        return qs.CreateQuotaResponse(quota=write_quota(quota))

    async def ListQuotas(self, request: qs.ListQuotasRequest, call: Call) -> qs.ListQuotasResponse:  # noqa: N802 - the wire's name
        """List quotas: those that no call can change come first, in their order."""
        known = self._quotas.all(call.caller, has=call.admission.has)
        quotas = [(f"1{each.quota_id}" if each.quota_id else f"0{n:06}", each) for n, each in enumerate(known)]
        page, token = page_of(sorted(quotas, key=lambda each: each[0]), request.page_size, request.page_token)
        return qs.ListQuotasResponse(quotas=map(write_quota, page), next_page_token=token)

    async def ListQuotaUses(self, request: qs.ListQuotaUsesRequest, call: Call) -> qs.ListQuotaUsesResponse:  # noqa: N802 - the wire's name
        """List what is used."""
        uses = [(f"{use.quota.key} {use.tenant}", use) for use in self._quotas.uses(has=call.admission.has)]
        page, token = page_of(sorted(uses, key=lambda each: each[0]), request.page_size, request.page_token)
        return qs.ListQuotaUsesResponse(uses=map(write_use, page), next_page_token=token)

    async def DeleteQuota(self, request: qs.DeleteQuotaRequest, call: Call) -> qs.DeleteQuotaResponse:  # noqa: N802 - the wire's name
        """Take a quota away."""
        call.admission.check_all_tenants(ABOUT_ALL)
        await self._quotas.delete(request.quota_id)
        return qs.DeleteQuotaResponse()


def _read(wanted: pb.Quota) -> Quota:
    """A quota that is to be made.

    Raises:
        InvalidFieldError: A field is not as it may be, or none is limited.
    """
    for name in ("models", "tenants"):
        if (pattern := getattr(wanted, name)) and not PATTERN_FORM.fullmatch(pattern):
            raise InvalidFieldError(
                f"quota.{name} is {pattern[:80]!r}; it must be 1 to 128 of letters, digits, '._:/-' and '*'",
                field=f"quota.{name}",
            )
    limits = {name: getattr(wanted, name) for name in MEASURES if wanted.HasField(name)}
    if not limits:
        raise InvalidFieldError(f"quota limits nothing; give one of {', '.join(MEASURES)}", field="quota")
    for name, value in limits.items():
        most = MOST_S if name == "device_seconds_per_day" else MOST
        if not 0 <= value <= most:
            raise InvalidFieldError(f"quota.{name} is {value:g}; it must be from 0 to {most:g}", field=f"quota.{name}")
    if "lease_bytes" in limits and wanted.models not in ("", ANY):
        raise InvalidFieldError(
            f"quota.lease_bytes is {wanted.lease_bytes} and quota.models {wanted.models!r}: leased memory is of no"
            " model; make a quota with models * for it",
            field="quota.lease_bytes",
        )
    return Quota(tenants=wanted.tenants or ANY, models=wanted.models or ANY, **limits)
