"""`inferd doctor`: what is missing, and the command that mends it."""

from __future__ import annotations

import os
import platform
import shutil
import sys
import tempfile
from importlib import metadata
from typing import TYPE_CHECKING, NamedTuple

import psutil
import typer

from inferd import __version__
from inferd.cli.amounts import size
from inferd.cli.catalogue import CATALOGUE
from inferd.cli.http import missing_packages
from inferd.cli.kernel import connected, reachable
from inferd.cli.plugins import find
from inferd.cli.ray_state import read_state
from inferd.cli.sandboxed import allowed
from inferd.plugin.registry import BackendReport, BackendState
from inferd.runtime.library import Library
from inferd.sandbox.state import SandboxLevel
from inferd_client.errors import NotLeaderError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from inferd.cli.output import Output
    from inferd.config import Settings

MIN_PYTHON = (3, 11)
LOW_DISK_BYTES = 1_000_000_000


class Check(NamedTuple):
    """What was looked at, what was found: "ok", "note" (works without it) or "broken", and the fix."""

    name: str
    result: str
    found: str
    fix: str = ""


def examine(output: Output, address: str, settings: Settings) -> None:
    """Look at all that inferd needs here; exit code 1 when something needed is broken."""
    checks = [
        *_programs(),
        *_backends(find(settings)),
        *_kernel(address),
        *(_folder(name, path) for name, path in (("data", settings.data_dir), ("state", settings.state_dir))),
        _disk(settings.data_dir),
        *_models(Library(settings.data_dir)),
        _machine(),
        _sandbox(settings),
        *_ray(settings.state_dir),
        _http(),
    ]
    broken = [check for check in checks if check.result == "broken"]
    if output.json:
        output.document({"ok": not broken, "checks": [check._asdict() for check in checks]})
    else:
        for check in checks:
            output.text(f"{check.result:<7}{check.name}: {check.found}")
            if check.fix:
                output.text(f"{'':<7}mend it with: {check.fix}")
    if broken:
        raise typer.Exit(1)


def _programs() -> Iterator[Check]:
    right = sys.version_info >= MIN_PYTHON
    fix = "" if right else "install Python 3.11 or newer and inferd into it"
    yield Check("inferd", "ok", f"{__version__} in {sys.prefix}")
    yield Check("python", "ok" if right else "broken", platform.python_version(), fix)
    for name in ("grpcio", "protobuf"):
        yield Check(name, "ok", metadata.version(name))


def _backends(reports: tuple[BackendReport, ...]) -> Iterator[Check]:
    ready = [report for report in reports if report.state is BackendState.READY]
    for report in reports:
        devices = ", ".join(f"{device.device_id} ({device.description})" for device in report.devices)
        result = "ok" if report in ready and not report.why else "note"
        log = report.log_path and f"log: {report.log_path}"
        found = "; ".join(part for part in (devices, report.why, log) if part)
        yield Check(f"backend {report.name}", result, f"{report.state.name} {found}", report.fix)
    if not ready:
        yield Check(
            "backends", "broken", "none is READY; no model can be loaded", f"{sys.executable} -m pip install inferd"
        )


def _kernel(address: str) -> Iterator[Check]:
    with connected(address) as client:
        try:
            answers = reachable(client)
        except NotLeaderError as error:
            yield Check("kernel", "note", error.message, "name the kernel that leads, or all of them: --address A,B")
            return
        if not answers:
            yield Check(
                "kernel", "note", f"none answers at {client.address}; `inferd run` starts a private one", "inferd serve"
            )
            return
        host, kept = client.get_host(), client.health("store")
    leads = f", leads with {len(host.standbys)} standing by" if host.standbys else ""
    yield Check("kernel", "ok", f"{host.version} answers at {client.address}, pid {host.pid}{leads}")
    if kept == "NOT_SERVING":
        fix = "see the kernel's log, and make room on its disk, or start its database"
        yield Check("store", "broken", "the kernel cannot write what it is to keep; new tasks are refused", fix)
    elif kept == "SERVING":
        yield Check("store", "ok", "the kernel keeps what is created")
    for each in host.standbys:
        found = f"process {each.pid} on {each.host} ({each.version}) at {' and '.join(each.addresses)} stands by"
        yield Check("standby", "ok", found)
    for warning in host.warnings:
        yield Check("kernel", "note", warning)
    for device in host.devices:
        if device.unmeasured:
            yield Check(f"device {device.device_id}", "note", f"what others hold is not seen: {device.unmeasured}")


def _folder(name: str, path: Path) -> Check:
    """Whether files can be made in `path`, or in the nearest folder above it that is there."""
    there = _existing(path)
    try:
        with tempfile.TemporaryFile(dir=there):
            return Check(f"{name} folder", "ok", str(path))
    except OSError as error:
        fix = f"export INFERD_{name.upper()}_DIR=… with a folder that you may write to"
        return Check(f"{name} folder", "broken", f"{path} cannot be written: {error.strerror}", fix)


def _disk(data_dir: Path) -> Check:
    free_bytes = shutil.disk_usage(_existing(data_dir)).free
    result = "note" if free_bytes < LOW_DISK_BYTES else "ok"
    return Check("disk", result, f"{size(free_bytes)} free for models")


def _models(library: Library) -> Iterator[Check]:
    manifests, example = library.manifests(), next(iter(CATALOGUE))
    if manifests:
        yield Check("models", "ok", ", ".join(manifest.name for manifest in manifests))
    else:
        yield Check("models", "note", "none is pulled", f"inferd pull {example}")
    for broken in library.broken():
        yield Check("models", "note", f"{broken.path.parent.name}: {broken.why}", f"rm -r {broken.path.parent}")


def _machine() -> Check:
    memory = psutil.virtual_memory()
    cores = len(os.sched_getaffinity(0))
    return Check("machine", "ok", f"{cores} cores, {size(memory.available)} of {size(memory.total)} memory available")


def _ray(folder: Path) -> Iterator[Check]:
    """The process beside a kernel of this machine that keeps agents on Ray, where there was one."""
    state = read_state(folder)
    if state is None:
        return
    if state.pid and not psutil.pid_exists(state.pid):
        yield Check("ray", "note", f"{state.cluster}: nothing keeps its agents any more", "inferd serve --hosts …")
        return
    yield Check("ray", "note" if state.troubles else "ok", f"{state.cluster}: {state.standing or 'no agent is kept'}")
    for trouble in state.troubles:
        yield Check("ray", "note", trouble)


def _http() -> Check:
    """Whether OpenAI's and Ollama's HTTP can be served."""
    if missing := missing_packages():
        found = f"{' and '.join(missing)} not installed: `inferd http` cannot serve OpenAI's and Ollama's HTTP"
        return Check("http", "note", found, f"{sys.executable} -m pip install 'inferd[http]'")
    return Check("http", "ok", "`inferd http` serves OpenAI's and Ollama's HTTP")


def _sandbox(settings: Settings) -> Check:
    """What keeps workers from all that is not their model's, as far as this machine allows it."""
    mode = settings.workers.sandbox
    if mode == "off":
        return Check("sandbox", "note", "workers.sandbox is off", "set workers.sandbox to auto")
    state = allowed(threads=settings.workers.sandbox_threads, memory_bytes=settings.workers.sandbox_memory_bytes)
    if state.level is SandboxLevel.FULL:
        return Check("sandbox", "ok", "workers get all of it here")
    found = f"{state}; workers.sandbox is {mode}"
    if mode == "require":
        return Check("sandbox", "broken", f"{found}, so that no model is loaded", "set workers.sandbox to auto")
    return Check("sandbox", "note", found)


def _existing(path: Path) -> Path:
    return path if path.is_dir() else next(above for above in path.absolute().parents if above.is_dir())
