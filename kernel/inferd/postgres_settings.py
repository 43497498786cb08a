"""The settings of a store in PostgreSQL: its schema, and how long is waited for what."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

Wait = Annotated[float, Field(gt=0, le=1e5)]
"""In seconds; the server counts milliseconds in 31 bits."""


class Postgres(BaseModel):
    """Where in its database a store in PostgreSQL is, and how long is waited for it."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    schema_name: str = Field(
        "inferd",
        pattern=r"^[a-z_][a-z0-9_]{0,62}$",
        description="the schema that is the store; kernels that share a database have one each",
    )
    connect_timeout_s: Wait = Field(5.0, description="how long is waited for a connection; its driver waits at least 2")
    answer_timeout_s: Wait = Field(30.0, description="what is not answered for so long is given up")
    lock_wait_s: float = Field(
        2.0,
        ge=0,
        le=1e5,
        description="how long a store is waited for that another kernel has: of one that was killed, the server may not"
        " know yet",
    )
    outcome_wait_s: float = Field(
        10.0,
        ge=0,
        le=1e5,
        description="how long, after a connection was lost in a commit, another one is tried for to learn whether it"
        " was done, before clients are told that it is not known",
    )
