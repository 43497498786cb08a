"""The fake backend on a host with two devices; enabled by the setting `plugin_modules=["inferd.testing.pair"]`."""

from collections.abc import Iterable
from dataclasses import replace
from typing import Final

from inferd.plugin import BackendSpec, DeviceInfo, LoadedModel, LoadedTensorModel, LoadRequest, Probe, hookimpl
from inferd.plugin.backend import ReportProgress
from inferd.plugin.ranks import Seat, open_ranks
from inferd.testing.fake import FakeBackend
from inferd.testing.plugin import FAKE

PAIR_PLUGIN: Final = "inferd.testing.pair"


class PairBackend(FakeBackend):
    """As `FakeBackend`, with a second device that is like the first one, and one of another kind; it spans both."""

    def probe(self) -> Probe:
        """Three devices."""
        names = ("fake:0", "fake:1", "slow:0")
        return Probe(
            devices=tuple(DeviceInfo(device_id=n, description="none", memory_bytes=1 << 30, cores=1) for n in names)
        )

    def load(self, request: LoadRequest, progress: ReportProgress) -> LoadedModel | LoadedTensorModel:
        """As `FakeBackend`, with the other ranks there, which do nothing.

        Raises:
            LoadError: As there.
        """
        model = super().load(request, progress)
        if request.ranks:
            open_ranks(f"{PAIR_PLUGIN}:PairBackend", len(request.ranks)).arm()
        return model

    def join(self, seat: Seat) -> None:
        """Be there until rank 0 is gone."""
        while True:
            seat.channel.receive()


@hookimpl
def inferd_backends() -> Iterable[BackendSpec]:
    """The fake backend with two devices, in place of the one with one."""
    return (replace(FAKE, loader=f"{PAIR_PLUGIN}:PairBackend", spans=True),)
