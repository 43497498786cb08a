"""The settings of blobs: how many bytes clients may leave with the kernel, and for how long."""

from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

from inferd.spans import Days, Seconds


class Blobs(BaseModel):
    """Bounds of blobs, those counted of which not all bytes have come, by the bytes that they will have."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    all_bytes: int = Field(256 << 30, ge=1, description="blobs of all tenants, in bytes")
    all_count: int = Field(100_000, ge=1, description="blobs of all tenants")
    tenant_bytes: int = Field(64 << 30, ge=1, description="blobs of one tenant, in bytes")
    tenant_count: int = Field(10_000, ge=1, description="blobs of one tenant")
    tenant_share: float = Field(
        4.0,
        gt=0,
        le=1e6,
        description="a tenant may have so many times what its blobs leave free of `all_bytes` and of `all_count`",
    )
    blob_bytes: int = Field(64 << 30, ge=1, description="largest blob, in bytes")
    inline_bytes: int = Field(
        4 << 20,
        ge=0,
        description="tensors that a task is given and that outlive the kernel, and each output of one that does, are "
        "blobs where they have more bytes",
    )
    streams: int = Field(256, ge=1, description="calls that give or read blobs and are open at once")
    tenant_streams: int = Field(32, ge=1, description="those of one tenant")
    idle_s: Seconds = Field(
        30.0,
        gt=0,
        description="a call of which no bytes come for so long is ended; what it gave stays, to be gone on with",
    )
    room_s: Days = Field(
        600.0,
        gt=0,
        description="room for what is left of a blob is kept for so long without more of it; what came counts until "
        "`upload_s`, and who goes on with it then needs room for the rest anew",
    )
    upload_s: Days = Field(86_400.0, gt=0, description="a blob of which no more bytes came for so long is forgotten")
    retention_s: Days = Field(
        604_800.0, gt=0, description="a blob that nobody holds is forgotten when it was not used for so long"
    )
    open_dir: Path | None = Field(
        None,
        description="where the files of models that were given as blobs lie unsealed while workers have them; default: "
        "in memory (/dev/shm), where that may have a quarter of the host's, else beside the blobs; each kernel has a "
        "folder of its own there, and each model one whose name nobody else is told",
    )
    sweep_s: Seconds = Field(60.0, gt=0, description="time between two looks for what is to be forgotten")
