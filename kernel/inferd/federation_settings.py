"""Settings of federations."""

from pydantic import BaseModel, ConfigDict, Field

from inferd.spans import Seconds


class Federate(BaseModel):
    """What federations this kernel may coordinate."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    kept: int = Field(
        100, ge=1, le=10_000, description="federations that are known; a tenant may have half of what is free"
    )
    clients: int = Field(1000, ge=1, le=100_000, description="clients that may join one federation")
    login_clients: int = Field(
        1,
        ge=1,
        le=100_000,
        description="clients of one federation that join with the same login; local users need none",
    )
    round_clients: int = Field(64, ge=1, le=512, description="most clients that take part in a round")
    weights: int = Field(
        400_000, ge=1, le=8_000_000, description="most numbers of the weights; an update of so many fits in a message"
    )
    attempts: int = Field(20, ge=1, le=1000, description="how often a round is begun before its federation fails")
    sum_s: Seconds = Field(600.0, gt=0, description="how long the process may take that computes the next weights")
    sums: int = Field(2, ge=1, le=64, description="how many such processes run at a time; others wait")
    held_bytes: int = Field(
        256 << 20, ge=1 << 20, description="most that is held of them in memory where the kernel has no store"
    )
