"""`make bench`: one JSON line per figure; `make bench ONLY=served.b32` those whose names begin so.

Figures of one run were taken in one sitting and may be compared; those of two runs may not.
"""

import json
import sys
from collections.abc import Iterator

import auth
import core
import engine
import experts
import fair
import features
import gateway
import host_workers
import infer
import kept
import kept_outputs
import large
import limits
import loads
import lora
import mixed
import moderation
import oip
import oip_beside
import onnx_decoder
import optimize
import overhead
import overload
import paged_experts
import perplexity
import places
import played_hosts
import prefixes
import roofline
import scrape
import secured
import served
import sockets
import starts
import tensors
import training
from bounds import judged
from limits import Figure
from real_model import smollm2

REAL = (
    *("served.", "served8.", "gathered.", "engine.b", "engine.prefill", "ttft.", "itl.", "rss."),
    *(
        "kept.outputs",
        "large.",
        "mixed.",
        "prefix.",
        "gap.",
        "speculation.",
        "native.",
        "perplexity.",
        "fair.",
        "experts.",
        "onnx.",
        "optimize.",
        "lora.",
        "training.",
        "http.",
        "host.",
    ),
)


def figures(only: str) -> Iterator[Figure]:
    """All figures whose names begin with `only`."""
    yield from limits.measure(only)
    yield from starts.figures(only=only)
    yield from overhead.figures(only=only)
    yield from moderation.figures(only=only)
    yield from scrape.figures(only=only)
    yield from core.figures(only=only)
    yield from places.figures(only=only)
    yield from served.fake_figures(only=only)
    yield from secured.figures(only=only)
    yield from sockets.figures(only=only)
    yield from overload.figures(only=only)
    yield from tensors.figures(only=only)
    yield from infer.figures(only=only)
    yield from oip.figures(only=only)
    yield from played_hosts.figures(only=only)
    yield from oip_beside.figures(only=only)
    yield from kept.figures(only=only)
    yield from kept_outputs.figures(only=only)
    yield from auth.figures(only=only)
    if any(name.startswith(only) or only.startswith(name) for name in REAL):
        weights = smollm2()
        yield from roofline.shares(served.model_figures(weights, only=only), weights)
        yield from roofline.shares(served.wide_figures(weights, only=only), weights, bits=8)
        yield from kept.model_figures(weights, only=only)
        yield from roofline.shares(engine.figures(weights, only=only), weights)
        yield from onnx_decoder.figures(weights, only=only)
        yield from experts.figures(weights, only=only)
        yield from paged_experts.figures(weights, only=only)
        yield from features.figures(weights, only=only)
        yield from prefixes.figures(weights, only=only)
        yield from mixed.figures(weights, only=only)
        yield from fair.figures(weights, only=only)
        yield from loads.figures(weights, only=only)
        yield from gateway.figures(weights, only=only)
        yield from host_workers.figures(weights, only=only)
        yield from large.figures(weights, only=only)
        yield from lora.figures(weights, only=only)
        yield from training.figures(weights, only=only)
        yield from perplexity.figures(weights, only=only)
        yield from optimize.figures(weights, only=only)


if __name__ == "__main__":
    for figure in judged(figures(sys.argv[1] if len(sys.argv) > 1 else "")):
        print(json.dumps(figure), flush=True)
