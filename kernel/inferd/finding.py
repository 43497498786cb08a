"""What a kernel finds on its host: plugins, devices with what other programs hold of them, and models in a folder."""

import asyncio
from collections.abc import Mapping, Sequence
from hashlib import sha256

from inferd import __version__
from inferd.config import Settings
from inferd.core.events import HostJoined
from inferd.core.function import CallLimits
from inferd.core.host import HostBackend, HostFacts
from inferd.core.ids import DeviceId
from inferd.core.program import BACKEND as MODEL_PY
from inferd.core.resources import HOST_DEVICE
from inferd.folders import config_path
from inferd.model_settings import Watching
from inferd.plugin.host import count_cores
from inferd.plugin.registry import BackendReport, BackendState
from inferd.runtime.baselines import Baseline, as_before
from inferd.runtime.declaring import Declarations
from inferd.runtime.devices import DeviceMeter, find_devices
from inferd.runtime.driver import Driver
from inferd.runtime.fetching import Fetches
from inferd.runtime.functions import BACKEND, Functions
from inferd.runtime.library import Library
from inferd.runtime.plugins import Plugins, where_plugins_are
from inferd.runtime.repository import Repository
from inferd.runtime.repository_files import OverrideFiles
from inferd.runtime.shelf import Shelf
from inferd.runtime.watched import Watched
from inferd.services.declared_terms import DeclaredTerms
from inferd.services.inference.agreement import verify

TRIED = ("inferd_programs.plugin",)  # where what models write as programs is tried
KERNELS = ("asks_in_flight", "memos", "memo_bytes")  # of functions, what their workers need not know
MOST_CALLS = 4  # of a package at once, where the configuration does not say


def found_meter(
    settings: Settings, driver: Driver, reports: tuple[BackendReport, ...], before: Mapping[DeviceId, Baseline]
) -> DeviceMeter:
    """Measures what other programs hold of the devices; some are as they were `before`."""
    devices, kept = driver.views.devices, driver.prefixes
    return DeviceMeter(
        reports,
        settings.devices,
        pids=driver.supervisor.pids,
        leased_bytes=lambda name: devices[name].lease_bytes - devices[name].drawn_bytes + kept.held_on(name),
        instance_bytes=lambda name: devices[name].instance_bytes + devices[name].drawn_bytes,
        tell=driver.measure_foreign,
        before={name: baseline.start_bytes for name, baseline in before.items()},
    )


def found_plugins(
    settings: Settings, driver: Driver, before: Mapping[DeviceId, Baseline], ahead: Plugins | None = None
) -> Plugins:
    """The plugins, whose devices the core hears of when they are found first; some have what they had `before`.

    They may have been looked for `ahead`.
    """

    async def tell(reports: tuple[BackendReport, ...]) -> None:
        found = await asyncio.to_thread(find_devices, reports, settings.devices)
        known = driver.views.devices
        fresh = (device for device in found if device.device_id not in known)
        own = tuple(as_before(device, before, settings.devices.memory_bytes) for device in fresh)
        driver.tell_host(HostJoined(own, facts=own_facts(reports, settings.hosts.labels)))

    plugins = Plugins(**where_plugins_are(settings), found=tell, elsewhere=driver.views.backends)
    leadership = None if driver.keeper is None else driver.keeper.leadership
    plugins.follow((leadership and leadership.plugins) or ahead)
    return plugins


def own_facts(reports: Sequence[BackendReport], labels: Mapping[str, str]) -> HostFacts:
    """What the kernel says of its own host: labels, its version, and the backends that work there."""
    ready = [report for report in reports if report.state is BackendState.READY]
    backends = (HostBackend(name=each.name, devices=tuple(d.device_id for d in each.devices)) for each in ready)
    own = (HostBackend(name=name, devices=(HOST_DEVICE,)) for name in (BACKEND, MODEL_PY))
    return HostFacts(labels=labels, version=__version__, backends=(*backends, *own))


def watched_folder(settings: Watching, driver: Driver, plugins: Plugins, declarations: Declarations) -> Watched | None:
    """Has models be what is in a folder; None where none is named."""
    if settings.folder is None:
        return None
    return Watched(settings.folder, settings.poll_s, driver=driver, plugins=plugins, declarations=declarations)


def model_repository(
    settings: Settings, driver: Driver, plugins: Plugins, declarations: Declarations
) -> Repository | None:
    """Has models be what a repository holds; None where none is named."""
    if settings.repository.folder is None:
        return None
    return Repository(
        settings.repository,
        driver=driver,
        plugins=plugins,
        declarations=declarations,
        verify=verify,
        overrides=OverrideFiles(settings.state_dir / "repository"),
    )


def found_shelf(settings: Settings, driver: Driver, plugins: Plugins) -> Shelf:
    """Where models come from: the library, what the configuration declares, and what is fetched from elsewhere.

    The last has a folder of this kernel's own, whoever else has the same `data_dir`.
    """
    own = sha256(str(settings.state_dir.absolute()).encode()).hexdigest()[:16]
    fetches = Fetches(settings.sources, settings.data_dir / "fetched" / own, driver.watchers.models.notify)
    declarations = Declarations(str(config_path()), settings.models, DeclaredTerms(driver.loading.limits))
    functions = _found_functions(settings, driver)
    return Shelf(Library(settings.data_dir), plugins, driver, declarations, fetches, functions=functions)


def _found_functions(settings: Settings, driver: Driver) -> Functions:
    """Functions of packages, which are looked for when the first one is asked for."""
    chosen = settings.functions
    bounds = chosen.model_dump(exclude={"packages", "modules", "network", "files", "calls", "piece_bytes", *KERNELS})
    limits = CallLimits(
        calls=chosen.calls or min(MOST_CALLS, count_cores()),
        piece_bytes=min(chosen.piece_bytes, settings.limits.text_bytes),
        array_bytes=settings.limits.text_bytes,
        files={name: str(path.expanduser().absolute()) for name, path in chosen.files.items()},
        **bounds,
    )
    return Functions(
        driver,
        limits,
        allow=chosen.packages,
        modules=(*chosen.modules, *(TRIED if settings.evaluate.code else ())),
        timeout_s=settings.plugin_timeout_s,
        log_dir=settings.state_dir / "plugins",
        network=chosen.network,
    )
