"""Settings of indexes."""

from pydantic import BaseModel, ConfigDict, Field


class Indexes(BaseModel):
    """Bounds of indexes. Their segments are blobs, and are bounded as blobs besides."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    all_count: int = Field(1000, ge=1, description="indexes of all tenants")
    tenant_count: int = Field(100, ge=1, description="those of one tenant")
    chunks: int = Field(500_000, ge=1, description="chunks of one index: a search compares the vectors of all")
    bytes: int = Field(4 << 30, ge=1, description="segments of one index, in bytes")
    add_bytes: int = Field(16 << 20, ge=1, description="texts and files of the documents of one call, in bytes")
    segments: int = Field(16, ge=2, le=28, description="segments of one index, before small ones are made one")
    merge_bytes: int = Field(64 << 20, ge=1, description="most of segments that are made one at once, in bytes")
    at_once: int = Field(64, ge=1, description="searches, answers and changes of indexes that go on at once")
    in_flight: int = Field(16, ge=1, le=256, description="chunks of one call whose vectors are made at once")
    memory_bytes: int = Field(
        1 << 30, ge=1, description="segments that stay in memory for the next search, in bytes; at least those of one"
    )
