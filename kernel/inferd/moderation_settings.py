"""The settings of moderation: rules about what models are told and say."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from inferd.auth_settings import Pattern
from inferd.spans import Days, Seconds

Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]


class ClassifierSetting(BaseModel):
    """A model that is asked about windows of a text."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    model: str = Field(description="its name: one with a recipe that gives labels, or one that writes text")
    labels: tuple[str, ...] = Field(min_length=1, max_length=64, description="labels that count as a finding")
    least_score: float = Field(0.5, ge=0, le=1, description="from which score on a label counts")
    prompt: str = Field("", max_length=8000, description='what one that writes text is asked, "{text}" for the window')
    window_chars: int = Field(400, ge=20, le=4000, description="characters that it is asked about at once")
    deadline_s: Seconds = Field(2.0, gt=0, le=60, description="how long an answer may take, in seconds")
    open_on_failure: bool = Field(False, description="whether the text goes on, and is flagged, without an answer")


class RuleSetting(BaseModel):
    """A rule; see `ModerationRule` of the wire."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: Name = Field(description="by which it is told, unique")
    tenants: Pattern = Field("*", description="pattern of tenants that it is about")
    models: Pattern = Field("*", description="pattern of models that it is about")
    on: tuple[Literal["input", "output"], ...] = Field(
        ("input", "output"), min_length=1, description="what it looks at"
    )
    words: tuple[str, ...] = Field((), description="words and phrases to look for, whatever they are written with")
    patterns: tuple[str, ...] = Field((), description="patterns of RE2 to look for, in any case")
    span: int = Field(128, ge=1, le=1000, description="most characters that a match of a pattern may have")
    spaces: Literal["each", "runs", "none"] = Field("runs", description="what becomes of white space")
    whole_words: bool = Field(False, description="whether a word counts only with no letter or digit next to it")
    action: Literal["allow", "flag", "redact", "stop"] = Field("stop", description="what becomes of what it finds")
    replacement: str = Field("[removed]", max_length=200, description="what stands in its place")
    classifier: ClassifierSetting | None = Field(None, description="who is asked besides")


class Moderation(BaseModel):
    """What models are told and say, held against rules."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    rules: tuple[RuleSetting, ...] = Field((), description="rules; none by default, and then nothing is looked at")
    kept_rules: int = Field(1000, ge=0, le=1000, description="rules that were made by calls")
    search_s: Seconds = Field(
        10.0,
        gt=0,
        le=600,
        description="how long rules may look at what a task is given, in seconds; longer is MODERATION_UNAVAILABLE",
    )
    flags: int = Field(
        1000, ge=1, description="flags that are held; for one more a resolved one goes, else one of who has the most"
    )
    flags_s: Days = Field(2_592_000.0, gt=0, description="how long a flag is held, in seconds: 30 days")
    questions: int = Field(
        256,
        ge=1,
        description="texts about which classifiers are asked at once, with shares of tenants; more count as late",
    )
