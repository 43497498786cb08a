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
from inferd_torch.packed.rounded import CAPABILITY, NarrowProduct, round_rows

GROUP = 128
MOST_AWAY = 0.1


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
    product: Any = multiply
    narrow: Any = NarrowProduct()
    if not run.dry:
        from inferd_torch.packed import rounded_kernels
        from inferd_torch.packed.kernels import TritonProduct

        card = torch.cuda.get_device_properties(0)
        product = TritonProduct(card.multi_processor_count)
        wide = rounded_kernels.WideProduct(card.multi_processor_count)
        narrow = NarrowProduct(rounded_kernels.round_rows, wide) if card.major >= CAPABILITY else wide
    numbers, factors = round_rows(weight)
    for rows in (1, 3) if run.dry else (1, 16, 64, 512, 2048):
        own = torch.randn((rows, inputs), device=run.device, dtype=kind)
        packed_ms = median(gpu_models.timed_ms(run, partial(product, own, words, scales, None, None, group=GROUP)))
        plain_ms = median(gpu_models.timed_ms(run, partial(linear, own, weight)))
        read = (words.nbytes + scales.nbytes) / packed_ms / 1e6 / limits["read"][0]
        made = 2 * rows * inputs * outputs / packed_ms / 1e9 / limits["product"][0]
        yield figure(f"packed.product.b{rows}.ms", packed_ms, "ms", f"bfloat16 {plain_ms:.3g} ms")
        yield figure(f"packed.product.b{rows}.of_limit", max(read, made), "of reading or of products")
        call = partial(narrow, own, numbers, factors[:, 0], None)
        rounded_ms = median(gpu_models.timed_ms(run, call))
        yield figure(f"rounded.product.b{rows}.ms", rounded_ms, "ms", f"{numbers.nbytes / rounded_ms / 1e6:.0f} GB/s")
        whole = linear(own, weight)
        away = float((call() - whole).abs().max() / whole.abs().max())
        yield figure(f"rounded.product.b{rows}.away", away, "of the largest number")
        if away > MOST_AWAY:
            yield {"event": "failed", "detail": f"a product of fp8 is {away:.3g} from that of {kind}"}
