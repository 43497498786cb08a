"""Packages of functions: found among the installed distributions, each asked in a child process what it offers."""

from __future__ import annotations

import asyncio
import importlib
import json
from dataclasses import replace
from importlib.machinery import PathFinder
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from inferd.core.function import Function, Package
from inferd.errors import words_of
from inferd.plugin import child
from inferd.plugin.functions import NAME_FORM
from inferd.plugin.registry import CONCURRENT_CHILDREN, WHY_CHARACTERS, Plugin, find_installed, write_log

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from inferd.core.function import CallLimits

GROUP: Final = "inferd.functions"  # of entry points
PROGRAM: Final = "inferd.engine.function.probe"
MOST_SOURCES: Final = 1 << 12  # files of a package that are looked at


async def find_packages(
    *,
    allow: tuple[str, ...] | None,
    modules: tuple[str, ...],
    limits: CallLimits,
    timeout_s: float,
    log_dir: Path | None,
) -> tuple[Package, ...]:
    """All packages that may be used, by name; what is wrong with one is said in it.

    Args:
        allow: Names of entry points that may be used; None for all. The others are passed over.
        modules: Besides the installed ones.
        limits: Of calls.
        timeout_s: Longest time of the child of one package, in seconds.
        log_dir: Where tracebacks are written; None for nowhere.
    """
    plugins, broken = await asyncio.to_thread(find_installed, GROUP)
    chosen = [each for each in plugins if allow is None or each.name in allow]
    own = [Plugin(name=module.partition(".")[0], module=module) for module in dict.fromkeys(modules)]
    chosen += [each for each in own if each.module not in {plugin.module for plugin in chosen}]
    places = asyncio.Semaphore(CONCURRENT_CHILDREN)

    async def ask(plugin: Plugin) -> Package:
        async with places:
            return await _ask(plugin, limits, timeout_s=timeout_s, log_dir=log_dir)

    async with asyncio.TaskGroup() as group:
        asked = [group.create_task(ask(each)) for each in chosen]
    faults = [Package(name=each.name, module="", why=each.why) for each in broken]
    return _distinct([*faults, *(each.result() for each in asked)])


async def _ask(plugin: Plugin, limits: CallLimits, *, timeout_s: float, log_dir: Path | None) -> Package:
    package = Package(name=plugin.name, module=plugin.module, distribution=plugin.package)
    if not NAME_FORM.fullmatch(plugin.name):
        return replace(package, why=f"its entry point is {plugin.name!r}; it must match {NAME_FORM.pattern}")
    try:
        ending = await child.run_program(PROGRAM, plugin.module, limit_s=timeout_s)
    except OSError as error:
        return replace(package, why=f"it cannot be asked what it offers: {words_of(error)}"[:WHY_CHARACTERS])
    try:
        document: Any = json.loads(ending.document)
        if "error" not in document:
            functions = tuple(_read(each, package.name, limits) for each in document["functions"])
            return replace(package, path=_text(document["path"]), functions=functions)
        why, trace = _text(document["error"]), _text(document["traceback"])
    except Exception:  # noqa: BLE001 - foreign code wrote it, nested as deep as it likes; other packages serve
        why, trace = str(ending), ""
    log = "" if log_dir is None else await asyncio.to_thread(write_log, log_dir, plugin.name, f"{trace}\n{ending.text}")
    return replace(package, why=why[:WHY_CHARACTERS], log_path=log)


def _read(said: Any, package: str, limits: CallLimits) -> Function:
    name, version = _text(said["name"]), int(said["version"])
    return Function(
        name=name,
        version=version,
        description=_text(said["description"]),
        input_schema=_text(said["input_schema"]),
        output_schema=_text(said["output_schema"]),
        streams=bool(said["streams"]),
        timeout_s=limits.timeout_of(name, said["timeout_s"]),
        memory_bytes=limits.memory_of(name, said["memory_bytes"]),
        package=package,
        asks=int(said["asks"]),
        internal=bool(said.get("internal", False)),
    )


def _text(said: Any) -> str:
    """What was said, as text that can be sent.

    Raises:
        ValueError: It has half of a character.
    """
    text = str(said)
    text.encode()
    return text


def _distinct(packages: Sequence[Package]) -> tuple[Package, ...]:
    """By name; of several with one name the first counts, and a function is of the first package that offers it."""
    found: dict[str, Package] = {}
    owners: dict[str, str] = {}
    for package in sorted(packages, key=lambda each: (each.name, each.distribution, each.module)):
        name, why = package.name, package.why
        if name in found:
            first = found[name]
            name, why = (
                f"{name} of {package.distribution or package.module}",
                f"{first.distribution or first.module} has a package of this name, too, and comes first",
            )
        functions = () if why else tuple(f for f in package.functions if owners.setdefault(f.name, name) == name)
        lacking = sorted({f.name for f in package.functions if owners.get(f.name) not in (None, name)})
        if lacking and not why:
            why = f"package {owners[lacking[0]]!r} offers {', '.join(map(repr, lacking))} too, and comes first"
        found[name] = replace(package, name=name, functions=functions, why=why)
    return tuple(found.values())


def source_stamps(packages: Iterable[Package]) -> dict[str, frozenset[tuple[str, int]]]:
    """The files of packages, each with when it last changed, by the package's name; of those with a fault, too."""
    places = ((each.name, each.path or (_place(each.module) if each.why else "")) for each in packages)
    return {name: frozenset(_stamps(Path(place))) for name, place in places if place}


def _place(module: str) -> str:
    """The folder or file of a module that could not be imported; nothing of it runs for that. "" if it is not found."""
    importlib.invalidate_caches()
    found = PathFinder.find_spec(module.partition(".")[0]) if module else None
    if found is None:
        return ""
    return next(iter(found.submodule_search_locations or ()), found.origin or "")


def _stamps(path: Path) -> Iterable[tuple[str, int]]:
    files = path.rglob("*.py") if path.is_dir() else [path]
    for file in islice(files, MOST_SOURCES):
        try:
            yield str(file), file.stat().st_mtime_ns
        except (OSError, ValueError):  # a name that no file can have
            continue
