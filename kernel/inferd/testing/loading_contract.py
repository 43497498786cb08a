"""What every backend must do when it is probed, asked what a model needs, and loads it; for pytest.

Derive from `BackendContract` for language models, from `TensorContract` for models of tensors.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from inferd.core.resources import HOST_DEVICE
from inferd.plugin import Backend, LoadError, LoadRequest
from inferd.plugin.checks import check_backend, check_model, check_need, check_probe
from inferd.testing.growth import measure_growth

MORE_THAN_MEASURED = 1.15  # most that a load may take, as a part of what was measured
NOISE_BYTES = 32 << 20  # by which the resident memory of a process differs from one run to the next


class LoadingContract:
    """The part of the suites that is the same for all sessions.

    The fixtures `backend` and `load_request` come from the file of the subclass, with class scope or wider.
    """

    @pytest.fixture(scope="class")
    @classmethod
    def progress(cls) -> list[float]:
        """What the load reported, in order."""
        return []

    @pytest.fixture(scope="class")
    @classmethod
    def model(cls, backend: Backend, load_request: LoadRequest, progress: list[float]) -> Any:
        """The loaded model."""
        model = check_model(backend.load(load_request, progress.append))
        yield model
        model.session.close()

    def test_probe_finds_devices(self, backend: Backend, load_request: LoadRequest) -> None:
        """Probing finds at least one device with memory, and the one to load on is among those found."""
        check_backend(backend, type(backend).__qualname__)
        devices = check_probe(backend.probe()).devices
        expect(
            load_request.device in [d.device_id for d in devices],
            f"Backend.probe found {devices}, {load_request.device} not",
        )
        expect(all(d.memory_bytes > 0 for d in devices), f"Backend.probe found a device without memory: {devices}")

    @pytest.mark.usefixtures("model")
    def test_measures_the_same_again(self, backend: Backend, load_request: LoadRequest) -> None:
        """What a model needs is told without loading it, and is the same whatever is loaded meanwhile."""
        need = check_need(backend.measure(load_request))
        expect(need.total_bytes > 0, "Backend.measure says that the model needs no memory at all")
        again = backend.measure(replace(load_request, settings=dict(load_request.settings)))
        expect(again == need, f"Backend.measure gave {need}, and {again} when it was asked again")

    def test_takes_no_more_than_measured(self, backend: Backend, load_request: LoadRequest) -> None:
        """On the processor, a fresh process does not grow by more than the need and 15 % when it loads the model."""
        if load_request.device != HOST_DEVICE:
            pytest.skip(f"what it takes of {load_request.device} is not seen from outside")
        growth = measure_growth(backend, load_request)
        bound = growth.need.total_bytes * MORE_THAN_MEASURED + NOISE_BYTES
        expect(
            growth.grown_bytes <= bound,
            f"Backend.load took {growth.grown_bytes} bytes; Backend.measure gave {growth.need}",
        )

    @pytest.mark.usefixtures("model")
    def test_progress_rises_to_one(self, progress: list[float]) -> None:
        """Loading reports rising fractions from 0 to 1, and 1 at the end."""
        expect(progress != [], "Backend.load never calls progress")
        expect(
            progress == sorted(progress) and progress[0] >= 0,
            f"the progress of Backend.load does not rise from 0: {progress}",
        )
        expect(progress[-1] == 1, f"the progress of Backend.load ends with {progress[-1]}, not with 1")

    @pytest.mark.parametrize("contents", [None, b"", b"\x00\xff no model \xfe" * 9])
    def test_what_is_no_model_is_a_load_error(
        self, backend: Backend, load_request: LoadRequest, tmp_path: Path, contents: bytes | None
    ) -> None:
        """A file that is missing, empty or of something else is a `LoadError` with a message."""
        path = tmp_path / f"wrong{load_request.path.suffix}"
        if contents is not None:
            path.write_bytes(contents)
        request = replace(load_request, path=path)
        with refused("Backend.measure", "a file that is no model", LoadError):
            backend.measure(request)
        with refused("Backend.load", "a file that is no model", LoadError):
            backend.load(request, lambda _: None)


def expect(condition: bool, otherwise: str) -> None:  # noqa: FBT001 - reads like assert, which is not for shipped code
    """Fail the check that runs, with `otherwise`, unless a condition holds."""
    if not condition:
        pytest.fail(otherwise)


@contextmanager
def refused(method: str, what: str, kind: type[Exception] = Exception) -> Iterator[None]:
    """The block must raise an error of a kind, with a message; by default any."""
    try:
        yield
    except kind as error:
        expect(kind is Exception or any(map(str.isalnum, str(error))), f"{method} raised {error!r} without a message")
    except Exception as error:  # noqa: BLE001 - whatever it is, it is told
        pytest.fail(f"{method} raised {type(error).__name__} for {what}; it must raise {kind.__name__}: {error}")
    else:
        pytest.fail(f"{method} raised nothing for {what}; it must raise {kind.__name__}")
