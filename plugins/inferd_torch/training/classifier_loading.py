"""Classifiers that are trained: what of a folder is checked, loaded, chosen to be trained, and written again."""

import shutil
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor

from inferd.plugin import ExportKind, LoadError, TrainError, TrainingRecipe
from inferd_torch.artifact import Artifact
from inferd_torch.classifying import networks
from inferd_torch.classifying.about import About, write_about
from inferd_torch.classifying.reading import TextReader, make_reader
from inferd_torch.network import STORED
from inferd_torch.training.classifier import LabelledText, TextClassifier
from inferd_torch.training.lora import LoraLinear, add_lora, merged, unwrapped

FULL, LORA, HEAD = "full", "lora", "head"
TUNES: Final = ("", FULL, LORA, HEAD)
TOKENIZERS: Final = (
    *("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "tokenizer.model"),
    *("vocab.json", "vocab.txt", "merges.txt", "added_tokens.json"),
)
"""Files of a folder that are the same beside other weights."""


def read_classifier(path: Path, labels: Sequence[str]) -> tuple[Artifact, Any, int]:
    """What is on disk, its configuration for these labels, and the tokens of a text that it reads at most.

    Raises:
        LoadError: It is not sound, or of an architecture that gives no labels.
    """
    artifact, config = networks.read_network(path)
    config = networks.label(config, labels)
    with torch.device("meta"):
        return artifact, config, networks.context_of(artifact, config, networks.make_network(config))


def choose(whole: Any, recipe: TrainingRecipe) -> dict[str, LoraLinear]:
    """Say what of a network is trained: its last layer in any case; its adapters, by layer, where there are some.

    Raises:
        TrainError: The recipe names what there is not.
    """
    adapters: dict[str, LoraLinear] = {}
    last = networks.last_layers(whole)
    if recipe.tune == LORA:
        adapters = add_lora(whole, recipe)
    elif recipe.tune == HEAD:
        whole.requires_grad_(False)
    elif recipe.tune in {"", FULL}:
        whole.requires_grad_(True)
    else:
        raise TrainError(f"'tune' is {recipe.tune!r}; it must be one of {', '.join(filter(None, TUNES))}")
    for name, each in whole.named_parameters():
        if name in last:
            each.requires_grad_(True)
    return adapters


def largest_part(
    whole: Any, recipe: TrainingRecipe, labels: Sequence[str], *, rows: int, device: torch.device
) -> Callable[[], Tensor]:
    """What computes the loss of the largest part of a step."""
    given = [LabelledText([0] * recipe.most_tokens, 0)] * rows
    made = TextClassifier(whole, None, names=labels, recipe=recipe, device=device, export=_export_nothing)
    return partial(made.loss, given)


def make_classifier(  # noqa: PLR0917 - all that it is made of
    artifact: Artifact,
    config: Any,
    recipe: TrainingRecipe,
    labels: Sequence[str],
    device: torch.device,
    load: Callable[[Callable[[], Any]], Any],
    prepare: Callable[[Any], dict[str, LoraLinear]],
    reader: TextReader,
) -> TextClassifier:
    """The objective, with its weights; what is new of them follows from the seed.

    Raises:
        TrainError: A weight is missing, or its scores depend on what they are computed with.
    """
    whole, new = load(lambda: networks.load_network(artifact, config, device=device, dtype=torch.float32))
    if networks.labels_of(config) != _labels_of(artifact.path):
        new |= frozenset(name for name in networks.last_layers(whole) if ".pooler." not in f".{name}")
    networks.draw(whole, new, seed=recipe.seed)
    try:
        networks.check(whole, device)
    except LoadError as error:
        raise TrainError(str(error)) from error
    adapters = prepare(whole)
    export = partial(_export, whole, adapters, artifact, About(labels=tuple(labels), most_tokens=recipe.most_tokens))
    return TextClassifier(whole, reader, names=labels, recipe=recipe, device=device, export=export)


def first_rows(
    rows: Sequence[tuple[Mapping[str, Any], str]], artifact: Artifact, recipe: TrainingRecipe, labels: Sequence[str]
) -> TextReader:
    """What reads texts; these rows are read now, so that what is wrong in them is told before weights are loaded.

    Raises:
        TrainError: One is wrong.
    """
    reader = make_reader(artifact, most=recipe.most_tokens)
    made = TextClassifier(None, reader, names=labels, recipe=recipe, device=torch.device("cpu"), export=_export_nothing)
    for row, name in rows:
        made.read(dict(row), name)
    return reader


def _labels_of(path: Path) -> tuple[str, ...]:
    """Those that a folder gives already."""
    return networks.labels_of(networks.read_network(path)[1])


def _export_nothing(folder: Path) -> ExportKind:
    raise TrainError(f"{folder}: there is nothing to export")


def _export(whole: Any, adapters: dict[str, LoraLinear], artifact: Artifact, about: About, folder: Path) -> ExportKind:
    """A folder as transformers writes it, with adapters added to the layers that they are beside."""
    stored = STORED.get(artifact.weight_format, torch.float32)
    weights = {name: each.to(stored) for name, each in merged(whole, adapters).items()}
    whole.config.dtype = stored
    with unwrapped(whole, adapters):
        whole.save_pretrained(folder, state_dict=weights)
    for name in TOKENIZERS:
        if (artifact.path / name).is_file():
            shutil.copyfile(artifact.path / name, folder / name)
    write_about(folder, about)
    return ExportKind.MODEL
