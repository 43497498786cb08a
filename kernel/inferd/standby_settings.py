"""The settings of kernels that have a store in common: how fast one follows the other, and where each is reached."""

from typing import Annotated, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from inferd.spans import Seconds

BEATS = 3  # that a silence must have room for
LOOKS = 4  # likewise: who looks more rarely takes itself for held up

Address = Annotated[str, Field(min_length=1, max_length=200)]


class Standby(BaseModel):
    """Kernels with one store in PostgreSQL: one leads, the others stand by and follow it when it ends."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    enabled: bool = Field(
        True,
        description="whether a kernel stands by while another one has its store in PostgreSQL; else it ends and says"
        " who has it",
    )
    advertise: tuple[Address, ...] = Field(
        (),
        max_length=8,
        description="addresses by which clients of other hosts reach this kernel, as tls:kernel-a.example:7411;"
        " default: those where it listens, with the name of the host where that is every address",
    )
    beat_s: Seconds = Field(
        0.5, gt=0, le=1e5, description="a kernel tells so often in the store that it lives, and looks there"
    )
    silence_s: Seconds = Field(
        2.5,
        gt=0,
        description="a leader that has told nothing for so long is ended by one that stands by; one that could not tell"
        " for so long, and knows of others, takes no calls until it can",
    )
    look_s: Seconds = Field(
        0.25, gt=0, le=1e5, description="a kernel that stands by looks so often whether it may lead"
    )

    @model_validator(mode="after")
    def _has_room(self) -> Self:
        if self.silence_s < BEATS * self.beat_s:
            raise ValueError(
                f"silence_s is {self.silence_s:g} and beat_s is {self.beat_s:g}: a leader must be able to miss a beat;"
                f" make silence_s at least {BEATS * self.beat_s:g}, or beat_s smaller"
            )
        if self.silence_s < LOOKS * self.look_s:
            raise ValueError(
                f"look_s is {self.look_s:g} and silence_s is {self.silence_s:g}: a kernel that stands by must look on"
                f" while a leader is silent; make look_s at most {self.silence_s / LOOKS:g}, or silence_s longer"
            )
        return self
