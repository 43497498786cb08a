"""A Hugging Face model folder: config.json, safetensors, tokenizer.json. Nothing in it is executed."""

from collections import Counter
from math import prod
from pathlib import Path

from safetensors import SafetensorError, safe_open

from inferd.plugin import (
    LoadError,
    UnsupportedModelError,
    list_hf_weights,
    read_hf_json,
    read_hf_pooling,
    read_hf_sampling,
    read_hf_vocabulary,
)
from inferd_torch.artifact import Artifact

GENERATION = "generation_config.json"


def read_folder(path: Path) -> Artifact:
    """Check a folder and read all of it but the weights.

    Raises:
        LoadError: A file is missing, damaged or too large, or would have to be executed.
    """
    config = read_hf_json(path / "config.json")
    generation = read_hf_json(path / GENERATION, required=False)
    if "quantization_config" in config:
        given = config["quantization_config"]
        method = given.get("quant_method") if isinstance(given, dict) else None
        raise UnsupportedModelError(
            f"{path}/config.json: quantization_config {method!r} is not supported; take plain safetensors"
        )
    counts, names = Counter[str](), set[str]()
    for file in list_hf_weights(path):
        counts += _count(file, names)
    return Artifact(
        path=path,
        folder=path,
        options={"use_safetensors": True},
        parameters=counts.total(),
        weight_format=counts.most_common(1)[0][0] if counts else "none",
        vocabulary=read_hf_vocabulary(path, config, generation),
        sampling=read_hf_sampling(str(path / GENERATION), generation),
        embedding=read_hf_pooling(path),
        names=frozenset(names),
    )


def _count(file: Path, names: set[str]) -> Counter[str]:
    """Weights by format, and their names; opening checks that the header describes the file to its last byte."""
    counts = Counter[str]()
    try:
        with safe_open(file, framework="numpy") as tensors:
            for name in tensors.keys():  # noqa: SIM118 - no mapping
                names.add(name)
                part = tensors.get_slice(name)
                counts[part.get_dtype()] += prod(part.get_shape())
    except (SafetensorError, OSError) as error:
        raise LoadError(f"{file}: {error}: the file is damaged or missing; fetch it again") from error
    return counts
