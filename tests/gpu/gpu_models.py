"""Networks for the hour on a GPU, made on the device, and what is compared with what."""

import gc
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from transformers import AutoModelForCausalLM, LlamaConfig

from inferd.plugin import DeviceSampling, LoadRequest, TokenBatch, TokenLimits
from inferd.plugin.backend import read_settings
from inferd.testing.batches import Part, compute, make_batch
from inferd_torch import attention, loading
from inferd_torch.backend import TorchBackend
from inferd_torch.capacity import CUDA, Sizes, count_recordings, derive_need
from inferd_torch.cuda_graphs import compute_filled, compute_recorded
from inferd_torch.decode_inputs import DecodeInputs
from inferd_torch.fused import TorchSteps, fuse
from inferd_torch.plugin import SPEC
from inferd_torch.pool import LayerShape
from inferd_torch.sampling import Draw, choose, draw_sorted
from inferd_torch.session import TorchSession
from inferd_torch.spans import attend_spans
from inferd_torch.split import attend_split
from inferd_torch.step_inputs import StepInputs
from inferd_torch.tally import count_step

COMMON: dict[str, Any] = {"rope_parameters": {"rope_type": "default", "rope_theta": 500000.0}, "rms_norm_eps": 1e-5}
SHAPES: dict[str, dict[str, Any]] = {
    "1b": {
        **COMMON,
        "vocab_size": 128256,
        "hidden_size": 2048,
        "intermediate_size": 8192,
        "num_hidden_layers": 16,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "tie_word_embeddings": True,
    },
    "8b": {
        **COMMON,
        "vocab_size": 128256,
        "hidden_size": 4096,
        "intermediate_size": 14336,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "tie_word_embeddings": False,
    },
}
TINY = {
    "vocab_size": 320,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}
GREEDY_TOKENS, PROMPTS = 24, 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Made:
    """A network with a session.

    Attributes:
        network: Of transformers.
        session: With its pool filled with random numbers.
        config: Of the network.
        read_bytes: What a decode step must read of weights: all but an embedding that is no head.
        layer_numbers: Weights of the layers alone.
        kv_token_bytes: Keys and values of a token.
        need_bytes: What the session was counted to take.
    """

    network: Any
    session: TorchSession
    config: Any
    read_bytes: int
    layer_numbers: int
    kv_token_bytes: int
    need_bytes: int


def give_back(run: Any) -> None:
    """Have the device get back what nothing holds any more."""
    gc.collect()  # networks are full of cycles
    if not run.dry:
        torch.cuda.empty_cache()
        torch.cuda.set_per_process_memory_fraction(1.0)  # what was loaded before is bound to its need


def make_network(name: str, run: Any) -> Any:
    """A network of a shape with random weights, in bfloat16 on a device and float32 on the processor."""
    give_back(run)
    attention.register()
    config = LlamaConfig(**(SHAPES[name] | (TINY if run.dry else {})), max_position_embeddings=16384)
    torch.manual_seed(7)
    kind = torch.float32 if run.dry else torch.bfloat16
    with torch.device(run.device):
        return AutoModelForCausalLM.from_config(config, attn_implementation=attention.NAME, dtype=kind).eval()


def make_session(name: str, run: Any, *, kv_tokens: int, max_sequences: int) -> Made:
    """A session as a load makes it, but for the files."""
    network = make_network(name, run)
    config, kind = network.config, network.dtype
    shape = LayerShape(heads=config.num_key_value_heads, key_width=config.head_dim, value_width=config.head_dim)
    shapes = [shape] * config.num_hidden_layers
    windows = dict.fromkeys(range(config.num_hidden_layers))
    limits = TokenLimits(
        vocabulary_size=config.vocab_size,
        context_tokens=min(kv_tokens, 8448),
        block_tokens=16,
        blocks=kv_tokens // 16,
        max_sequences=max_sequences,
        max_step_tokens=64 if run.dry else CUDA.step_tokens,
        embedding_size=config.hidden_size,
        samples=True,
        mixes=True,
        ahead=True,
    )
    weights = {id(each): each for each in network.parameters()}.values()
    with torch.device("meta"):
        skeleton = AutoModelForCausalLM.from_config(config, attn_implementation=attention.NAME, dtype=kind).eval()
    sizes = Sizes(
        context_tokens=limits.context_tokens,
        weights_bytes=sum(each.nbytes for each in weights),
        kv_token_bytes=shape.numbers * len(shapes) * kind.itemsize,
        layer_token_bytes=shape.numbers * kind.itemsize,
        number_bytes=kind.itemsize,
        vocabulary_size=config.vocab_size,
        width=config.hidden_size,
        step_bytes=count_step(skeleton, tokens=limits.max_step_tokens, rows=max_sequences),
    )
    recordings = count_recordings(step_tokens=limits.max_step_tokens, max_sequences=max_sequences)
    need = derive_need(sizes, limits, room=CUDA, recordings=recordings)
    options: dict[str, Any] = {"shapes": shapes, "limits": limits, "device": torch.device(run.device), "dtype": kind}
    if run.dry:
        fused = fuse(network, windows=windows, context_tokens=limits.context_tokens, steps=TorchSteps)
        session = TorchSession(network, **options, attend=(attend_split, attend_spans), fused=fused)
    else:
        torch.cuda.reset_peak_memory_stats()
        session = loading.open_session(network, **options, windows=windows, fused=True, graphs=True)
    with torch.inference_mode():
        for pair in session._pool.layers:
            for each in pair:
                each.normal_()
    embedding = 0 if config.tie_word_embeddings else network.model.embed_tokens.weight.nbytes
    return Made(
        network=network,
        session=session,
        config=config,
        read_bytes=sizes.weights_bytes - embedding,
        layer_numbers=sum(each.numel() for each in network.model.layers.parameters()),
        kv_token_bytes=sizes.kv_token_bytes,
        need_bytes=need.total_bytes,
    )


def decode_batch(limits: TokenLimits, *, count: int, context: int, top_p: float = 1.0) -> TokenBatch:
    """A token behind a context of so many, of so many sequences with blocks of their own; greedy without `top_p`."""
    used = -(-context // limits.block_tokens)
    drawn = np.full(count, float(top_p < 1))
    return TokenBatch(
        token_ids=np.arange(count, dtype=np.int32) % limits.vocabulary_size,
        positions=np.full(count, context - 1, np.int32),
        starts=np.arange(count + 1, dtype=np.int32),
        lengths=np.full(count, context, np.int32),
        block_tables=np.arange(count * used, dtype=np.int32).reshape(count, used),
        logit_rows=np.arange(count, dtype=np.int32),
        sampling=DeviceSampling(
            temperatures=drawn,
            top_k=np.zeros(count, np.int64),
            top_p=np.full(count, top_p),
            min_p=np.zeros(count),
            points=np.linspace(0.0, 0.99, count),
        ),
    )


def timed_ms(run: Any, call: Callable[[], Any], *, times: int = 15) -> list[float]:
    """Milliseconds of each of some calls that end when the device has ended; fewer of them behind the deadline."""
    call()
    found: list[float] = []
    while len(found) < (2 if run.dry else times) and (not found or run.left_s > 0):
        if not run.dry:
            torch.cuda.synchronize()
        began = time.perf_counter()
        call()
        if not run.dry:
            torch.cuda.synchronize()
        found.append(1e3 * (time.perf_counter() - began))
    return found


def measure_limits(run: Any) -> dict[str, tuple[float, str]]:
    """Bytes that are copied, read and written, that are read to be added up, and products of large matrices; once."""
    if run.device not in _KNOWN:
        _KNOWN[run.device] = dict(_measure_limits(run))
    return _KNOWN[run.device]


_KNOWN: dict[str, dict[str, tuple[float, str]]] = {}


def _measure_limits(run: Any) -> Iterator[tuple[str, tuple[float, str]]]:
    numbers = torch.randn(1 << 16 if run.dry else 1 << 30, device=run.device)
    into = torch.empty_like(numbers)
    copied_ms = median(timed_ms(run, partial(into.copy_, numbers)))
    read_ms = median(timed_ms(run, numbers.sum))
    yield "copy", (2 * numbers.nbytes / copied_ms / 1e6, "GB/s")
    yield "read", (numbers.nbytes / read_ms / 1e6, "GB/s")
    del numbers, into
    side, kind = (128, torch.float32) if run.dry else (8192, torch.bfloat16)
    left, right = (torch.randn(side, side, device=run.device, dtype=kind) for _ in range(2))
    yield "product", (2 * side**3 / median(timed_ms(run, partial(torch.mm, left, right))) / 1e9, "TFLOP/s")
    del left, right
    if not run.dry:
        torch.cuda.empty_cache()


def load_tiny(name: str, folder: Path, device: str, **settings: str) -> Any:
    """A session of a small network in float32, from a folder that is written for it; the network of transformers."""
    import tiny_networks as tiny

    network = tiny.write_network(name, folder)
    return load_folder(folder, device, **settings), network


def load_folder(folder: Path, device: str, **settings: str) -> Any:
    """A session of a folder, in float32."""
    chosen = {"kv_tokens": "4096", "dtype": "float32", **settings}
    request = LoadRequest(path=folder, device=device, settings=read_settings(SPEC, chosen), capacity_bytes=8 << 30)
    return TorchBackend().load(_on_processor(request), lambda _: None).session


def _on_processor(request: LoadRequest) -> LoadRequest:
    return replace(request, device="cpu:0") if request.device == "cpu" else request


def compare_greedy(name: str, run: Any) -> tuple[float, float]:
    """Part of the greedy tokens that are those of transformers, and the least margin at which the others part."""
    with tempfile.TemporaryDirectory() as folder:
        session, network = load_tiny(name, Path(folder), run.device)
    found = compare_tokens(session, network, run)
    session.close()
    return found


def compare_tokens(session: Any, network: Any, run: Any) -> tuple[float, float]:
    """The same of a session and a network of transformers on the processor."""
    generator = np.random.default_rng(5)
    same, margin = 0, float("inf")
    count = 6 if run.dry else GREEDY_TOKENS
    for number in range(1 if run.dry else PROMPTS):
        ids = generator.integers(256, size=5 + 17 * number).tolist()
        expected, margins = generate(network, ids, count)
        (logits,) = compute(session, Part(token_ids=ids, blocks=range(16), wanted=[len(ids) - 1]))
        for place, wanted in enumerate(expected):
            given = int(logits[0].argmax())
            same += given == wanted
            margin = margin if given == wanted else min(margin, margins[place])
            part = Part(token_ids=[wanted], begin=len(ids) + place, blocks=range(16))
            (logits,) = compute(session, part)
    return same / (count * (1 if run.dry else PROMPTS)), margin


def generate(network: Any, ids: list[int], count: int) -> tuple[list[int], list[float]]:
    """Greedy tokens of transformers on the processor, and how far each is above the second best."""
    given: list[int] = []
    margins: list[float] = []
    with torch.inference_mode():
        for _ in range(count):
            best = network(input_ids=torch.tensor([ids + given])).logits[0, -1].topk(2)
            given.append(int(best.indices[0]))
            margins.append(float(best.values[0] - best.values[1]))
    return given, margins


@lru_cache(maxsize=1)
def _tiny_session(device: str) -> TorchSession:
    with tempfile.TemporaryDirectory() as folder:
        session: TorchSession = load_tiny("llama", Path(folder), device)[0]
    return session


def compare_replay(count: int, run: Any) -> tuple[float, float]:
    """How far logits of a recorded step are from those of the same step computed, and the part of tokens that agree."""
    session = _tiny_session(run.device)
    drawn = decode_batch(session.limits, count=count, context=40, top_p=0.9)
    logits = session.step(replace(drawn, sampling=None)).logits
    tokens = session.step(drawn).token_ids
    if logits is None or tokens is None:
        raise TypeError("a step gave no logits, or no tokens")
    recorded, own = np.array(logits), session._tokens
    limits = session.limits
    width = -(-limits.context_tokens // limits.block_tokens)
    with torch.inference_mode():
        inputs = DecodeInputs(rows=count, width=width, pool=session._pool, tokens=own)
        inputs.fill(drawn)
        computed = compute_recorded(session._forward, session._draw, inputs, count, own).float().cpu().numpy()
    return float(np.abs(recorded - computed).max()), float(np.mean(own.fetch(count)() == tokens))


def compare_filled(tokens: int, run: Any) -> float:
    """How far the logits of a step with a prompt, as it is played where it is recorded, are from the step computed."""
    session = _tiny_session(run.device)
    ids = [number % session.limits.vocabulary_size for number in range(tokens)]
    batch = make_batch([Part(token_ids=ids, blocks=range(-(-tokens // 16)), wanted=[tokens - 1])])
    recorded = np.array(session.step(batch).logits)
    with torch.inference_mode():
        inputs = StepInputs(tokens=64, limits=session.limits, pool=session._pool, last=session._tokens)
        inputs.fill(batch)
        computed = compute_filled(session._forward, session._draw, inputs, session._tokens).float().cpu().numpy()
    return float(np.abs(recorded - computed[:1]).max())


def find_draw(run: Any) -> Draw:
    """What chooses tokens there."""
    if run.dry:
        return draw_sorted
    from inferd_torch.draw_kernels import draw

    return draw


def measure_draws(run: Any) -> Iterator[tuple[str, float, str]]:
    """Milliseconds of choosing the tokens of so many rows, by kinds, and of torch's whole sort of them."""
    size = 500 if run.dry else 128256
    kinds = {"greedy": (0.0, 0, 1.0), "by_id": (1.0, 0, 1.0), "top_k": (1.0, 40, 1.0), "top_p": (1.0, 0, 0.9)}
    for rows in (1, 4) if run.dry else (1, 8, 64, 256):
        logits = torch.randn(rows, size, device=run.device, dtype=torch.float32 if run.dry else torch.bfloat16).mul_(3)
        tokens = torch.empty(rows, dtype=torch.int64, device=run.device)
        for name, (temperature, top_k, top_p) in kinds.items():
            columns = [np.full(rows, each) for each in (temperature, top_k, top_p, 0.0)]
            table = torch.from_numpy(np.stack([*columns, np.linspace(0, 0.99, rows)])).to(run.device)
            call = partial(find_draw(run), logits, table, tokens)
            yield f"b{rows}.{name}", median(timed_ms(run, call)), "ms"
        yield f"b{rows}.sort", median(timed_ms(run, partial(logits.sort, descending=True))), "ms"


def draw_bad_rows(run: Any) -> int:
    """How many of three rows that are not finite get no token, with top-k, top-p and min-p."""
    logits = torch.randn(4, 1000, device=run.device)
    logits[0, 3], logits[1, 5], logits[2] = float("nan"), float("inf"), float("-inf")
    sampling = DeviceSampling(
        temperatures=np.ones(4),
        top_k=np.full(4, 40),
        top_p=np.full(4, 0.9),
        min_p=np.full(4, 0.01),
        points=np.full(4, 0.7),
    )
    ids = choose(logits, sampling, find_draw(run)).tolist()
    return sum(number == -1 for number in ids[:3]) if 0 <= ids[3] < 1000 else -1


def lose(device: str) -> None:
    """Have a device fail in a step; the process ends in it."""
    session = _tiny_session(device)
    batch = decode_batch(session.limits, count=1, context=3)
    if device == "cpu":
        from inferd_torch.faults import ending

        def fail(*_: Any) -> None:
            raise torch.AcceleratorError("CUDA error: device-side assert triggered")

        session._guard = lambda: ending(lambda: None)
        session._forward = fail  # type: ignore[method-assign]
    else:
        torch.zeros(4, device=device)[torch.full((1,), 1 << 20, device=device)]  # an assert on the device
    session.step(replace(batch, sampling=None))


if __name__ == "__main__" and sys.argv[1] == "lose":
    lose(sys.argv[2])
