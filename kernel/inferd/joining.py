"""How other hosts join a kernel, by its settings."""

from inferd.config import Settings
from inferd.runtime.driver import Driver
from inferd.runtime.driver_limits import sandbox_limits
from inferd.runtime.far.hosts import FarHosts, link_bounds
from inferd.runtime.far.identities import Identities
from inferd.runtime.front.agents import Agents
from inferd.runtime.front.authority import Authority


def let_join(settings: Settings, driver: Driver, authority: Authority) -> Agents:
    """What agents of other hosts may ask of a kernel."""
    limits = settings.limits
    bounds = link_bounds(
        settings.hosts,
        message_bytes=limits.message_bytes,
        frame_bytes=limits.frame_limit_bytes,
        sandbox=sandbox_limits(settings),
    )
    hosts = FarHosts(
        settings.hosts,
        bounds,
        teller=driver,
        launchers=driver.supervisor.launchers,
        known=driver.machine.hosts.known,
        accounts=driver.views.devices,
        identities=Identities(driver.views, driver.engine_limits),
        # A single kernel's goes by the clock of its machine, which may be set back.
        epoch=lambda: 0 if driver.keeper is None or driver.keeper.leadership is None else driver.clock.epoch,
    )
    return Agents(hosts, authority.keyring, authority.auth, settings.hosts, views=driver.views)
