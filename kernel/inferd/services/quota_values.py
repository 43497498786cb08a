"""Quotas, and what is used of them, for the wire."""

from inferd.core.quota import MEASURES, Quota, QuotaUse
from inferd_api.v1 import quota_pb2 as pb


def write_quota(quota: Quota) -> pb.Quota:
    """A quota."""
    limits = {name: value for name in MEASURES if (value := getattr(quota, name)) is not None}
    return pb.Quota(quota_id=quota.quota_id, tenants=quota.tenants, models=quota.models, **limits)


def write_use(use: QuotaUse) -> pb.QuotaUse:
    """What a tenant uses."""
    used = {name: getattr(use, name) for name in MEASURES}
    return pb.QuotaUse(quota=write_quota(use.quota), tenant=use.tenant, **used)
