"""The settings of what a kernel tells of itself: the lines of its log, and traces."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

from inferd.spans import Seconds, Times

Level = Literal["debug", "info", "warning", "error"]
MOST_NAMES = 100


class Logs(BaseModel):
    """What the kernel writes to stderr. Read again at SIGHUP, but for the format."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    format: Literal["console", "json"] = Field(
        "console", description="lines for people, or an object of JSON on each line"
    )
    level: Level = Field("info", description="what the kernel itself says is written from this level on")
    levels: dict[Annotated[str, Field(min_length=1, max_length=200)], Level] = Field(
        {},
        max_length=MOST_NAMES,
        description='the same for parts of it, by the name that stands in each line: {"inferd.runtime" = "debug"} is '
        'about all whose names begin so; libraries, as "grpc", are told from "warning" on unless they are named',
    )
    tasks: bool | None = Field(
        None, description="whether each task that ends is a line, with what it cost; default: where the format is json"
    )
    tasks_per_s: Times = Field(
        20.0, gt=0, description="lines of tasks each second, twice as many at once; more are told by their number"
    )

    @property
    def tells_tasks(self) -> bool:
        """`tasks`, or its default."""
        return self.format == "json" if self.tasks is None else self.tasks


class Otel(BaseModel):
    """Where traces go, as OpenTelemetry has them."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    endpoint: str = Field(
        "",
        description="of a collector that takes OTLP over HTTP, as http://127.0.0.1:4318; default: no traces. Headers, "
        "as one with a key, are in the variable OTEL_EXPORTER_OTLP_HEADERS",
    )
    sample: float = Field(
        1.0, ge=0, le=1, description="the part of tasks that is traced where the client does not say whether it is"
    )
    queued: int = Field(2048, ge=1, description="traces of tasks that wait to be sent; more are dropped and counted")
    batch: int = Field(256, ge=1, description="traces of tasks that are sent at once")
    interval_s: Seconds = Field(2.0, gt=0, description="what has waited for so long is sent")
    timeout_s: Seconds = Field(5.0, gt=0, description="a collector that does not take a batch within so long has none")

    @field_validator("endpoint")
    @classmethod
    def _is_a_place(cls, endpoint: str) -> str:
        if endpoint and not endpoint.startswith(("http://", "https://")):
            raise ValueError("it must begin with http:// or https://, as http://127.0.0.1:4318")
        if "@" in endpoint.partition("//")[2].partition("/")[0]:
            raise ValueError("it must have no password; set OTEL_EXPORTER_OTLP_HEADERS to a header with it")
        return endpoint
