"""Discovery: which plugins are installed, which of them work here, and which one loads a model.

The kernel process reads names from the metadata of installed distributions and imports nothing of a plugin. Each
plugin is imported and probed by a short-lived child of its own, so that one that raises, hangs, prints or crashes is a
line in the list and nothing else.
"""

import asyncio
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from enum import Enum
from importlib import metadata
from pathlib import Path
from typing import Any, Final, NamedTuple
from urllib.parse import quote

from inferd.core.resources import HOST_DEVICE
from inferd.errors import BackendNotFoundError, BackendUnavailableError, suggestion, words_of
from inferd.plugin import child
from inferd.plugin.backend import BackendSpec, DeviceInfo, Setting
from inferd.plugin.hookspecs import ENTRY_POINT_GROUP
from inferd.sandbox.state import read_access

CONCURRENT_CHILDREN = 4
WHY_CHARACTERS = 500  # longest reason that is kept of what a plugin says
LOG_NAME_CHARACTERS = 200


class BackendState(Enum):
    """What became of a plugin at discovery; the values are those of `inferd.v1.BackendState`."""

    READY = 1
    SKIPPED = 2
    FAILED = 3


WORDS: Final[Mapping[str, str]] = {
    "classifier": "folders with a classifier.json (networks that inferd trained to classify texts)",
    "gguf": "GGUF files",
    "heads": "folders with a heads.json (classifiers that inferd trained)",
    "hf": "folders with a config.json (Hugging Face)",
    "onnx": "ONNX files and folders",
    "ort": "ORT files",
}
"""What formats are called for people; others by their names."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BackendReport:
    """A backend as discovery found it, working or not.

    Attributes:
        name: Name of the backend; of the plugin while its backends are not known.
        state: Whether it can load models.
        why: Why not, for people; when READY, what it lacks here and works without, or "".
        fix: The command that mends it, or "".
        package: "distribution version" that it comes from; "" for a module without one.
        module: The plugin's module.
        spec: What it offers; None when the plugin did not get so far.
        devices: What its probe found; the first is the default.
        log_path: Where the traceback of a FAILED one is, and what it said; "" for none.
    """

    name: str
    state: BackendState
    why: str = ""
    fix: str = ""
    package: str = ""
    module: str = ""
    spec: BackendSpec | None = None
    devices: tuple[DeviceInfo, ...] = ()
    log_path: str = ""


class Choice(NamedTuple):
    """The backend for a model, the devices that it may be loaded on, and the reason as a sentence for people."""

    report: BackendReport
    device_ids: tuple[str, ...]
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Plugin:
    """A plugin by name, not imported."""

    name: str
    module: str
    distribution: str = ""
    version: str = ""

    def report(self, state: BackendState, why: str, *, fix: str = "") -> BackendReport:
        """The report of the plugin as a whole."""
        return BackendReport(
            name=self.name,
            state=state,
            why=why[:WHY_CHARACTERS],
            fix=fix,
            package=self.package,
            module=self.module,
        )

    @property
    def package(self) -> str:
        """Distribution and version."""
        return f"{self.distribution} {self.version}".strip()


async def discover(
    *,
    allow: tuple[str, ...] | None = None,
    modules: tuple[str, ...] = (),
    timeout_s: float = 20.0,
    log_dir: Path | None = None,
) -> tuple[BackendReport, ...]:
    """Find every plugin and probe those that may be used, several at once.

    Args:
        allow: Names of entry points that may be used; None for all. The others are listed as SKIPPED, unimported.
        modules: Plugin modules to use besides the installed ones.
        timeout_s: Longest time of one plugin's child, in seconds.
        log_dir: Where logs of plugins that failed are written; None for nowhere.

    Returns:
        A report for each backend, by name. No plugin makes this raise.
    """
    plugins, reports = await asyncio.to_thread(find_installed)
    named = dict.fromkeys(modules)
    plugins += [Plugin(name=module, module=module) for module in named if module not in {p.module for p in plugins}]
    places = asyncio.Semaphore(CONCURRENT_CHILDREN)

    async def inspect(plugin: Plugin) -> tuple[BackendReport, ...]:
        if allow is not None and plugin.name not in allow and plugin.module not in named:
            fix = f"add {plugin.name!r} to `backends` in the configuration"
            return (plugin.report(BackendState.SKIPPED, "not in `backends`", fix=fix),)
        async with places:
            return await _probe(plugin, timeout_s=timeout_s, log_dir=log_dir)

    async with asyncio.TaskGroup() as group:
        probes = [group.create_task(inspect(plugin)) for plugin in plugins]
    return _distinct([*reports, *(report for probe in probes for report in probe.result())])


def choose(
    reports: Sequence[BackendReport],
    *,
    format: str,  # noqa: A002 - the word of `ModelSpec.format` and of the wire
    requested: str = "",
    device: str = "",
) -> Choice:
    """The backend that loads a model: among those that are READY, load the format and have the device, the lowest rank.

    Args:
        reports: What `discover` found.
        format: Format of the model's file, for example "gguf".
        requested: Name of the backend that must load it; "" for any.
        device: Device that it must be loaded on; "" for the first of the backend and those that are alike: whose ids
            differ only behind the last colon. There is no fallback to another.

    Raises:
        BackendNotFoundError: No backend has the requested name; the nearest name is suggested.
        BackendUnavailableError: None can load it; the message says of each why not.
    """
    pool = [r for r in reports if r.name == requested] if requested else list(reports)
    if not pool:
        raise _unknown_backend(requested, sorted({r.name for r in reports}))
    refusals = [(report, _refusal(report, format=format, device=device)) for report in pool]
    fit = sorted((report for report, refusal in refusals if not refusal), key=lambda report: _rank(report, format))
    what = (format or "a file without an ending") + (f" on {device}" if device else "")
    if not fit:
        named = WORDS.get(format, f"{format} files" if format else "a file without an ending")
        raise _unavailable(refusals, what=named + (f" on {device}" if device else ""), requested=requested)
    others = [refusal for r, refusal in refusals if refusal and r.spec is not None and format in r.spec.formats]
    reason = "; ".join(["requested by name" if requested else _preference(fit, format, what=what), *others])
    return Choice(fit[0], (device,) if device else _alike(fit[0]), reason)


def with_devices(report: BackendReport, names: Sequence[str]) -> BackendReport:
    """A backend with the devices that it has on other hosts behind its own; the processor is behind all others then."""
    own = report.devices if report.state is BackendState.READY else ()
    known = {device.device_id for device in own}
    others = [name for name in names if name not in known]
    if report.spec is None or not others:
        return report
    far = (DeviceInfo(device_id=name, description="of another host", memory_bytes=0, cores=0) for name in others)
    devices = sorted((*own, *far), key=lambda device: device.device_id == HOST_DEVICE)
    return replace(report, state=BackendState.READY, devices=tuple(devices), why="", fix="")


def alternatives(
    reports: Sequence[BackendReport],
    choice: Choice,
    *,
    format: str,  # noqa: A002 - as in `choose`
) -> Mapping[str, tuple[str, ...]]:
    """Other backends that load files of a format, those that are READY first; of others what is missing.

    With each the architectures that it lists for such files; none where it may be any.
    """
    others = [r for r in reports if r.spec is not None and r.name != choice.report.name and format in r.spec.formats]
    ready = sorted((r for r in others if r.state is BackendState.READY), key=lambda r: _rank(r, format))
    lacking = [r for r in others if r.state is not BackendState.READY and r.fix]
    named = {r.name: r for r in ready} | {f"{r.name} (is {r.state.name}; fix: {r.fix})": r for r in lacking}
    return {name: _list_architectures(r.spec, format) for name, r in named.items() if r.spec is not None}


def _list_architectures(spec: BackendSpec, format: str) -> tuple[str, ...]:  # noqa: A002 - as in `choose`
    """See `BackendSpec.supported`."""
    word = FORMAT_KINDS.get(format, format)
    return tuple(
        name
        for kind, names in spec.supported.items()
        if word in kind and ("architectures" in kind or "types" in kind)
        for name in names
    )


FORMAT_KINDS: Final[Mapping[str, str]] = {"gguf": "GGUF", "hf": "Hugging Face"}
"""What kinds of `BackendSpec.supported` call the formats whose architectures they list."""


def _alike(report: BackendReport) -> tuple[str, ...]:
    """The first device of a backend and those of its kind: a model may go to any, and not to the processor instead."""
    kind = report.devices[0].device_id.rpartition(":")[0]
    return tuple(d.device_id for d in report.devices if d.device_id.rpartition(":")[0] == kind)


def _rank(report: BackendReport, format: str) -> tuple[int, str]:  # noqa: A002 - as in `choose`
    """What goes first: with a device of its own a backend may have another rank for a format."""
    spec = report.spec
    if spec is None:
        return (0, report.name)
    own = bool(report.devices) and report.devices[0].device_id != HOST_DEVICE
    return (spec.accelerated.get(format, spec.rank) if own else spec.rank, report.name)


def _refusal(report: BackendReport, *, format: str, device: str) -> str:  # noqa: A002 - as in `choose`
    """Why a backend cannot load a model of this format on this device; "" if it can."""
    if report.spec is None or report.state is not BackendState.READY:
        return f"{report.name} is {report.state.name}: {report.why}"
    if format not in report.spec.formats:
        return f"{report.name} loads {', '.join(WORDS.get(each, each) for each in report.spec.formats)}"
    known = [found.device_id for found in report.devices]
    if device and device not in known:
        return f"{report.name} has {', '.join(known)}"
    return ""


def _preference(fit: list[BackendReport], format: str, *, what: str) -> str:  # noqa: A002 - as in `choose`
    if len(fit) == 1:
        return f"only READY backend for {what}"
    ranks = ", ".join(f"{report.name} {_rank(report, format)[0]}" for report in fit)
    return f"lowest rank of the READY backends for {what} ({ranks})"


def _unknown_backend(requested: str, known: list[str]) -> BackendNotFoundError:
    near = suggestion(requested, known)
    hint = f"; did you mean {near!r}?" if near else "."
    return BackendNotFoundError(
        f"no backend {requested!r} is installed{hint} Installed: {', '.join(known) or 'none'}",
        metadata={"suggestion": near} if near else {},
    )


def _unavailable(refusals: list[tuple[BackendReport, str]], *, what: str, requested: str) -> BackendUnavailableError:
    who = f"backend {requested!r} cannot load" if requested else "no READY backend loads"
    causes = [f"{refusal} (fix: {report.fix})" if report.fix else refusal for report, refusal in refusals]
    cause = "; ".join(causes) or "no backend is installed"
    return BackendUnavailableError(f"{who} {what}: {cause}", metadata={"cause": cause})


def find_installed(group: str = ENTRY_POINT_GROUP) -> tuple[list[Plugin], list[BackendReport]]:
    """The plugins of all installed distributions, and a report for each distribution whose entry points are broken."""
    plugins: dict[str, list[Plugin]] = {}
    broken: list[BackendReport] = []
    for distribution in metadata.distributions():
        if group not in (distribution.read_text("entry_points.txt") or ""):
            continue
        name = distribution.name
        try:
            points = distribution.entry_points.select(group=group)
        except Exception as error:  # noqa: BLE001 - the edge to a plugin: its metadata may be anything
            why = f"its entry points cannot be read: {words_of(error)}"
            broken.append(BackendReport(name=name, state=BackendState.FAILED, why=why, package=name))
            continue
        # Of two copies of a distribution, the first on the path is the one that is imported.
        plugins.setdefault(
            name,
            [Plugin(name=p.name, module=p.value, distribution=name, version=distribution.version) for p in points],
        )
    return [plugin for offered in plugins.values() for plugin in offered], broken


async def _probe(plugin: Plugin, *, timeout_s: float, log_dir: Path | None) -> tuple[BackendReport, ...]:
    ending = await child.run(plugin.module, limit_s=timeout_s)
    traces = ""
    try:
        document = json.loads(ending.document)
        reports, traces = _read(plugin, document), _traces(document)
    except (ValueError, TypeError, KeyError, AttributeError):
        reports = (plugin.report(BackendState.FAILED, str(ending)),)
    if log_dir is None or not any(report.state is BackendState.FAILED for report in reports):
        return reports
    log_path = await asyncio.to_thread(write_log, log_dir, plugin.name, f"{traces}\n{ending.text}\n")
    return tuple(
        replace(report, log_path=log_path) if report.state is BackendState.FAILED else report for report in reports
    )


def _traces(document: Any) -> str:
    found = [document.get("traceback", ""), *(backend["traceback"] for backend in document.get("backends", ()))]
    return "\n".join(str(text) for text in found if text)


def write_log(folder: Path, name: str, text: str) -> str:
    """Write what a plugin said and where it failed, in place of the last time; the path, or "" where that cannot be."""
    path = folder / f"{quote(name, safe='')[:LOG_NAME_CHARACTERS]}.log"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        path.write_text(text.strip() + "\n", encoding="utf-8")
    except OSError:
        return ""
    return str(path)


def _read(plugin: Plugin, document: Any) -> tuple[BackendReport, ...]:
    """The reports in a child's document.

    Raises:
        ValueError, TypeError, KeyError, AttributeError: It is not a document of `inferd.plugin.probe`.
    """
    if "error" in document:
        return (plugin.report(BackendState.FAILED, document["error"]),)
    return tuple(_read_backend(plugin, backend) for backend in document["backends"])


def _read_backend(plugin: Plugin, backend: Any) -> BackendReport:
    fields = dict(backend["spec"])
    settings = tuple(Setting(**{**setting, "choices": tuple(setting["choices"])}) for setting in fields["settings"])
    supported = {kind: tuple(names) for kind, names in fields["supported"].items()}
    formats = tuple(fields["formats"])
    access = read_access(fields["access"])
    trains = {name: tuple(fields[name]) for name in ("trains", "trains_together")}
    read = {"formats": formats, "settings": settings, "supported": supported, "access": access, **trains}
    spec = BackendSpec(**{**fields, **read})
    fix = backend["fix"]
    if backend["missing"] and plugin.distribution:
        fix = f'pip install "{plugin.distribution}[{spec.extra}]"'
    return BackendReport(
        name=spec.name,
        state=BackendState[backend["state"]],
        why=backend["why"][:WHY_CHARACTERS],
        fix=fix,
        package=plugin.package,
        module=plugin.module,
        spec=spec,
        devices=tuple(DeviceInfo(**device) for device in backend["devices"]),
    )


def _distinct(reports: Sequence[BackendReport]) -> tuple[BackendReport, ...]:
    """Order by name; of several backends of one name, only the first by package can be used."""
    owners: dict[str, BackendReport] = {}
    kept: list[BackendReport] = []
    for report in sorted(reports, key=lambda r: (r.name, r.package, r.module)):
        owner = owners.setdefault(report.name, report) if report.spec else report
        kept.append(report if owner is report else _duplicate(report, owner))
    return tuple(kept)


def _duplicate(report: BackendReport, owner: BackendReport) -> BackendReport:
    why = f"{owner.package or owner.module} offers a backend {report.name!r} too, and comes first by name"
    return BackendReport(
        name=report.name,
        state=BackendState.FAILED,
        why=why,
        fix=f"pip uninstall {report.package.split(' ')[0]}" if report.package else "",
        package=report.package,
        module=report.module,
    )
