"""Bounds of adapters."""

from typing import Self

from pydantic import BaseModel, ConfigDict, Field

from inferd.spans import Seconds


class Adapters(BaseModel):
    """How many adapters models have, and how large they are."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    of_model: int = Field(64, ge=0, description="adapters of one model")
    file_bytes: int = Field(1 << 30, ge=1, description="files of one adapter, in bytes")
    model_bytes: int = Field(4 << 30, ge=1, description="files of all adapters of one model, in bytes")
    rank: int = Field(256, ge=1, le=512, description="rank of an adapter")
    load_s: Seconds = Field(120.0, gt=0, description="how long an instance may take to read an adapter, in seconds")

    def within(self, frame_bytes: int) -> Self:
        """These, with files that go with one frame to a host, whatever `file_bytes` is by default."""
        return self.model_copy(update={"file_bytes": min(self.file_bytes, frame_bytes)})
