"""Folders of tiny random networks of transformers, and what the native engine computes from them."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import tiny_families
from greedy_ids import PROMPTS
from tiny_networks import write_tokenizer

from inferd.plugin import LoadedModel, LoadRequest
from inferd.plugin.backend import read_settings
from inferd.testing.batches import Part, compute
from inferd_cpu.backend import CpuBackend
from inferd_cpu.hf_types import TYPES
from inferd_cpu.plugin import SPEC

VL = {"qwen2vl", "qwen3vl", "qwen3vlmoe"}  # the same networks under other names
NAMES = {
    name: family
    for name, family in tiny_families.FAMILIES.items()
    if family.model_type in TYPES and family.architecture not in VL
}
IDS = PROMPTS.reshape(-1)[:60].tolist()
Change = Callable[[dict[str, Any]], None]


def save(network: Any, folder: Path, **changes: Any) -> Path:
    """A folder with a network and a tokenizer of bytes; changes are of its config.json."""
    network.save_pretrained(folder)
    write_tokenizer(folder)
    change(folder, lambda settings: settings.update(changes))
    return folder


def change(folder: Path, how: Change) -> None:
    path = folder / "config.json"
    settings = json.loads(path.read_text(encoding="utf-8"))
    how(settings)
    path.write_text(json.dumps(settings), encoding="utf-8")


def load(path: Path, **settings: str) -> LoadedModel:
    given = read_settings(SPEC, {"kv_tokens": "1024", "compute": "exact", **settings})
    request = LoadRequest(path=path, device="cpu:0", settings=given, capacity_bytes=1 << 30)
    return CpuBackend().load(request, lambda _: None)


def read_logits(path: Path, **settings: str) -> np.ndarray[Any, Any]:
    session = load(path, **settings).session
    (logits,) = compute(session, Part(token_ids=IDS, blocks=range(4)))
    result = np.array(logits)
    session.close()
    return result
