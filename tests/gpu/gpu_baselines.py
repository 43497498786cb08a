"""What else can be had for the same weights: transformers, as it is, compiled and batched, and a graph of products."""

from collections.abc import Callable, Iterator
from statistics import median
from typing import Any

import torch
from gpu_models import make_network, timed_ms

Figure = dict[str, Any]
PROMPT_TOKENS, NEW_TOKENS = 128, 64


def measure_baselines(name: str, run: Any) -> Iterator[Figure]:
    """Each in tokens a second; one that fails says why, and the others go on."""
    network = make_network(name, run)
    yield from tried(f"{name}.products", lambda at: products(at, network, run), run, least_s=2)
    network.set_attn_implementation("sdpa")
    network.generation_config.eos_token_id = network.generation_config.pad_token_id = None
    for count in (1, 2) if run.dry else (1, 64):
        yield from tried(
            f"{name}.eager.b{count}", lambda at, count=count: eager(at, network, run, count), run, least_s=8
        )  # type: ignore[misc]
    if not run.dry:  # neither is made for a processor
        yield from tried(f"{name}.generate_batch.b64", lambda at: batched(at, network, run, 64), run, least_s=15)
        yield from tried(f"{name}.compiled.b1", lambda at: compiled(at, network, run), run, least_s=45)


def tried(name: str, measure: Callable[[str], Iterator[Figure]], run: Any, *, least_s: float) -> Iterator[Figure]:
    """What it gives, or why it gives nothing."""
    if run.left_s < least_s:
        yield {"name": name, "value": "left out", "detail": f"{run.left_s:.0f} s left"}
        return
    try:
        yield from measure(name)
    except Exception as error:  # noqa: BLE001 - of another library
        yield {"name": name, "value": "none", "detail": f"{type(error).__name__}: {str(error)[:200]}"}


def speed(name: str, tokens: int, milliseconds: float) -> Figure:
    """A line."""
    return {"name": name, "value": 1e3 * tokens / milliseconds, "unit": "tok/s", "detail": f"{milliseconds:.4g} ms"}


def products(name: str, network: Any, run: Any) -> Iterator[Figure]:
    """The products of all layers and of the head alone, recorded where that can be: what steps are at least."""
    layers = [
        [
            torch.cat([each.weight for each in (a.q_proj, a.k_proj, a.v_proj)]),
            a.o_proj.weight,
            torch.cat([m.gate_proj.weight, m.up_proj.weight]),
            m.down_proj.weight,
        ]
        for a, m in ((layer.self_attn, layer.mlp) for layer in network.model.layers)
    ]
    for count in (1, 2) if run.dry else (1, 8, 64, 256):
        inputs = {
            weight.shape[1]: torch.randn(count, weight.shape[1], device=run.device, dtype=network.dtype)
            for weight in (*layers[0], network.lm_head.weight)
        }

        def compute(inputs: dict[int, Any] = inputs) -> None:
            for weight in (each for layer in layers for each in layer):
                torch.nn.functional.linear(inputs[weight.shape[1]], weight)
            torch.nn.functional.linear(inputs[network.lm_head.weight.shape[1]], network.lm_head.weight)

        with torch.inference_mode():
            play = compute if run.dry else record(compute)
            yield speed(f"{name}.b{count}", count, median(timed_ms(run, play)))


def record(compute: Callable[[], None]) -> Callable[[], None]:
    """A graph of it."""
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        compute()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=stream):
        compute()
    return graph.replay


def prompts(network: Any, run: Any, count: int) -> Any:
    """Random tokens, shape (count, P)."""
    size = (count, 8 if run.dry else PROMPT_TOKENS)
    return torch.randint(network.config.vocab_size, size, device=run.device)


def eager(name: str, network: Any, run: Any, count: int) -> Iterator[Figure]:
    """`generate` as it is."""
    new = 4 if run.dry else NEW_TOKENS
    ids = prompts(network, run, count)
    options = {"max_new_tokens": new, "min_new_tokens": new, "do_sample": False}
    call = lambda: network.generate(ids, attention_mask=torch.ones_like(ids), **options)  # noqa: E731
    yield speed(name, count * new, median(timed_ms(run, call, times=2)))


def compiled(name: str, network: Any, run: Any) -> Iterator[Figure]:
    """`generate` with a static cache, its forward pass compiled."""
    ids = prompts(network, run, 1)
    options = {"max_new_tokens": NEW_TOKENS, "min_new_tokens": NEW_TOKENS, "do_sample": False}
    call = lambda: network.generate(  # noqa: E731
        ids, attention_mask=torch.ones_like(ids), cache_implementation="static", **options
    )
    yield speed(name, NEW_TOKENS, median(timed_ms(run, call, times=2)))


def batched(name: str, network: Any, run: Any, count: int) -> Iterator[Figure]:
    """Transformers' continuous batching."""
    from transformers import GenerationConfig

    ids = prompts(network, run, count).tolist()
    config = GenerationConfig(max_new_tokens=NEW_TOKENS, do_sample=False, eos_token_id=-1, pad_token_id=0)
    call = lambda: network.generate_batch(inputs=ids, generation_config=config, progress_bar=False)  # noqa: E731
    yield speed(name, count * NEW_TOKENS, median(timed_ms(run, call, times=1)))
