"""What `[[models]]` of the configuration may say of a model. Each entry is read by itself: a wrong one is left out."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from inferd.errors import suggestion
from inferd.model_names import MOST_DIGITS, MOST_NAME, NAME_FORM, NAME_RULE, TAKEN, TAKEN_RULE

MOST_INSTANCES = 64
BARE_DIGEST = re.compile(r"[0-9a-f]{64}")
MOST_TOLD = 16  # faults of one entry


def _text(value: Any) -> Any:
    """A setting as its text: numbers and booleans of TOML are written as they are there."""
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value) if isinstance(value, int | float) else value


def _digest(value: Any) -> Any:
    """A digest as sha256sum writes it is one, too."""
    return f"sha256:{value}" if isinstance(value, str) and BARE_DIGEST.fullmatch(value) else value


Name = Annotated[str, Field(pattern=NAME_FORM, max_length=MOST_NAME)]
Text = Annotated[str, BeforeValidator(_text), Field(max_length=4096)]
Number = Annotated[float, Field(strict=True, allow_inf_nan=False)]


class DeclaredModel(BaseModel):
    """A model of the configuration."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: Name = Field(description=NAME_RULE)
    source: str = Field(
        min_length=1,
        max_length=4096,
        description="absolute path or file:// URL of its file or folder; or the name of a model that was pulled",
    )
    digest: Annotated[str, BeforeValidator(_digest)] = Field(
        "", pattern=r"^(sha256:[0-9a-f]{64})?$", description="what its files must hold: sha256:…"
    )
    backend: str = Field("", description="backend that must load it; default: the kernel chooses")
    device: str = Field("", description="device to load on; default: the first one of the backend, or one like it")
    settings: dict[str, Text] = Field({}, description="settings of the backend, and those that every model has")
    min_instances: int = Field(0, ge=0, le=MOST_INSTANCES, description="fewest instances that stay loaded")
    max_instances: int = Field(1, ge=1, le=MOST_INSTANCES, description="most instances")
    aliases: tuple[Name, ...] = Field((), max_length=16, description="other names of it")
    version_aliases: dict[Name, Annotated[int, Field(strict=True, ge=1, lt=10**MOST_DIGITS)]] = Field(
        {}, max_length=16, description="names that stand for a version of it by number, whichever serves: {stable = 3}"
    )
    labels: dict[
        Annotated[str, Field(min_length=1, max_length=64)], Annotated[str, Field(min_length=1, max_length=256)]
    ] = Field({}, max_length=16, description="for whoever looks for models")
    warm: bool = Field(False, description="load it at the start, where there is room")
    pin: bool = Field(False, description="once loaded it is evicted for no other, nor for idleness")
    sampling_defaults: dict[str, Number] = Field(
        {}, description="what its tasks take for what they leave unset, by the names of inferd.v1.SamplingDefaults"
    )
    probe: dict[str, Any] | None = Field(
        None, description="what new versions have to answer, as inferd.v1.Probe; {} for nothing; default: as it was"
    )
    canary: Any = Field(
        "", description='by which steps new versions come where it is loaded: "5%,25%,100%", or as inferd.v1.Canary'
    )

    selector: dict[str, Text] = Field(
        {},
        max_length=32,
        description='labels that its hosts must have: `zone = "a"`; `host` is the id of each',
    )
    strategy: Literal["spread", "pack"] = Field(
        "spread", description="on hosts with fewer of its instances and more free memory first, or where less is free"
    )
    apart: bool = Field(False, description="no host has two of its instances")

    @model_validator(mode="after")
    def _check_bounds(self) -> "DeclaredModel":
        if self.name in TAKEN:
            raise ValueError(f"name is {self.name!r}; it must be {TAKEN_RULE}")
        if self.min_instances > self.max_instances:
            raise ValueError(
                f"min_instances is {self.min_instances} and max_instances is {self.max_instances}; the first must be"
                " at most the second"
            )
        return self


@dataclass(frozen=True, slots=True)
class Fault:
    """Why an entry is left out.

    Attributes:
        where: The entry, for people: its file and its place there.
        name: Of its model; "" where it has none.
        field: What is wrong of it; "" for the whole.
        why: For people.
    """

    where: str
    name: str
    field: str
    why: str

    def __str__(self) -> str:
        of = f", {self.field}" if self.field else ""
        return f"{self.where}{of}: {self.why}"


@dataclass(frozen=True, slots=True)
class Entry:
    """An entry that can be read."""

    where: str
    model: DeclaredModel


def read_entries(file: str, given: Sequence[Any]) -> tuple[list[Entry], list[Fault]]:
    """The entries of a configuration that can be read, and what is wrong with the others.

    Args:
        file: Where they are, for people.
        given: The entries as they were written.
    """
    entries, faults = list[Entry](), list[Fault]()
    taken = dict[str, str]()  # names and aliases, each with where
    for number, each in enumerate(given, start=1):
        where = f"{file}, [[models]] {number}"
        name = str(each.get("name", ""))[:140] if isinstance(each, Mapping) else ""
        where = f"{where} ({name})" if name else where
        try:
            model = DeclaredModel.model_validate(each)
        except ValidationError as error:
            for problem in error.errors()[:MOST_TOLD]:
                field = ".".join(map(str, problem["loc"]))
                faults.append(Fault(where, name, field, _why(problem["type"], problem["msg"], field)))
            continue
        names = (model.name, *model.aliases, *model.version_aliases)
        at = next((at for at, n in enumerate(names) if n in taken or n in names[:at]), None)
        if at is not None:
            twice, field = names[at], "version_aliases" if at > len(model.aliases) else "aliases" if at else "name"
            faults.append(
                Fault(
                    where, name, field, f"{twice!r} is a name in {taken.get(twice, where)} already; choose another one"
                )
            )
            continue
        taken |= dict.fromkeys(names, where)
        entries.append(Entry(where, model))
    return entries, faults


def _why(kind: str, message: str, field: str) -> str:
    if kind == "extra_forbidden":
        near = suggestion(field, [*DeclaredModel.model_fields])
        known = f"did you mean {near!r}?" if near else f"known are {', '.join(DeclaredModel.model_fields)}"
        return f"there is no field {field!r}; {known}"
    if kind == "missing":
        return "it is missing"
    if kind == "string_pattern_mismatch" and field.partition(".")[0] in ("name", "aliases", "version_aliases"):
        return f"it is no name, {NAME_RULE}"
    return message.removeprefix("Value error, ")
