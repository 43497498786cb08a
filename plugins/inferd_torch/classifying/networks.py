"""Networks with a last layer that gives scores of labels: encoders as transformers has them, and decoders.

An encoder is asked with the mask of its texts and pools as its architecture does. Of a decoder the state of the last
token of a text is taken. So what texts are filled up with changes nothing but roundings.
"""

from collections.abc import Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor
from transformers import AutoConfig, AutoModelForSequenceClassification
from transformers.utils import logging

from inferd.plugin import LoadError, UnsupportedModelError
from inferd_torch import network
from inferd_torch.artifact import Artifact
from inferd_torch.folder import read_folder
from inferd_torch.training.objective import pad

_ATTENTION: Final = "sdpa"
_POOLER: Final = ".pooler."  # of BERT and its like: beside the network by its use, in it by its name
_LAST: Final = "score"
"""What decoders call the layer that gives scores."""
_MATRIX: Final = 2  # dimensions


def read_network(path: Path) -> tuple[Artifact, Any]:
    """What is on disk, and its configuration.

    Raises:
        LoadError: It is not sound, or of an architecture that gives no labels.
    """
    if not path.is_dir():
        raise LoadError(f"{path}: classifiers are made of Hugging Face folders; it is a file")
    artifact = read_folder(path)
    if artifact.packing is not None:
        raise LoadError(
            f"{path}: its weights have 4 bits ({artifact.packing.method}), which are not trained; take plain"
            " safetensors"
        )
    try:
        config: Any = AutoConfig.from_pretrained(path, local_files_only=True, trust_remote_code=False)
    except Exception as error:  # the edge to a library that raises what it likes
        raise UnsupportedModelError(f"{path}: transformers: {type(error).__name__}: {error}") from error
    kind = AutoModelForSequenceClassification._model_mapping.get(type(config), None)  # noqa: SLF001 - no public name
    if kind is None or config.is_encoder_decoder:
        raise UnsupportedModelError(f"{path}: architecture {config.model_type!r} gives texts no labels")
    return artifact, config


def label(config: Any, labels: Sequence[str]) -> Any:
    """A configuration for these labels."""
    made: Any = deepcopy(config)
    made.id2label = dict(enumerate(labels))
    made.label2id = {name: at for at, name in enumerate(labels)}
    made.problem_type = "single_label_classification"
    return made


def labels_of(config: Any) -> tuple[str, ...]:
    """The labels that a configuration names."""
    return tuple(str(name) for _, name in sorted((config.id2label or {}).items()))


def context_of(artifact: Artifact, config: Any, made: Any) -> int:
    """Most tokens of a text that a network reads.

    Raises:
        LoadError: The configuration does not say it.
    """
    context = network.read_context(artifact, config)
    if any(hasattr(module, network.OFFSET_POSITIONS) for module in made.modules()):
        context -= int(config.pad_token_id or 0) + 1  # positions begin behind its number
    return context


def make_network(config: Any, *, dtype: torch.dtype = torch.float32) -> Any:
    """A network, its weights as they are where nothing was read.

    Raises:
        LoadError: transformers cannot build it.
    """
    try:
        return AutoModelForSequenceClassification.from_config(
            deepcopy(config), attn_implementation=_ATTENTION, dtype=dtype
        )
    except Exception as error:  # as above
        raise UnsupportedModelError(f"{config.model_type}: transformers: {type(error).__name__}: {error}") from error


def load_network(
    artifact: Artifact, config: Any, *, device: torch.device, dtype: torch.dtype
) -> tuple[Any, frozenset[str]]:
    """A network with its weights, and the names of those that are new: of its last layer, where the folder has none.

    Raises:
        LoadError: Others are missing, or of another shape.
    """
    logging.disable_progress_bar()
    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()  # that a last layer is new is no news here
    try:
        whole, found = AutoModelForSequenceClassification.from_pretrained(
            artifact.folder,
            config=config,
            dtype=dtype,
            attn_implementation=_ATTENTION,
            device_map={"": device},
            ignore_mismatched_sizes=True,
            use_safetensors=True,
            local_files_only=True,
            trust_remote_code=False,
            output_loading_info=True,
        )
    except Exception as error:  # as above
        raise LoadError(f"{artifact.path}: transformers: {type(error).__name__}: {error}") from error
    finally:
        logging.set_verbosity(verbosity)
    other = {each if isinstance(each, str) else each[0] for each in found["mismatched_keys"]}
    new = frozenset({*found["missing_keys"], *other})
    if lost := sorted(new - last_layers(whole)):
        raise LoadError(f"{artifact.path}: {len(lost)} weights are missing or of another shape, for example {lost[0]}")
    return whole, new


def last_layers(whole: Any) -> frozenset[str]:
    """The names of the weights that labels are given by: all that is not the network itself, and its pooler."""
    inner = f"{whole.base_model_prefix}."
    names = (name for name, _ in whole.named_parameters())
    return frozenset(name for name in names if not name.startswith(inner) or _POOLER in f".{name}")


def draw(whole: Any, names: frozenset[str], *, seed: int) -> None:
    """Give weights numbers by a seed: matrices as the architecture draws them, biases 0 and norms 1."""
    deviation = float(getattr(whole.config, "initializer_range", None) or 0.02)
    generator = torch.Generator().manual_seed(seed)
    known = dict(whole.named_parameters())
    with torch.no_grad():
        for name in sorted(names):
            weight = known[name]
            if weight.ndim >= _MATRIX:
                weight.copy_(torch.randn(weight.shape, generator=generator) * deviation)
            else:
                weight.fill_(0.0 if name.endswith("bias") else 1.0)


def score(whole: Any, texts: Sequence[Sequence[int]], device: torch.device) -> Tensor:
    """Scores (texts, labels) of tokens, float32, computed together."""
    filled = int(whole.config.pad_token_id or 0)
    ids = pad(texts, filled, device)
    if hasattr(whole, _LAST):
        states = whole.base_model(input_ids=ids, use_cache=False).last_hidden_state
        ends = torch.tensor([len(text) - 1 for text in texts], device=device)
        scores: Tensor = whole.score(states[torch.arange(len(texts), device=device), ends])
        return scores.float()
    seen = pad([[1] * len(text) for text in texts], 0, device)
    given: Tensor = whole(input_ids=ids, attention_mask=seen).logits
    return given.float()


def check(whole: Any, device: torch.device) -> None:
    """See whether what a text is filled up with changes its scores.

    Raises:
        LoadError: It does.
    """
    short = [3, 1, 2]
    whole.eval()
    with torch.no_grad():
        alone = score(whole, [short], device)
        beside = score(whole, [short, [1, 2, 3, 1, 2, 3, 1]], device)[:1]
    if not torch.allclose(alone, beside, rtol=1e-2, atol=1e-3):
        raise UnsupportedModelError(
            f"{whole.config.model_type}: scores of a text are others beside a longer one: it cannot be trained here"
        )
