"""A Hugging Face model folder: config.json, safetensors, tokenizer.json. Nothing in it is executed."""

from collections import Counter
from math import prod
from pathlib import Path

from safetensors import SafetensorError, safe_open

from inferd.plugin import (
    LoadError,
    list_hf_weights,
    read_hf_json,
    read_hf_pooling,
    read_hf_sampling,
    read_hf_vocabulary,
)
from inferd_torch.artifact import Artifact
from inferd_torch.packed.schemes import BITS, read_packing

GENERATION = "generation_config.json"


def read_folder(path: Path) -> Artifact:
    """Check a folder and read all of it but the weights.

    Raises:
        LoadError: A file is missing, damaged or too large, or would have to be executed.
    """
    config = read_hf_json(path / "config.json")
    generation = read_hf_json(path / GENERATION, required=False)
    stored: dict[str, tuple[str, tuple[int, ...]]] = {}
    for file in list_hf_weights(path):
        stored |= _read_header(file)
    given = config.get("quantization_config")
    packing = None if given is None else read_packing(path, given, stored)
    counts = Counter[str]()
    for name, (kind, shape) in stored.items():
        if packing is None or name not in packing.names:
            counts[kind] += prod(shape)
    for module in packing.modules.values() if packing else ():
        counts[f"{packing.method.upper()}, {BITS} bits" if packing else ""] += module.inputs * module.outputs
    return Artifact(
        path=path,
        folder=path,
        options={"use_safetensors": True},
        parameters=counts.total(),
        weight_format=counts.most_common(1)[0][0] if counts else "none",
        vocabulary=read_hf_vocabulary(path, config, generation),
        sampling=read_hf_sampling(str(path / GENERATION), generation),
        embedding=read_hf_pooling(path),
        names=frozenset(stored),
        packing=packing,
    )


def _read_header(file: Path) -> dict[str, tuple[str, tuple[int, ...]]]:
    """The type and shape of each weight; opening checks that the header describes the file to its last byte."""
    found = {}
    try:
        with safe_open(file, framework="numpy") as tensors:
            for name in tensors.keys():  # noqa: SIM118 - no mapping
                part = tensors.get_slice(name)
                found[name] = (part.get_dtype(), tuple(part.get_shape()))
    except (SafetensorError, OSError) as error:
        raise LoadError(f"{file}: {error}: the file is damaged or missing; fetch it again") from error
    return found
