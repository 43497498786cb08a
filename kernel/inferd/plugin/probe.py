"""The child process of discovery: imports one plugin, probes its backends and writes one JSON document.

    python -m inferd.plugin.probe MODULE FD PARENT

The document goes to the file descriptor FD, so that whatever the plugin prints does not disturb it. It is
`{"error": text}` for a plugin that is broken, else `{"backends": [one object for each backend]}`. A plugin that ends
this process instead of raising leaves no document: the registry then reports how the process ended.
"""

import ctypes
import dataclasses
import faulthandler
import importlib
import json
import os
import re
import signal
import sys
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import pluggy

from inferd.errors import is_failure, suggestion, words_of
from inferd.plugin import hookspecs
from inferd.plugin.backend import BackendSpec, BackendUnavailable, DeviceInfo, Probe, read_settings
from inferd.plugin.checks import check_backend, check_probe, import_loader
from inferd.sandbox.state import Access
from inferd.starts import begin_start

NAME = re.compile(r"[a-z0-9][a-z0-9_.-]{0,62}")
LOADER = re.compile(r"(\w+\.)*\w+:\w+")
FORMAT = re.compile(r"[a-z0-9][a-z0-9_.-]{0,31}")
DEVICE = re.compile(r"[a-z][a-z0-9_]*:[0-9]+")
PR_SET_PDEATHSIG = 1
TRACE_CHARACTERS = 1 << 16  # how much is kept of the end of a traceback

Document = Mapping[str, Any]


def main(find: Callable[[str], Document]) -> None:
    """Answer with what is found of a module, and end at once: exit handlers and threads of a framework do not run."""
    module, descriptor, parent = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    _die_with_parent(parent)
    begin_start()
    faulthandler.enable()  # to standard error, which the kernel keeps
    os.set_inheritable(descriptor, False)
    document = json.dumps(find(module))
    with os.fdopen(descriptor, "w") as sink:
        sink.write(document)
    sys.stderr.flush()
    os._exit(0)


def answer(module: str) -> Document:
    """The document for the plugin `module`. What its code raises becomes data."""
    try:
        return {"backends": [probe(spec) for spec in collect(module)]}
    except BaseException as error:
        if not is_failure(error):
            raise
        return {"error": exception_line(error), "traceback": traceback_of(error)}


def collect(module: str) -> list[BackendSpec]:
    """Import a plugin and call its hook.

    Raises:
        ValueError: It offers no backend, or a spec is not valid; the message names the field.
        pluggy.PluginValidationError: It implements a hook with other arguments.
    """
    plugins = pluggy.PluginManager(hookspecs.PROJECT)
    plugins.add_hookspecs(hookspecs)
    plugin = importlib.import_module(module)
    check_hooks(plugins, plugin)
    plugins.register(plugin, module)
    specs = [spec for offered in plugins.hook.inferd_backends() for spec in offered]
    if not specs:
        raise ValueError(
            f"{module} offers no backend: implement the hook `inferd_backends` with `@hookimpl` in {plugin.__file__}"
        )
    for spec in specs:
        check_spec(spec)
    return specs


def check_hooks(plugins: pluggy.PluginManager, plugin: ModuleType) -> None:
    """Refuse a hook that does not exist, before pluggy does in words of its own."""
    known = [name for name, value in vars(hookspecs).items() if hasattr(value, f"{hookspecs.PROJECT}_spec")]
    for name in vars(plugin):
        if plugins.parse_hookimpl_opts(plugin, name) is not None and name not in known:
            near = suggestion(name, known)
            hint = f"; did you mean {near!r}?" if near else "."
            raise ValueError(f"unknown hook {name!r} in {plugin.__file__}{hint} Hooks are: {', '.join(known)}")


def check_spec(spec: object) -> None:
    """Check every field of what a hook returned.

    Raises:
        ValueError: A field is not valid; the message names it, its value and what it must be.
    """
    if not isinstance(spec, BackendSpec):
        raise ValueError(f"inferd_backends gave {spec!r}; it must give BackendSpec")  # noqa: TRY004 - one error for bad specs
    _check_fields(
        spec, name=str, loader=str, description=str, extra=str, rank=int, formats=tuple, settings=tuple, supported=dict
    )
    _check_fields(spec, accelerated=dict, access=Access, probe=str)
    for pattern in (*spec.access.devices, *spec.access.reads, *spec.access.writes):
        if not str(pattern).startswith("/"):
            raise ValueError(f"BackendSpec.access has {pattern!r}; it must have absolute paths")
    for name, rank in spec.accelerated.items():
        if name not in spec.formats or type(rank) is not int:
            raise ValueError(
                f"BackendSpec.accelerated has {name!r}: {rank!r}; it must have formats of the backend, and their ranks"
            )
    _check_text("BackendSpec.name", spec.name, NAME)
    _check_text("BackendSpec.loader", spec.loader, LOADER)
    _check_text("BackendSpec.probe", spec.probe or spec.loader, LOADER)
    if not spec.formats:
        raise ValueError("BackendSpec.formats is empty; it must name at least one format")
    for name in spec.formats:
        _check_text("BackendSpec.formats", name, FORMAT)
    for setting in spec.settings:
        _check_fields(setting, name=str, kind=str, description=str, choices=tuple)
    for kind, names in spec.supported.items():
        _check_names(kind, names)
    _check_distinct("BackendSpec.settings", [setting.name for setting in spec.settings])
    read_settings(spec, {s.name: str(s.default) for s in spec.settings if s.default is not None})


def _check_names(kind: str, names: object) -> None:
    if not isinstance(names, tuple) or not all(isinstance(name, str) for name in names):
        raise ValueError(f"BackendSpec.supported[{kind!r}] is {names!r}; it must be a tuple of names")


def probe(spec: BackendSpec) -> Document:
    """Make a backend and probe this host with it. What its code raises becomes data."""
    state, why, fix, missing, trace = "FAILED", "", "", "", ""
    devices: tuple[DeviceInfo, ...] = ()
    try:
        found = _find_devices(spec)
        state, devices, why, fix = "READY", found.devices, found.why, found.fix
    except BackendUnavailable as unavailable:
        state, why, fix = "SKIPPED", unavailable.why, unavailable.fix
    except BaseException as error:
        if not is_failure(error):
            raise
        why, trace = exception_line(error), traceback_of(error)
        missing = _missing_framework(error, loader=spec.loader) if spec.extra else ""
        if missing:
            state, why = "SKIPPED", f"{missing} is not installed"
    return {
        "spec": dataclasses.asdict(spec),
        "state": state,
        "why": why,
        "fix": fix,
        "missing": missing,
        "devices": [dataclasses.asdict(device) for device in devices],
        "traceback": trace,
    }


def exception_line(error: BaseException) -> str:
    """The kind of an exception, the first line of its message, and the file and line that it came from."""
    lines = (error.msg if isinstance(error, SyntaxError) else words_of(error)).splitlines()
    line = f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
    place = _place(error)
    return f"{line} ({place})" if place else line


def _place(error: BaseException) -> str:
    """The last line of an exception's way that is in a file, machinery left out; "" when there is none."""
    if isinstance(error, SyntaxError) and error.filename:
        return f"{error.filename}:{error.lineno}"
    machinery = ("<", *(str(Path(file).parent) for file in (__file__, importlib.__file__, pluggy.__file__)))
    frames = traceback.extract_tb(error.__traceback__)
    outside = [frame for frame in frames if not frame.filename.startswith(machinery)]
    return f"{outside[-1].filename}:{outside[-1].lineno}" if outside else ""


def traceback_of(error: BaseException) -> str:
    """The end of its traceback."""
    return "".join(traceback.format_exception(error))[-TRACE_CHARACTERS:]


def _find_devices(spec: BackendSpec) -> Probe:
    ask = import_loader(spec.probe) if spec.probe else check_backend(import_loader(spec.loader)(), spec.loader).probe
    found = check_probe(ask())
    _check_fields(found, devices=tuple, why=str, fix=str)
    if not found.devices:
        raise ValueError("Probe.devices is empty; it must hold at least one device, else raise BackendUnavailable")
    for device in found.devices:
        _check_fields(device, device_id=str, description=str, memory_bytes=int, cores=int, uuid=str)
        _check_text("DeviceInfo.device_id", device.device_id, DEVICE)
        if device.memory_bytes < 0 or device.cores < 0:
            raise ValueError(f"{device} has a negative number")
    _check_distinct("Probe.devices", [device.device_id for device in found.devices])
    return found


def _check_fields(value: object, **kinds: type) -> None:
    for name, kind in kinds.items():
        field = getattr(value, name)
        if not isinstance(field, kind):
            raise ValueError(f"{type(value).__name__}.{name} is {field!r}; it must be of type {kind.__name__}")  # noqa: TRY004 - one error for bad specs


def _check_text(field: str, text: str, pattern: re.Pattern[str]) -> None:
    if not pattern.fullmatch(text):
        raise ValueError(f"{field} is {text!r}; it must match {pattern.pattern}")


def _check_distinct(field: str, names: list[str]) -> None:
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(f"{field} names {twice[0]!r} more than once")


def _missing_framework(error: BaseException, *, loader: str) -> str:
    """The top-level module that is not installed, unless it is the plugin's own package or the error is another."""
    if not isinstance(error, ModuleNotFoundError) or not error.name:
        return ""
    missing = error.name.partition(".")[0]
    return "" if missing == loader.partition(":")[0].partition(".")[0] else missing


def _die_with_parent(parent: int) -> None:
    """Have the system end this process with the one that started it, even when that one is killed."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        os._exit(1)  # it died before the request was in force


if __name__ == "__main__":
    main(answer)
