"""Settings of evaluations."""

from pydantic import BaseModel, ConfigDict, Field

from inferd.spans import Seconds


class Evaluate(BaseModel):
    """How models are evaluated by `EvaluateModel`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    at_once: int = Field(
        4, ge=1, le=64, description="evaluations that go on at once, of a tenant half of them; others wait"
    )
    in_flight: int = Field(8, ge=1, le=256, description="lines of one evaluation that are answered at once")
    lines: int = Field(10_000, ge=1, le=100_000, description="most lines of the data of one evaluation")
    data_bytes: int = Field(4 << 20, ge=1024, le=8 << 20, description="most bytes of the data of one evaluation")
    kept: int = Field(
        1000, ge=1, le=100_000, description="evaluations that are known; a tenant may have half of what is free"
    )
    held_bytes: int = Field(
        64 << 20, ge=1 << 20, description="most that is held of them in memory where the kernel has no store"
    )
    most_s: Seconds = Field(
        86400.0, gt=0, description="most that one evaluation takes, from when it begins or is taken up again"
    )
    code: bool = Field(
        False,
        description="whether programs that models write are run with tests, in the sandbox of functions; whoever may "
        "run tasks may then run what they like in it",
    )
