"""Settings of datasets."""

from pydantic import BaseModel, ConfigDict, Field

from inferd.spans import Days, Seconds


class Datasets(BaseModel):
    """Bounds of datasets. Their parts are blobs, and are bounded as blobs besides."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    all_count: int = Field(10_000, ge=1, description="versions of datasets of all tenants, growing ones too")
    tenant_count: int = Field(1000, ge=1, description="those of one tenant")
    tenant_bytes: int = Field(
        64 << 30,
        ge=1,
        description="datasets of one tenant, in bytes of their parts, one that several have counted each",
    )
    all_record_bytes: int = Field(
        256 << 20, ge=1 << 16, description="what is known of datasets of all tenants, in bytes of memory, about"
    )
    tenant_record_bytes: int = Field(64 << 20, ge=1 << 16, description="that of one tenant")
    parts: int = Field(10_000, ge=1, le=1_000_000, description="parts of one version")
    lines_bytes: int = Field(
        32 << 20,
        ge=1 << 10,
        le=1 << 30,
        description="rows of a part as JSON, where pipelines and evaluations read them",
    )
    columns: int = Field(1000, ge=1, le=10_000, description="columns of one version")
    upload_s: Days = Field(
        86_400.0, gt=0, description="a growing version to which no part came for so long is forgotten"
    )
    retention_s: Days | None = Field(
        None,
        gt=0,
        description="a version that was not used for so long is forgotten, where its maker says nothing else",
    )
    sweep_s: Seconds = Field(60.0, gt=0, description="time between two looks for what is to be forgotten")
