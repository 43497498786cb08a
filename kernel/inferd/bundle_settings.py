"""The settings of bundles: signed files that carry a model from one kernel to another."""

from pydantic import BaseModel, ConfigDict, Field


class Bundles(BaseModel):
    """Bounds of what is written and read of models as one file."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    exports: int = Field(8, ge=1, description="ExportModel streams that are open at once")
    files: int = Field(1000, ge=1, le=1000, description="files of a bundle that is imported")
    manifest_bytes: int = Field(
        32 << 20, ge=1 << 10, le=1 << 30, description="largest manifest of a bundle that is imported, in bytes"
    )
    had_pieces: int = Field(
        1 << 16, ge=1, le=1 << 20, description="pieces (of 4 MiB) that who exports a model says he has: 256 GiB"
    )
    bundle_bytes: int = Field(
        256 << 30, ge=1, description="files that a bundle states in all, in bytes, where it is imported"
    )
