"""Random schedules over the cpu backend: what the fake backend proves exactly, with real arithmetic.

Products of matrices round differently in batches of different shapes, so that logits differ in their last bits. Where
the two best logits are nearer than `NEAR`, either token is right; from there on the outputs are different texts.
The models are those of the tiny ones whose outputs do not repeat one token: their output and input matrices differ.
The native session gives the same bits in any batch: there every token must be equal.
"""

import tempfile
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import tiny_models as tiny
from amounts import examples
from beats import Engine, Task, greedy
from hypothesis import given, settings
from hypothesis import strategies as st

from inferd.engine.token.limits import EngineLimits
from inferd.plugin import LoadedModel, LoadRequest
from inferd.plugin.backend import read_settings
from inferd.sampling import Sampling
from inferd.testing.batches import Part, compute
from inferd.testing.fake import VOCABULARY
from inferd_cpu.backend import CpuBackend
from inferd_cpu.native import LIBRARY
from inferd_cpu.plugin import inferd_backends

NEAR = 1e-4
LARGE = 4096  # tokens: where windows save something
NATIVE = "native"  # a model of widths that the native session takes
WINDOWS = "windows"  # fp32, with a window in two of three layers
NATIVE_WINDOWS = "native windows"
LONG = "long"  # fp32, sequences of more than 30 tokens rotate in another way
NATIVE_LONG = "native long"
ON_NATIVE = {NATIVE, NATIVE_WINDOWS, NATIVE_LONG}
NAMES = ["llama_linear", "qwen3", WINDOWS, LONG, *(sorted(ON_NATIVE) if LIBRARY.exists() else [])]
BORDER = 30
WINDOW = {"llama.attention.sliding_window": 20, "llama.attention.sliding_window_pattern": [True, False, True]}
FACTORS = {
    f"rope_factors_{which}.weight": (1 + step * np.arange(tiny.HEAD_WIDTH // 2)).astype(np.float32)
    for which, step in (("short", 0.1), ("long", 2.0))
}
BEGINNING = tuple(tiny.PROMPT)  # 40 tokens

tasks = st.builds(
    lambda begin, rest, output, cache: greedy((*BEGINNING[:begin], *rest), max_tokens=output, prefix_cache=cache),
    st.sampled_from([0, 0, 17, 33, 40]),
    st.lists(st.integers(0, tiny.VOCABULARY_SIZE - 1), min_size=1, max_size=12).map(tuple),
    st.integers(1, 24),
    st.sampled_from([True, True, False]),
)
kinds = st.sampled_from(["submit", "submit", "step", "step", "step", "preempt"])
events = st.lists(st.tuples(kinds, st.integers(0, 99)), min_size=20, max_size=80)


@cache
def load(name: str, *, kv_tokens: int, step_tokens: int) -> LoadedModel:
    (spec,) = inferd_backends()
    room = {"kv_tokens": str(kv_tokens), "max_step_tokens": str(step_tokens)}
    native, windows, long = name in ON_NATIVE, name in {WINDOWS, NATIVE_WINDOWS}, name in {LONG, NATIVE_LONG}
    room |= {"compute": "native" if native else "exact", "max_sequences": "8" if windows else "64"}
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        if native:
            patch.setattr(tiny, "WIDTH", 64)
            patch.setattr(tiny, "HIDDEN", 96)
        kind = "llama_linear" if windows or long else "qwen3" if native else name
        more = WINDOW if windows else {"llama.rope.scaling.original_context_length": BORDER} if long else None
        path = tiny.write_model(tiny.MODELS[kind], Path(folder) / "tiny.gguf", more, tensors=FACTORS if long else None)
        request = LoadRequest(path=path, device="cpu:0", settings=read_settings(spec, room), capacity_bytes=1 << 30)
        model = CpuBackend().load(request, lambda _: None)
    assert model.session.limits.border_tokens == (BORDER if long else 0)
    assert (model.session.limits.window_blocks > 0) == (windows and kv_tokens == LARGE)
    # The file's own tokens are no byte-level alphabet, which a tokenizer needs; here nothing is tokenised.
    size = tiny.VOCABULARY_SIZE
    return replace(
        model,
        vocabulary=replace(VOCABULARY, tokens=VOCABULARY.tokens[:size], kinds=VOCABULARY.kinds[:size], eos_ids=()),
    )


@cache
def alone(name: str, prompt: tuple[int, ...], sampling: Sampling) -> list[int]:
    """The output of a task that has an engine for itself."""
    engine = Engine(load(name, kv_tokens=LARGE, step_tokens=256))
    engine.submit(0, Task(prompt=prompt, sampling=sampling, prefix_cache=False))
    engine.finish()
    return engine.outputs[0, 0]


def gap(name: str, tokens: tuple[int, ...]) -> float:
    """How far the two best logits behind these tokens are from each other."""
    session = load(name, kv_tokens=LARGE, step_tokens=256).session
    blocks = range(-(-len(tokens) // session.limits.block_tokens))
    logits = np.sort(compute(session, Part(token_ids=tokens, blocks=blocks, wanted=[len(tokens) - 1]))[0][0])
    return float(logits[-1] - logits[-2])


def check(name: str, task: Task, tokens: list[int]) -> None:
    """The tokens are those of a run alone, up to the first near tie."""
    whole = alone(name, task.prompt, task.sampling)
    assert len(tokens) == len(whole)
    for place, (one, other) in enumerate(zip(tokens, whole, strict=True)):
        if one != other:
            assert name not in ON_NATIVE
            assert gap(name, (*task.prompt, *whole[:place])) < NEAR
            return


@settings(max_examples=examples(8), deadline=None)
@given(
    name=st.sampled_from(NAMES),
    some=st.lists(tasks, min_size=6, max_size=64),
    kv_tokens=st.sampled_from([128, LARGE]),
    step_tokens=st.sampled_from([24, 256]),
    drafts=st.sampled_from([0, 4, 8]),
    events=events,
)
def test_batch_invariance(  # noqa: PLR0917 - hypothesis gives them by name
    name: str, some: list[Task], kv_tokens: int, step_tokens: int, drafts: int, events: list[tuple[str, int]]
) -> None:
    """Alone, batched, in chunks, preempted and resumed, from the prefix cache, with drafts: the same greedy output."""
    engine = Engine(load(name, kv_tokens=kv_tokens, step_tokens=step_tokens), EngineLimits(draft_tokens=drafts))
    engine.play(some, events)
    for handle, task in enumerate(some):
        check(name, task, engine.outputs[handle, 0])


@pytest.mark.parametrize("name", [name for name in NAMES[1:] if name not in {WINDOWS, NATIVE_WINDOWS}])
def test_64_ragged_sequences(name: str) -> None:
    """64 sequences in a pool that holds a few of them, some with a common beginning: as each alone."""
    some = [
        greedy((*BEGINNING[: place % 41], place % tiny.VOCABULARY_SIZE), max_tokens=1 + 3 * (place % 16))
        for place in range(64)
    ]
    engine = Engine(load(name, kv_tokens=512, step_tokens=128))
    for handle, task in enumerate(some):
        engine.submit(handle, task)
    engine.finish()
    assert engine.places.preempted > 0
    assert any(ended.usage.cached_tokens for ended in engine.ended.values())
    for handle, task in enumerate(some):
        check(name, task, engine.outputs[handle, 0])
