"""`inferd config`: every setting with its value, and where that came from."""

from __future__ import annotations

import json
import re
import tomllib
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from pydantic import BaseModel
from pydantic_settings import TomlConfigSettingsSource

from inferd.cli.output import CommandError
from inferd.cli.settings import name_of, read_settings, variable_of
from inferd.config import Settings
from inferd.environment import Environment
from inferd.errors import suggestion
from inferd.folders import config_path
from inferd.store.passwords import HIDDEN, hide_passwords

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from pydantic.fields import FieldInfo

    from inferd.cli.output import Output

MOST_LINES: Final = 2000
"""Of a configuration whose lines are told; of a longer one the file is."""
COMMANDS: Final = frozenset({"store.key_command"})
"""Settings whose words may be a secret."""
TABLE: Final = re.compile(r"\s*\[")


@dataclass(frozen=True, slots=True)
class Setting:
    """One setting.

    Attributes:
        path: Its name, group by group.
        field: What may be said of it.
    """

    path: tuple[str, ...]
    field: FieldInfo

    @property
    def name(self) -> str:
        """Its name, as `limits.tasks`."""
        return ".".join(self.path)

    @property
    def about(self) -> str:
        """What it is, for people."""
        return self.field.description or ""


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a value came from.

    Attributes:
        kind: `default`, `file`, `environment` or `flag`.
        place: The file, the variable or the flag; "" for a default.
        line: Of a file, where the value begins; 0 where that is not known.
    """

    kind: str
    place: str = ""
    line: int = 0

    def __str__(self) -> str:
        if self.kind == "file":
            return f"{self.place}:{self.line}" if self.line else self.place
        return self.place or self.kind


def all_settings(owner: type[BaseModel] = Settings, path: tuple[str, ...] = ()) -> Iterator[Setting]:
    """Every setting that there is, in the order of its declaration, groups one after the other."""
    groups = []
    for name, field in owner.model_fields.items():
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            groups.append((kind, (*path, name)))
        else:
            yield Setting((*path, name), field)
    for kind, below in groups:
        yield from all_settings(kind, below)


def show(
    output: Output,
    names: Sequence[str],
    *,
    config: Path | None,
    flags: Mapping[str, Any],
    origin: bool,
    changed: bool,
) -> None:
    """Tell settings: all, or those named and what is below them.

    Args:
        output: Where.
        names: Of settings or groups; none for all.
        config: The configuration; None for the usual one.
        flags: What options of `inferd serve` say, by setting.
        origin: Whether it is told where each value came from.
        changed: Whether those with their default are left out.

    Raises:
        CommandError: The settings are not right, or there is none of a name.
    """
    settings = read_settings(config=config, **flags)
    origins = Origins(flags)
    rows = []
    for setting in _named(names):
        came = origins.of(setting)
        if not (changed and came.kind == "default"):
            rows.append((setting, shown_value(settings, setting), came))
    if output.json:
        output.document({"settings": [_plain(*row) for row in rows]})
        return
    columns = ["SETTING", "VALUE", *(["ORIGIN"] if origin else [])]
    told = [(each.name, _text(value), *([str(came)] if origin else [])) for each, value, came in rows]
    output.table(columns, told, empty="all settings have their defaults", gives_way="VALUE")


def check(output: Output, *, config: Path | None) -> None:
    """Tell whether the settings are right.

    Raises:
        CommandError: They are not; names each mistake.
    """
    read_settings(config=config)
    path, given = config_path(), Origins({})
    changed = sum(given.of(setting).kind != "default" for setting in all_settings())
    there = path.is_file()
    if output.json:
        output.document({"file": str(path), "exists": there, "changed": changed})
        return
    output.text(f"the settings are right: {changed} differ from their defaults")
    output.note(f"{path}" if there else f"{path} does not exist, and need not")


class Origins:
    """Where values come from: flags go before the environment, that before the file.

    Args:
        flags: By setting.
    """

    def __init__(self, flags: Mapping[str, Any]) -> None:
        self._flags = flags
        self._environment = Environment(Settings)()
        self._file = config_path()
        self._given = TomlConfigSettingsSource(Settings, self._file)()
        self._lines = lines_of(self._file) if self._given else {}

    def of(self, setting: Setting) -> Origin:
        """That of a setting."""
        if _has(self._flags, setting.path):
            return Origin("flag", f"--{setting.path[-1].replace('_', '-')}")
        if _has(self._environment, setting.path):
            return Origin("environment", variable_of(list(setting.path)) or name_of(list(setting.path)))
        if _has(self._given, setting.path):
            above = [setting.path[:length] for length in range(len(setting.path), 0, -1)]
            line = next((self._lines[each] for each in above if each in self._lines), 0)
            return Origin("file", str(self._file), line)
        return Origin("default")


def _has(given: Mapping[str, Any], path: tuple[str, ...]) -> bool:
    found: Any = given
    for step in path:
        if not isinstance(found, dict) or step not in found:
            return False
        found = found[step]
    return True


def lines_of(file: Path) -> dict[tuple[str, ...], int]:
    """The line, from 1 on, where each key of a TOML file begins that can be read; nothing for one that is very long."""
    lines = file.read_text(encoding="utf-8").splitlines()
    found: dict[tuple[str, ...], int] = {}
    if len(lines) > MOST_LINES:
        return found
    part: list[str] = []  # since the last head of a table
    whole, begun = True, 1  # whether it ends with a value; where the next one begins
    for number, line in enumerate(lines, 1):
        if whole and TABLE.match(line):
            part = []
        part.append(line)
        whole = False
        with suppress(tomllib.TOMLDecodeError):
            for path in _paths(tomllib.loads("\n".join(part)), ()):
                found.setdefault(path, begun)
            whole, begun = True, number + 1
    return found


def _paths(value: Mapping[str, Any], path: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
    for name, each in value.items():
        yield (*path, name)
        if isinstance(each, dict):
            yield from _paths(each, (*path, name))


def _named(names: Sequence[str]) -> list[Setting]:
    known = list(all_settings())
    if not names:
        return known
    chosen: list[Setting] = []
    for name in names:
        steps = tuple(name.split("."))
        found = [each for each in known if each.path[: len(steps)] == steps]
        if not found:
            near = suggestion(name, [each.name for each in known])
            hint = f"did you mean {near!r}? inferd config show {near}" if near else "inferd config show lists all"
            raise CommandError(f"there is no setting {name!r}; {hint}", reason="USAGE")
        chosen += found
    return chosen


def shown_value(settings: Settings, setting: Setting) -> Any:
    """The value of a setting as JSON has it, without secrets."""
    value: Any = settings.model_dump(mode="json")
    for step in setting.path:
        value = value[step]
    if setting.name in COMMANDS and value:
        return [value[0], *[HIDDEN] * (len(value) - 1)]
    return _hidden(value)


def _hidden(value: Any) -> Any:
    if isinstance(value, str):
        return hide_passwords(value)
    if isinstance(value, list):
        return [_hidden(each) for each in value]
    if isinstance(value, dict):
        return {name: _hidden(each) for name, each in value.items()}
    return value


def _text(value: Any) -> str:
    return "-" if value is None else json.dumps(value, ensure_ascii=False)


def _plain(setting: Setting, value: Any, came: Origin) -> dict[str, Any]:
    origin: dict[str, Any] = {"kind": came.kind}
    if came.place:
        origin["place"] = came.place
    if came.line:
        origin["line"] = came.line
    return {"name": setting.name, "value": value, "origin": origin, "description": setting.about}
