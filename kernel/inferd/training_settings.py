"""Settings of trainings."""

from pydantic import BaseModel, ConfigDict, Field

from inferd.spans import Seconds


class Train(BaseModel):
    """How models are trained by `TrainModel`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    at_once: int = Field(2, ge=1, le=64, description="trainings that go on at once, of a tenant half of them")
    kept: int = Field(
        200, ge=1, le=10_000, description="trainings that are known; a tenant may have half of what is free"
    )
    data_bytes: int = Field(
        1 << 30, ge=1024, description="most bytes of the data of one training, and of rows that are held back"
    )
    rows: int = Field(
        4_000_000, ge=1, description="most rows of the data of one training, and of those that are held back"
    )
    all_data_bytes: int = Field(
        16 << 30,
        ge=1024,
        description="most bytes of the data of all trainings that have not ended; a tenant may have"
        " `scheduler.tenant_share` times what is free",
    )
    disk_bytes: int = Field(
        64 << 30, ge=1 << 20, description="most bytes of the folder of one training, its checkpoints and result too"
    )
    checkpoint_s: Seconds = Field(
        300.0, gt=0, description="seconds between two checkpoints, where a recipe does not say steps"
    )
    report_s: Seconds = Field(1.0, gt=0, description="least seconds between two reports of steps")
    curve_steps: int = Field(1000, ge=10, le=100_000, description="most steps of the curve that are kept")
    retry_s: Seconds = Field(2.0, gt=0, description="seconds after which room for one that waits is looked for again")
    idle_s: Seconds = Field(
        300.0, ge=0, description="models that had nothing to do for so long give their memory to a training"
    )
    vain: int = Field(
        5, ge=1, le=100, description="workers that may die one after the other without a step more until it fails"
    )
    address: str = Field(
        "127.0.0.1",
        min_length=1,
        max_length=253,
        description="address of the kernel's machine at which workers on other hosts reach the one that leads a"
        " training of several: they speak to each other in the clear",
    )
    join_s: Seconds = Field(
        120.0, gt=0, description="seconds in which the workers of a training of several find each other"
    )
    threads: int = Field(0, ge=0, le=4096, description="threads of the processor of a training; 0 for its backend's")
    share: float = Field(
        0.5,
        gt=0,
        le=1,
        description="share of the time in which tasks of models run on its processor that a training computes in; 1 for"
        " all of it",
    )
    nice: int = Field(
        10, ge=0, le=19, description="by how much trainings give way to all else on the processor, as nice(1) says it"
    )
