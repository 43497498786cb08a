"""Weights of few bits on a device: folders as programs write them, and products beside the limits of the device."""

import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import gpu_models
import torch
from gpu_phases import Figure, figure
from torch.nn.functional import linear

from inferd_torch.packed import layouts
from inferd_torch.packed.linear import multiply

GROUP = 128


def compare_folders(run: Any) -> Iterator[Figure]:
    """Greedy tokens of each kind of folder, beside those of transformers with the weights worked out by numpy."""
    import packed_folders

    for kind in ("gptq_order", "awq") if run.dry else packed_folders.KINDS:
        with tempfile.TemporaryDirectory() as folder:
            network = packed_folders.write_packed(kind, Path(folder), "llama")
            session = gpu_models.load_folder(Path(folder), run.device)
        same, margin = gpu_models.compare_tokens(session, network, run)
        session.close()
        yield figure(f"packed.{kind}", same, "of tokens", f"least margin where they part {margin:.2g}")


def measure_products(run: Any) -> Iterator[Figure]:
    """A product of the widest layer of an 8B network, beside the same in bfloat16, for few and for many rows."""
    limits = gpu_models.measure_limits(run)
    inputs, outputs = (512, 96) if run.dry else (4096, 28672)
    kind = torch.float32 if run.dry else torch.bfloat16
    words = layouts.pack_runs(torch.randint(0, 16, (outputs, inputs), dtype=torch.uint8)).to(run.device)
    scales = torch.rand((outputs, inputs // GROUP), device=run.device).half()
    weight = torch.randn((outputs, inputs), device=run.device, dtype=kind)
    product = multiply
    if not run.dry:
        from inferd_torch.packed.kernels import TritonProduct

        product = TritonProduct(torch.cuda.get_device_properties(0).multi_processor_count)
    for rows in (1, 3) if run.dry else (1, 16, 64, 512, 2048):
        own = torch.randn((rows, inputs), device=run.device, dtype=kind)
        packed_ms = median(gpu_models.timed_ms(run, partial(product, own, words, scales, None, None, group=GROUP)))
        plain_ms = median(gpu_models.timed_ms(run, partial(linear, own, weight)))
        read = (words.nbytes + scales.nbytes) / packed_ms / 1e6 / limits["read"][0]
        made = 2 * rows * inputs * outputs / packed_ms / 1e9 / limits["product"][0]
        yield figure(f"packed.product.b{rows}.ms", packed_ms, "ms", f"bfloat16 {plain_ms:.3g} ms")
        yield figure(f"packed.product.b{rows}.of_limit", max(read, made), "of reading or of products")
