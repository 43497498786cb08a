"""Settings of pipelines."""

from pydantic import BaseModel, ConfigDict, Field

from inferd.spans import Days, Seconds


class Pipelines(BaseModel):
    """Runs of pipelines, whose steps are tasks."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    steps: int = Field(64, ge=1, le=1024, description="steps of one pipeline")
    written_bytes: int = Field(1 << 20, ge=1024, description="largest pipeline, as it is given")
    references: int = Field(1000, ge=1, le=100_000, description="references in the texts of one pipeline")
    call_values: int = Field(10_000, ge=1, le=1_000_000, description="values in the input that a step gives a call")
    items: int = Field(100_000, ge=1, le=10_000_000, description="items of a list that a step is done for")
    in_flight: int = Field(64, ge=1, le=1024, description="items of a step that are done at once, at most")
    retries: int = Field(10, ge=0, le=100, description="how often a task of a step is tried again, at most")
    value_bytes: int = Field(
        4 << 20, ge=1024, le=1 << 28, description="largest value between steps, and of an item of a list, as JSON"
    )
    run_bytes: int = Field(256 << 20, ge=1024, description="what all items of one run give together, as JSON")
    bytes: int = Field(
        2 << 30,
        ge=1024,
        description="the same of all runs; then ended ones of the tenant that has most go",
    )
    held_bytes: int = Field(
        64 << 20,
        ge=1024,
        description="values that all runs hold so that they need not be read again for each item, as JSON",
    )
    running: int = Field(64, ge=1, description="runs that have not ended")
    tenant_running: int = Field(16, ge=1, description="of these, runs of one tenant")
    runs: int = Field(
        1000, ge=1, description="runs that are known; then the oldest ended ones of the tenant that has most go"
    )
    expire_s: Days = Field(
        86_400.0, gt=0, description="when a run expires that does not say it, in seconds from its making"
    )
    retention_s: Days = Field(604_800.0, ge=0, description="how long a run that has ended can be read, in seconds")
    sweep_s: Seconds = Field(60.0, gt=0, description="time between two looks for runs that ended so long ago")
