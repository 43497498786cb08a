"""How far explanations go."""

from typing import Final

from pydantic import BaseModel, ConfigDict, Field

MOST_SPANS: Final = 4096


class Explanations(BaseModel):
    """How far explanations go, each by many small tasks of its caller."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    at_once: int = Field(8, ge=1, description="explanations that are computed or planned at once; a tenant has a share")
    in_flight: int = Field(16, ge=1, le=1024, description="tasks of one explanation at once")
    spans: int = Field(256, ge=1, le=MOST_SPANS, description="most spans of one explanation")
    samples: int = Field(256, ge=2, le=4096, description="most orders that one draws")
    answer_tokens: int = Field(512, ge=1, description="most tokens of an answer that is explained")
    sequences: int = Field(8192, ge=1, description="most sequences of one explanation")
    held_tokens: int = Field(
        16_000_000, ge=1, description="most tokens of all sequences of one explanation, 4 bytes each while it runs"
    )
    steps: int = Field(256, ge=1, le=4096, description="most points of the way of one by gradients")
    attributed_tokens: int = Field(
        1024, ge=2, description="most tokens of a sequence that is looked into by gradients or attention, all at once"
    )
    example_rows: int = Field(2000, ge=1, description="most rows of a dataset that examples are looked for in")
    example_bytes: int = Field(
        16 << 20, ge=1, description="most bytes of all rows of a dataset that examples are looked for in, as JSON"
    )
    tokens: int = Field(2_000_000, ge=1, description="most tokens that are computed for one explanation")
