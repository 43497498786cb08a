"""Settings of functions."""

from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from inferd.spans import Seconds

Bytes = Annotated[int, Field(ge=1 << 20, le=1 << 50)]


class Functions(BaseModel):
    """Functions of installed packages, whose calls are tasks."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    packages: tuple[str, ...] | None = Field(
        None, description="packages that may be used, by their entry points; default: all that are installed"
    )
    modules: tuple[str, ...] = Field((), description="modules with functions besides those of installed packages")
    network: tuple[str, ...] = Field(
        (), description="packages whose functions may use the network; their sandbox is then never full"
    )
    files: dict[Annotated[str, Field(pattern="^[A-Za-z0-9._-]{1,64}$")], Path] = Field(
        {},
        max_length=100,
        description="files and folders of this host that functions may read, by the names that callers give them, as "
        "the tokenizers of models",
    )
    calls: int | None = Field(
        None, ge=1, le=256, description="calls of a package that run at once; default: the host's cores, at most 4"
    )
    timeout_s: Seconds = Field(60.0, gt=0, description="how long a call may take whose function does not say")
    most_timeout_s: Seconds = Field(3600.0, gt=0, description="most that a function may say")
    memory_bytes: Bytes = Field(
        256 << 20, description="memory of a call beyond what its package has, where the function does not say"
    )
    most_memory_bytes: Bytes = Field(4 << 30, description="most that a function may say")
    piece_bytes: int = Field(
        1 << 20, ge=1024, description="largest piece of an output, as JSON; what does not stream is one"
    )
    output_bytes: Bytes = Field(256 << 20, description="most of all pieces of one call together")
    asks: int = Field(10_000, ge=0, le=1_000_000, description="how often one call may ask models, for all its inputs")
    asks_in_flight: int = Field(4, ge=1, le=256, description="of these, tasks of one call that run at once")
    ask_bytes: Bytes = Field(
        4 << 20, description="most of what a call asks at once, as JSON, and of what comes of that"
    )
    ask_timeout_s: Seconds = Field(
        600.0, gt=0, description="how long a model may take with what a call asks, its loading included"
    )
    memos: int = Field(
        2000, ge=0, le=1_000_000, description="values that functions keep from call to call, of all tenants"
    )
    memo_bytes: int = Field(256 << 10, ge=1024, le=4 << 20, description="largest of them, as JSON")
    timeouts_s: dict[str, Annotated[Seconds, Field(gt=0)]] = Field(
        {}, max_length=1000, description="by the name of a function, in place of what it says"
    )
    memories_bytes: dict[str, Bytes] = Field(
        {}, max_length=1000, description="by the name of a function, in place of what it says"
    )
