"""The settings of models: when they get an instance more or less, and how they are given another version."""

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from inferd.spans import Seconds


class Elastic(BaseModel):
    """When a model gets one instance more or less, between its `min_instances` and `max_instances`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    grow_s: Seconds = Field(2.0, gt=0, description="tasks have waited for a place for so long")
    shrink_s: Seconds = Field(60.0, gt=0, description="an instance had nothing to do for so long")
    drain_s: Seconds = Field(
        5.0, gt=0, description="an instance takes no new tasks when others have waited for its memory for so long"
    )
    idle_s: Seconds = Field(
        0.0,
        ge=0,
        description="a model without a task for so long is unloaded; 0: never, unless others need its room",
    )


class Prefix(BaseModel):
    """What becomes of the prefix cache of a model that is unloaded."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    keep_bytes: int = Field(
        0,
        ge=0,
        description="most bytes of host memory in which prefix caches of unloaded models are kept until they are loaded"
        " again, within what is free; a model may have less (its setting prefix_keep_bytes). 0: an unload gives all"
        " memory back",
    )
    disk_bytes: int = Field(
        0,
        ge=0,
        description="most bytes of the disk in which what keep_bytes keeps is kept too, sealed where the store is, also"
        " over the end of the kernel; 0 for none, as with store.url memory:",
    )

    @model_validator(mode="after")
    def _check_both(self) -> "Prefix":
        if self.disk_bytes and not self.keep_bytes:
            raise ValueError(
                f"disk_bytes is {self.disk_bytes} and keep_bytes is 0: what is kept is in memory first; give both"
            )
        return self


class Watching(BaseModel):
    """A folder whose files and folders are models."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    folder: Path | None = Field(None, description="it; default: none")
    poll_s: Seconds = Field(
        2.0, gt=0, description="time between two looks at it; what is the same in two of them is whole"
    )


class Repository(BaseModel):
    """A model repository as Triton has them: a folder of models with `config.pbtxt` and folders of versions."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    folder: Path | None = Field(None, description="it; default: none")
    mode: Literal["none", "poll", "explicit"] = Field(
        "none",
        description="when models come and go: at the start alone, whenever the folder changes, or by calls (explicit)",
    )
    poll_s: Seconds = Field(
        15.0, gt=0, description="time between two looks at it; what is the same in two of them is whole"
    )
    load: tuple[str, ...] = Field(
        (), description='models that are loaded at the start where the mode is explicit; "*" for all'
    )
    models: int = Field(1000, ge=1, description="most folders of models that are looked at")
    programs: tuple[str, ...] = Field(
        (),
        description="names of models whose model.py is run, or patterns of them: it is a program, and none is run"
        " unless it is named",
    )
    versions: int = Field(16, ge=1, le=1000, description="most versions of a model that are served at once")
    config_bytes: int = Field(256 << 10, ge=1, le=16 << 20, description="largest config.pbtxt, in bytes")

    @model_validator(mode="after")
    def _check_load(self) -> "Repository":
        if self.load and self.mode != "explicit":
            raise ValueError(
                f"load names {', '.join(self.load)} and mode is {self.mode!r}, which loads all: use load with mode"
                " 'explicit' (--model-control-mode explicit), or leave it out"
            )
        return self


class Rollouts(BaseModel):
    """How a model is given another version."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    versions: int = Field(10, ge=2, le=1000, description="versions of a model that are kept")
    most_s: Seconds = Field(600.0, gt=0, description="most that a rollout takes until the new version serves")
    trial_s: Seconds = Field(
        60.0, gt=0, description="the version before serves again if the new one fails before its first task, or so long"
    )
    probe_s: Seconds = Field(60.0, gt=0, description="most that a new version takes to answer its probe")
    probe_prompts: int = Field(32, ge=1, le=1000, description="most prompts of a probe")
    probe_bytes: int = Field(65536, ge=1, le=1 << 20, description="most of all texts of a probe")
    canary_steps: int = Field(16, ge=1, le=1000, description="most steps by which a new version takes tasks")
    canary_s: Seconds = Field(
        86_400.0, gt=0, description="most that these steps take; then the old version has all tasks again"
    )
    probe_tokens: int = Field(256, ge=1, le=65536, description="most tokens of an answer to a prompt of a probe")


class Optimize(BaseModel):
    """How the settings of a model are tried by `OptimizeModel`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    at_once: int = Field(1, ge=1, le=16, description="models that are optimised at once; they disturb each other")
    trials: int = Field(24, ge=2, le=1000, description="most trials of one model")
    finalists: int = Field(
        2, ge=0, le=16, description="trials that are measured again at the end, beside the model as it is; 0: none"
    )
    final_rounds: int = Field(3, ge=1, le=100, description="how often each of those is measured")
    most_s: Seconds = Field(3600.0, gt=0, description="most that the trials of one model take")
    trial_s: Seconds = Field(600.0, gt=0, description="most that one trial takes, its load too")
    text_tokens: int = Field(4096, ge=64, le=1 << 20, description="most tokens of a text on which quality is measured")
