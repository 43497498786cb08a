"""The settings of the Open Inference Protocol."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field


class Inference(BaseModel):
    """What callers of this host may use beside their messages."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    shared_memory: tuple[Annotated[str, Field(pattern=r"^[^/\x00]{1,255}$")], ...] = Field(
        (),
        description="names in /dev/shm of memory that callers of this host may have tensors read from and written to, "
        "`*` for any text; the kernel opens it with its own rights, so name only what is for that. Default: none",
    )
    regions: int = Field(256, ge=1, description="regions of such memory that are registered; a tenant has a share")
    region_bytes: int = Field(
        4 << 30,
        ge=1,
        description="bytes of all files of which regions are registered, each whole and once; a tenant has a share",
    )
    ensemble_steps: int = Field(
        64, ge=1, description="steps that a request to an ensemble becomes at most, those of ensembles in it included"
    )
