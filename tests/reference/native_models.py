"""Tiny models whose widths the native library can run, and sessions of it."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_models as tiny

from inferd.plugin import LoadedModel, LoadRequest, TokenSession
from inferd.plugin.backend import read_settings
from inferd.testing.batches import Part, compute
from inferd.testing.fake import VOCABULARY
from inferd_cpu.backend import CpuBackend
from inferd_cpu.native import Native, NativeMissing
from inferd_cpu.plugin import SPEC

BLOCKS = list(range(39, -1, -1))  # in no natural order


def find_missing(isa: str) -> str:
    """Why an instruction set does not run here, or ""."""
    try:
        Native(isa)
    except NativeMissing as missing:
        return str(missing)
    return ""


def set_widths(
    patch: pytest.MonkeyPatch, *, width: int = 64, hidden: int = 96, head_width: int = tiny.HEAD_WIDTH
) -> None:
    """Widths that are multiples of 32."""
    patch.setattr(tiny, "WIDTH", width)
    patch.setattr(tiny, "HIDDEN", hidden)
    patch.setattr(tiny, "HEAD_WIDTH", head_width)


def write(name: str, path: Path, *, head_width: int = tiny.HEAD_WIDTH) -> Path:
    """A tiny model of widths that are multiples of 32.

    Args:
        name: Which.
        path: Where to.
        head_width: Of queries, keys and values.
    """
    with pytest.MonkeyPatch.context() as patch:
        set_widths(patch, head_width=head_width)
        return tiny.write_model(tiny.MODELS[name], path)


def write_with_letters(name: str, path: Path, more: Mapping[str, Any] | None = None, **widths: int) -> Path:
    """As `write`, with a vocabulary that has tokens for texts, perhaps more metadata, and widths (`set_widths`)."""
    letters = [*VOCABULARY.tokens[: tiny.VOCABULARY_SIZE - 1], "HI"]
    words = {"tokenizer.ggml.tokens": letters, "tokenizer.ggml.merges": ["H I"]}
    with pytest.MonkeyPatch.context() as patch:
        set_widths(patch, **widths)
        return tiny.write_model(tiny.MODELS[name], path, {**words, **(more or {})})


def load(path: Path, **settings: str) -> LoadedModel:
    """Load a model natively, unless the settings say otherwise."""
    given = {"kv_tokens": "640", "compute": "native", **settings}
    chosen = read_settings(SPEC, given)
    request = LoadRequest(path=path, device="cpu:0", settings=chosen, capacity_bytes=4 << 30)
    return CpuBackend().load(request, lambda _: None)


def part(ids: list[int], blocks: list[int], begin: int = 0) -> Part:
    """The tokens of one sequence."""
    return Part(token_ids=ids, blocks=blocks, begin=begin)


def run_alone(session: TokenSession, ids: list[int]) -> np.ndarray[Any, Any]:
    """Logits of every row of one sequence that is computed in one step."""
    (logits,) = compute(session, part(ids, BLOCKS[-8:]))
    return logits
