"""How a model is asked on the command line, by what its files say: nothing of it is loaded."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Final

from inferd.plugin.backend import LoadError
from inferd.plugin.recipe import TextInput
from inferd.plugin.recipe_file import find_recipe, read_recipe
from inferd.runtime.formats import folder_format

if TYPE_CHECKING:
    from pathlib import Path

MOST_JSON_BYTES: Final = 64 << 20
GRAPHS: Final = (".onnx", ".ort")
TEXTS: Final = ("tokenizer.json", "genai_config.json", "tokenizer.model")  # what a graph that reads text has beside it
HEARING: Final = ("encoder_model.onnx", "onnx/encoder_model.onnx")
POOLED: Final = "modules.json"
ENDINGS: Final = {"Model": "embed", "ForSequenceClassification": "rerank"}  # of the class that a folder was saved from
GIVEN: Final = {
    "run": "",
    "embed": " TEXT",
    "rerank": " QUERY DOCUMENT",
}
INFER: Final = "infer"
CLASSIFIER: Final = "classifier"  # the format of folders that inferd trained to give texts labels


def command_of(path: Path) -> str:
    """The command by which a model's file or folder is asked: `run`, `infer`, `embed` or `rerank`."""
    if find_recipe(path).is_file() or path.suffix.lower() in GRAPHS:
        return INFER
    if not path.is_dir():
        return "run"
    if any((path / name).is_file() for name in HEARING):
        return INFER
    if (path / POOLED).is_file():
        return "embed"
    kind = folder_format(path)
    if kind == CLASSIFIER or (kind == "onnx" and not any((path / name).is_file() for name in TEXTS)):
        return INFER
    saved_from = _class(path)
    return next((command for ending, command in ENDINGS.items() if saved_from.endswith(ending)), "run")


def how_to_ask(name: str, path: Path) -> str:
    """A command line that asks a model, as far as its files tell it."""
    command = command_of(path)
    return f"inferd {command} {name}{f' {_inputs(path)}' if command == INFER else GIVEN[command]}"


def _inputs(path: Path) -> str:
    if path.is_dir() and any((path / name).is_file() for name in HEARING) and not find_recipe(path).is_file():
        return "audio=@FILE"
    try:
        recipe = read_recipe(path)
    except LoadError:  # told where it is loaded
        recipe = None
    if path.is_dir() and folder_format(path) == CLASSIFIER and recipe is None:
        return "text=TEXT"
    steps = recipe.inputs if recipe is not None else ()
    return (
        " ".join(f"{step.name}={'TEXT' if isinstance(step, TextInput) else '@FILE'}" for step in steps) or "INPUT=VALUE"
    )


def _class(path: Path) -> str:
    """The class that a folder of Hugging Face was saved from; "" where it says none."""
    try:
        with (path / "config.json").open("rb") as file:
            found = json.loads(file.read(MOST_JSON_BYTES))
        return str(found["architectures"][0])
    except (OSError, ValueError, RecursionError, LookupError, TypeError):
        return ""
