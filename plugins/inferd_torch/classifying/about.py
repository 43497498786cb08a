"""What a folder of a classifier says: `classifier.json`, beside the configuration and the weights of its network."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from inferd.plugin import LoadError, read_hf_json
from inferd_torch.plugin import CLASSIFIER_MARK

FORMAT, VERSION = "inferd-classifier", 1
FEWEST_LABELS, MOST_LABELS, MOST_LABEL_CHARACTERS = 2, 1000, 256
MOST_TOKENS: Final = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class About:
    """A classifier.

    Attributes:
        labels: In the order of its scores.
        most_tokens: Of a text, that are read.
    """

    labels: tuple[str, ...]
    most_tokens: int


def write_about(folder: Path, about: About) -> None:
    """Say what a folder is."""
    said = {"format": FORMAT, "version": VERSION, "labels": list(about.labels), "most_tokens": about.most_tokens}
    (folder / CLASSIFIER_MARK).write_text(json.dumps(said, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def read_about(folder: Path) -> About:
    """What a folder is.

    Raises:
        LoadError: It is no classifier, or of another version.
    """
    path = folder / CLASSIFIER_MARK
    found = read_hf_json(path)
    if found.get("format") != FORMAT or found.get("version") != VERSION:
        raise LoadError(
            f"{path}: is of format {found.get('format')!r}, version {found.get('version')!r}; this backend reads"
            f" {FORMAT!r}, version {VERSION}"
        )
    labels, most = found.get("labels"), found.get("most_tokens")
    if not isinstance(labels, list) or not all(isinstance(each, str) and each for each in labels):
        raise LoadError(f"{path}: 'labels' must be a list of texts")
    if not FEWEST_LABELS <= len(labels) <= MOST_LABELS or max(map(len, labels)) > MOST_LABEL_CHARACTERS:
        raise LoadError(
            f"{path}: has {len(labels)} labels; {FEWEST_LABELS} to {MOST_LABELS} are taken, each of"
            f" {MOST_LABEL_CHARACTERS} characters at most"
        )
    if len(set(labels)) < len(labels):
        raise LoadError(f"{path}: has a label twice")
    if type(most) is not int or not 1 <= most <= MOST_TOKENS:
        raise LoadError(f"{path}: 'most_tokens' is {most!r}; it must be a whole number from 1 to {MOST_TOKENS}")
    return About(labels=tuple(labels), most_tokens=most)
