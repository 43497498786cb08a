"""What a model and the one that guesses for it take of a device together."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from inferd.core.resources import MemoryNeed
from inferd.plugin import LoadRequest, measure_both
from inferd.plugin.backend import read_settings
from inferd.plugin.drafting import load_both

pytest.importorskip("torch", reason="torch is not installed: pip install 'inferd[torch]'")
from inferd_torch import capacity
from inferd_torch.plugin import SPEC

GIB = 1 << 30
LARGE = capacity.Sizes(
    context_tokens=40960,
    weights_bytes=16 * GIB,
    kv_token_bytes=147456,
    layer_token_bytes=4096,
    number_bytes=2,
    vocabulary_size=151936,
    width=4096,
    step_bytes=GIB,
)
SMALL = replace(LARGE, weights_bytes=GIB, kv_token_bytes=114688, width=1024, step_bytes=GIB // 2)


def measure(request: LoadRequest) -> MemoryNeed:
    """As on CUDA."""
    sizes = SMALL if request.path.name == "small" else LARGE
    step_tokens, most = capacity.choose_step(request.settings, capacity.CUDA)
    taken = capacity.derive_workspace(sizes, room=capacity.CUDA, step_tokens=step_tokens, max_sequences=most)
    given: Any = {"room": capacity.CUDA, "capacity_bytes": request.capacity_bytes, "workspace_bytes": taken}
    return capacity.derive_need(
        sizes, capacity.derive_limits(request.path, request.settings, sizes, **given), room=capacity.CUDA
    )


def make(capacity_bytes: int, **settings: str) -> LoadRequest:
    given = read_settings(SPEC, {"draft": "/small", **settings})
    return LoadRequest(path=Path("/large"), device="cuda:0", settings=given, capacity_bytes=capacity_bytes)


@pytest.mark.parametrize(("gib", "settings"), [(24, {}), (40, {}), (24, {"kv_tokens": "16384"}), (80, {})])
def test_a_model_fits_beside_the_one_that_guesses(gib: int, settings: dict[str, str]) -> None:
    """Where both would fit with smaller pools they have smaller ones, each enough for some sequences."""
    request = make(gib * GIB, **settings)
    need = measure_both(request, SPEC, measure)
    assert need.total_bytes <= request.capacity_bytes
    asked: list[LoadRequest] = []

    class EnoughError(Exception):
        """Both were asked for."""

    def load(each: LoadRequest, _: Any) -> Any:
        asked.append(each)
        if len(asked) == 2:
            raise EnoughError
        return _Loaded()

    with pytest.raises(EnoughError):
        load_both(request, SPEC, measure, load, lambda _: None)
    each = [measure(one) for one in asked]
    assert all(found.total_bytes <= one.capacity_bytes for found, one in zip(each, asked, strict=True))
    assert sum(found.total_bytes for found in each) == need.total_bytes
    assert all(found.kv_bytes >= 8192 * 114688 for found in each)


class _Loaded:
    """What was loaded first."""

    @property
    def session(self) -> "_Loaded":
        return self

    def close(self) -> None:
        """It has nothing."""
