"""The Triton kernels against what states them in torch, run by Triton's interpreter on the processor."""

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

pytest.importorskip("torch", reason="torch is not installed: pip install 'inferd[torch]'")

TWINS = Path(__file__).parents[1] / "gpu" / "kernel_twins.py"
KERNELS = ("decode", "prefill", "norm", "rotate", "gate", "packed", "rounded", "rounds", "draw")


@pytest.mark.skipif(find_spec("triton") is None, reason="triton is not installed: it comes with CUDA builds of torch")
def test_the_kernels_compute_what_their_twins_do() -> None:
    """Each kernel, for odd sizes, windows, caps, sinks and norms, gives what its twin in torch gives."""
    done = subprocess.run(
        [sys.executable, TWINS, "cpu"],
        env={**os.environ, "TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=110,
    )
    assert done.returncode == 0, done.stderr
    told = [line.split() for line in done.stdout.splitlines()]
    assert {name for name, *_ in told} == set(KERNELS)
    assert all(float(line[1]) < 1e-4 for line in told), done.stdout


@pytest.mark.skipif(find_spec("triton") is None, reason="triton is not installed: it comes with CUDA builds of torch")
def test_numbers_that_change_make_no_variants() -> None:
    """No kernel is specialised on a whole number, nor on where an index lies: each is compiled once for a shape."""
    from inferd_torch import draw_kernels, fused_kernels, paged_decode, paged_prefill  # noqa: PLC0415 - imports triton
    from inferd_torch.packed import kernels as packed  # noqa: PLC0415 - as above
    from inferd_torch.packed import rounded_kernels  # noqa: PLC0415 - as above

    kernels = [paged_decode._attend_part, paged_decode._combine, paged_prefill._attend_tile, fused_kernels._rotate]
    kernels += [packed._multiply, packed._sum, rounded_kernels._widen, draw_kernels._draw]
    numbers = {"table_stride", "parts", "window", "rows", "stride"}
    indices = {"tables", "lengths", "tiles", "slots", "positions", "table", "tokens"}
    for kernel in kernels:
        changing = {each.name: each for each in kernel.params if not each.is_constexpr}
        assert changing.keys() & (numbers | indices)
        assert all(changing[name].do_not_specialize for name in changing.keys() & numbers)
        assert all(changing[name].do_not_specialize_on_alignment for name in changing.keys() & indices)
