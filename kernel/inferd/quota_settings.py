"""The settings of quotas: how much a tenant may use."""

from typing import Annotated, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from inferd.auth_settings import Pattern

Count = Annotated[int, Field(ge=0, le=1 << 62)]


class QuotaSetting(BaseModel):
    """How much each tenant by itself may use of all models of a pattern; what it leaves out is not limited."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    tenants: Pattern = Field("*", description="pattern of tenants, each of which has all of it")
    models: Pattern = Field("*", description="pattern of models, which count together")
    requests_per_minute: Count | None = Field(None, description="tasks that are made in any minute")
    tokens_per_minute: Count | None = Field(
        None, description="tokens that tasks read and write: as expected when they are made, as used when they end"
    )
    tasks: Count | None = Field(None, description="tasks that have not ended")
    input_bytes: Count | None = Field(None, description="what the inputs of those take of memory, in bytes")
    lease_bytes: Count | None = Field(
        None, description="memory of devices that leases hold or wait for, in bytes; with models * alone"
    )
    lease_sequences: Count | None = Field(None, description="sequences of models that leases hold or wait for")
    device_seconds_per_day: Annotated[float, Field(ge=0, le=1e9)] | None = Field(
        None, description="time of devices in any 24 hours; tasks that are computed together have equal parts"
    )

    @model_validator(mode="after")
    def _check(self) -> Self:
        limits = self.model_dump(exclude={"tenants", "models"}, exclude_none=True)
        if not limits:
            raise ValueError("a quota limits nothing; name one of " + ", ".join(set(type(self).model_fields) - MATCHED))
        if self.lease_bytes is not None and self.models != "*":
            raise ValueError(
                f"lease_bytes is {self.lease_bytes} and models is {self.models!r}: leased memory is of no model; make a"
                " quota with models * for it"
            )
        return self


MATCHED = {"tenants", "models"}


def _check_apart(quotas: tuple[QuotaSetting, ...]) -> tuple[QuotaSetting, ...]:
    about = [(quota.tenants, quota.models) for quota in quotas]
    twice = next((each for n, each in enumerate(about) if each in about[:n]), None)
    if twice is not None:
        raise ValueError(f"two quotas have tenants {twice[0]!r} and models {twice[1]!r}; make one of them")
    return quotas


QuotaSettings = Annotated[tuple[QuotaSetting, ...], AfterValidator(_check_apart)]
