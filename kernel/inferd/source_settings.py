"""The settings of where models come from that callers name."""

from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field


def _absolute(path: Path) -> Path:
    if not path.is_absolute():
        raise ValueError(f"{str(path)!r} is not an absolute path")
    return path


class Sources(BaseModel):
    """Which files callers may name as models."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    roots: tuple[Annotated[Path, AfterValidator(_absolute)], ...] = Field(
        (),
        description="folders within which whoever may create models may name their files, besides that of pulled "
        "models; `local`, whom the kernel's own user is, names any file that the kernel can read",
    )
