"""What it is worth that the prefix cache of a model outlives its worker: a ratio of two runs of one sitting."""

import random
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from limits import Figure

from inferd.testing.kernel import kernel_process
from inferd_client import Client

NAME = "prefix.kept_ratio"
PREFIX_TOKENS = 4000
OWN_TOKENS = 16
PAIRS = 3
KEEP = {"INFERD_PREFIX__KEEP_BYTES": str(1 << 30), "INFERD_BACKENDS": "cpu"}
ROOM = {"context_tokens": "8192", "kv_tokens": "8192", "max_sequences": "4"}


def figures(weights: Path, *, only: str) -> Iterator[Figure]:
    """`prefix.kept_ratio`."""
    if not NAME.startswith(only):
        return
    rng = random.Random(NAME)
    computed, found, swaps, sizes = [], [], [], []
    with (
        tempfile.TemporaryDirectory() as folder,
        kernel_process(Path(folder), environment=KEEP) as process,
        Client(process.address) as client,
    ):
        client.create_model("bench", source=str(weights), settings=ROOM)
        client.load_model("bench")
        _first_token_s(client, _tokens(rng, PREFIX_TOKENS))  # pages and caches are as they will be
        for _ in range(PAIRS):
            prefix = _tokens(rng, PREFIX_TOKENS)
            computed.append(_first_token_s(client, prefix + _tokens(rng, OWN_TOKENS)))
            started = time.perf_counter()
            sizes.append(client.unload_model("bench").kept_prefix_bytes)
            client.load_model("bench")
            swaps.append(time.perf_counter() - started)
            found.append(_first_token_s(client, prefix + _tokens(rng, OWN_TOKENS), cached=PREFIX_TOKENS))
    ratios = [after / before for after, before in zip(found, computed, strict=True)]
    detail = f"first token behind {PREFIX_TOKENS} tokens in {statistics.median(found) * 1e3:.0f} ms after an unload and"
    detail += f" a load, computed in {statistics.median(computed) * 1e3:.0f} ms; median of {PAIRS}; at most"
    detail += f" {max(sizes) / 2**20:.0f} MiB kept; unload and load took {statistics.median(swaps):.1f} s"
    yield Figure(name=NAME, value=round(statistics.median(ratios), 3), unit="ratio", detail=detail)


def _first_token_s(client: Client, prompt: list[int], *, cached: int = 0) -> float:
    """Time to the first token of a prompt, of which at least so many tokens are found."""
    started = time.perf_counter()
    seconds = 0.0
    for event in client.run("bench", prompt, max_tokens=1, temperature=0.0, ignore_eos=True):
        if event.HasField("output") and not seconds:
            seconds = time.perf_counter() - started
        if event.HasField("finished") and event.finished.usage.cached_tokens < cached:
            raise RuntimeError(f"{event.finished.usage.cached_tokens} tokens were found; {cached} are there")
    return seconds


def _tokens(rng: random.Random, count: int) -> list[int]:
    return [rng.randrange(1000, 40_000) for _ in range(count)]
