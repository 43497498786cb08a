"""Encoders whose embeddings are trained: what of a folder is checked, loaded and written again."""

import json
from copy import deepcopy
from pathlib import Path
from typing import Any, Final

import torch
from transformers import AutoConfig, AutoModel
from transformers.utils import logging

from inferd.plugin import LoadError, Pooling, TrainError, read_hf_pooling
from inferd_torch.artifact import Artifact
from inferd_torch.folder import read_folder
from inferd_torch.training.encoder import POOLINGS

KINDS: Final = ("bert",)
"""By the `model_type` of config.json: those that pad behind texts and whose folders are served as they are written."""
_ATTENTION: Final = "sdpa"
_UNUSED: Final = ".pooler."  # of BERT: what embeddings are not made of


def read_encoder(path: Path) -> tuple[Artifact, Any, Pooling]:
    """What is on disk, its configuration, and how its embeddings are made.

    Raises:
        LoadError: It is not sound.
        TrainError: It is none that is trained.
    """
    if not path.is_dir():
        raise TrainError(f"{path}: embeddings are trained of Hugging Face folders; it is a file")
    artifact = read_folder(path)
    pooling = read_hf_pooling(path, default=Pooling.MEAN).pooling
    config: Any = AutoConfig.from_pretrained(path, local_files_only=True, trust_remote_code=False)
    if config.model_type not in KINDS:
        raise TrainError(f"{path}: embeddings of {config.model_type!r} are not trained; of {', '.join(KINDS)} they are")
    if pooling not in POOLINGS:
        raise TrainError(f"{path}: it pools by {pooling}; embeddings by {' or '.join(map(str, POOLINGS))} are trained")
    return artifact, config, pooling


def make_encoder(config: Any) -> Any:
    """The network, its weights as they are where nothing was read."""
    return choose(AutoModel.from_config(deepcopy(config), attn_implementation=_ATTENTION, dtype=torch.float32))


def load_encoder(artifact: Artifact, config: Any, device: torch.device) -> Any:
    """The network with its weights.

    Raises:
        LoadError: One is missing.
    """
    logging.disable_progress_bar()
    try:
        whole, found = AutoModel.from_pretrained(
            artifact.folder,
            config=config,
            dtype=torch.float32,
            attn_implementation=_ATTENTION,
            device_map={"": device},
            use_safetensors=True,
            local_files_only=True,
            trust_remote_code=False,
            output_loading_info=True,
        )
    except Exception as error:  # the edge to a library that raises what it likes
        raise LoadError(f"{artifact.path}: transformers: {type(error).__name__}: {error}") from error
    missing = sorted(name for name in found["missing_keys"] if _UNUSED not in f".{name}")
    if missing or found["mismatched_keys"]:
        names = [*missing, *map(str, found["mismatched_keys"])]
        raise LoadError(
            f"{artifact.path}: {len(names)} weights are missing or of another shape, for example {names[0]}"
        )
    return choose(whole)


def choose(whole: Any) -> Any:
    """Train all that embeddings are made of."""
    for name, each in whole.named_parameters():
        each.requires_grad_(_UNUSED not in f".{name}")
    return whole


def write_pooling(folder: Path, pooling: Pooling, *, width: int) -> None:
    """Say in a folder how its embeddings are made, as sentence-transformers does, where nothing says it yet."""
    path = folder / "1_Pooling" / "config.json"
    if path.exists():
        return
    path.parent.mkdir(exist_ok=True)
    settings = {
        "word_embedding_dimension": width,
        "pooling_mode_cls_token": pooling is Pooling.FIRST,
        "pooling_mode_mean_tokens": pooling is Pooling.MEAN,
    }
    path.write_text(json.dumps(settings, indent=1), encoding="utf-8")
