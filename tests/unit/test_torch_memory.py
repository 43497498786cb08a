"""What is counted of memory before a load, against what torch takes."""

from collections.abc import Callable
from dataclasses import replace
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch", reason="torch is not installed: pip install 'inferd[torch]'")

import tiny_networks as tiny
import torch
from torch.profiler import ProfilerActivity, profile

from inferd.plugin import DeviceSampling
from inferd.plugin.backend import read_settings
from inferd_torch import attention, capacity
from inferd_torch.plan import Group
from inferd_torch.plugin import SPEC
from inferd_torch.sampling import choose
from inferd_torch.scoring import Scoring
from inferd_torch.tally import count_step, stand_in


def measure(compute: Callable[[], Any]) -> int:
    """The most that the allocator of the processor held at a time, over what it held before, in bytes."""
    compute()  # what is made once
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        compute()
    events = profiled.profiler.kineto_results.events()
    changes = [event.nbytes() for event in sorted(events, key=lambda e: e.start_ns()) if event.name() == "[memory]"]
    return max(accumulate(changes), default=0)


@pytest.mark.parametrize("kind", ["top_p", "top_k", "by_id"])
def test_drawing_takes_what_is_counted(kind: str) -> None:
    """With top-p, and without, drawing takes no more for each logit than the need of a model counts."""
    rows, size = 16, 5000
    ones = np.ones(rows)
    sampling = DeviceSampling(
        temperatures=ones, top_k=np.full(rows, 40 * (kind == "top_k")), top_p=ones * (0.9 if kind == "top_p" else 1.0),
        min_p=ones * 0.01, points=ones * 0.5,
    )  # fmt: skip
    logits = torch.randn(rows, size).bfloat16()
    taken = measure(lambda: choose(logits, sampling)) / logits.numel() - 4  # the logits as float32
    assert taken <= capacity.DRAWN_BYTES
    if kind == "top_p":
        assert taken > capacity.DRAWN_BYTES / 2


@pytest.mark.parametrize("name", ["llama", "qwen3_moe", "gemma3"])
def test_a_step_takes_what_is_counted_without_computing_it(name: str) -> None:
    """The bytes that a step is counted to take, on no device, are those that the allocator gives for it."""
    tokens, rows = 256, 8
    network = tiny.make_network(name).bfloat16()
    attention.register()
    network.set_attn_implementation(attention.NAME)
    ids, wanted = torch.zeros((1, tokens), dtype=torch.long), torch.arange(rows)
    attention.install(network, stand_in)

    def compute() -> None:
        with torch.inference_mode():
            network(input_ids=ids, position_ids=ids, use_cache=False, logits_to_keep=wanted)

    taken = measure(compute)
    counted = count_step(network.to("meta"), tokens=tokens, rows=rows)
    assert counted is not None
    assert 0.9 * taken <= counted <= 1.5 * taken


@pytest.mark.parametrize("special", [False, True])
def test_a_group_takes_what_is_counted(special: bool) -> None:  # noqa: FBT001 - a parameter of the test
    """A chunk of a prompt that gathers its keys takes no more than the need of a model counts for it."""
    rows, keys, heads, shared, width = 256, 4096, 32, 4, 16
    queries = torch.randn(1, rows, heads, width)
    own = [torch.randn(1, keys, shared, width) for _ in range(2)]
    scoring = Scoring(scaling=0.2, softcap=5.0) if special else Scoring(scaling=0.2)

    def compute() -> None:
        group = Group(
            rows=torch.arange(rows)[None], slots=torch.zeros((1, keys), dtype=torch.long),
            positions=torch.arange(keys - rows, keys)[None],
        )  # fmt: skip
        with torch.inference_mode():
            attention.attend_group(queries, *own, group, scoring=scoring)

    taken, counted = measure(compute), capacity.count_group(rows, keys, heads if special else 0)
    assert counted / 2 < taken <= counted


@pytest.mark.parametrize("room", [capacity.PROCESSOR, capacity.CUDA])
def test_a_default_pool_fits_beside_all_else(room: capacity.Room) -> None:
    """However much of a device the weights take, what is left is enough for the pool that is chosen, if for one."""
    sizes = capacity.Sizes(
        context_tokens=8192,
        weights_bytes=16 << 30,
        kv_token_bytes=147456,
        layer_token_bytes=4096,
        number_bytes=2,
        vocabulary_size=1000,
        width=64,
        step_bytes=1 << 30,
    )
    settings = read_settings(SPEC, {})
    step_tokens, most = capacity.choose_step(settings, room)
    taken = capacity.derive_workspace(sizes, room=room, step_tokens=step_tokens, max_sequences=most)
    for spare in range(10 << 20, 200 << 20, (3 << 20) + 1):
        given = sizes.weights_bytes + taken + spare
        limits = capacity.derive_limits(
            Path("model"), settings, sizes, room=room, capacity_bytes=given, workspace_bytes=taken
        )
        need = capacity.derive_need(sizes, limits, room=replace(room, gathers=False))
        capacity.check_need(Path("model"), need, limits, capacity_bytes=given)
