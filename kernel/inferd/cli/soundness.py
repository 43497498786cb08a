"""What may be pulled: files of models, folders that are one, and nothing that is cut short."""

from __future__ import annotations

import json
import re
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any, Final

from inferd.cli.output import CommandError
from inferd.plugin.backend import LoadError, UnsupportedModelError
from inferd.runtime.formats import FOLDER_MARKS, INNER_MARKS

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

GGUF: Final = b"GGUF"
MODEL_ENDINGS: Final = (".gguf", ".onnx", ".ort")
WEIGHT_ENDINGS: Final = (".safetensors", ".bin", ".pt", ".pth")
MOST_FILES: Final = 512
SHOWN: Final = 5
WANTED: Final = "a folder with config.json, its weights (*.safetensors) and its tokenizer"
LEFT_OUT: Final = (  # of a folder: what no backend opens
    *(".*", "*/.*", "*.py", "*.pyc", "*.pt", "*.pth", "*.ckpt", "*.pkl", "*.h5", "*.msgpack", "*.ot", "*.tflite"),
    *("pytorch_model*", "training_args.bin", "optimizer*"),
)
LEFT_OUT_BESIDE_WEIGHTS: Final = ("onnx/*", "openvino/*", "coreml/*", "*.gguf", "*.onnx*", "*.bin", "consolidated*")
NAME: Final = re.compile(r"[^\x00-\x1f\x7f\\\\/]{1,255}")
INDEX: Final = "model.safetensors.index.json"
MOST_INDEX_BYTES: Final = 64 << 20


def check_beginning(begins: bytes, name: str, *, shown: str) -> None:
    """See that a file may be one of a model, before it is copied.

    Raises:
        CommandError: Its first bytes are none of a model's; of formats without such bytes its ending counts.
    """
    refuse_weights(name, shown=shown)
    if not begins.startswith(GGUF) and not name.lower().endswith(MODEL_ENDINGS[1:]):
        raise CommandError(
            f"{shown} is no model file: it begins with {begins[: len(GGUF)]!r}, a GGUF file with {GGUF!r}",
            reason="SOURCE_INVALID",
        )


def refuse_weights(name: str, *, shown: str, instead: str = "") -> None:
    """Refuse a file of weights alone; `instead` is what may be pulled in its place.

    Raises:
        CommandError: It is one.
    """
    if name.lower().endswith(WEIGHT_ENDINGS):
        fix = f"pull {instead}" if instead else "pull that folder"
        raise CommandError(f"{shown} is weights alone; a model is {WANTED}: {fix}", reason="SOURCE_INVALID")


def find_folders(paths: Iterable[str]) -> list[str]:
    """The folders, among all paths of files, that are a model's; "" is the one that they are all in."""
    marks = (*FOLDER_MARKS, *INNER_MARKS)
    found = [path.removesuffix(mark) for path in paths for mark in marks if f"/{path}".endswith(f"/{mark}")]
    folders = sorted({each.rstrip("/") for each in found})
    below = {mark.rpartition("/")[0] for mark in INNER_MARKS} - {""}
    inner = {f"{outer}/{each}".lstrip("/") for outer in folders for each in below}
    return [each for each in folders if each not in inner and _has_weights(paths, each)]


def choose_files(paths: Sequence[str], shown: str) -> list[str]:
    """What a backend may open of a model's folder.

    Raises:
        CommandError: There are no weights that one opens, too many files, or one has a name that cannot be kept.
    """
    kept = [path for path in paths if not _matches(path, LEFT_OUT)]
    if any(path.endswith(".safetensors") and "/" not in path for path in kept):
        kept = [path for path in kept if not _matches(path, LEFT_OUT_BESIDE_WEIGHTS)]
    elif not any(path.endswith(MODEL_ENDINGS) for path in kept):
        raise CommandError(f"{shown} has no weights that a backend reads; a model is {WANTED}", reason="SOURCE_INVALID")
    if len(kept) > MOST_FILES:
        raise CommandError(f"{shown} has {len(kept)} files; a model has at most {MOST_FILES}", reason="SOURCE_INVALID")
    for path in kept:
        if not all(NAME.fullmatch(part) and part not in {".", ".."} for part in path.split("/")):
            raise CommandError(f"{shown} has a file {path!r}, a name that cannot be kept", reason="SOURCE_INVALID")
    return kept


def no_model(what: str, ours: Iterable[str]) -> CommandError:
    """The error of something that is no folder of a model; `ours` are sources below it, of which some may be pulled."""
    found = [each for each in ours if each.lower().endswith(MODEL_ENDINGS) or "." not in each.rpartition("/")[2]]
    more = f" and {len(found) - SHOWN} more" if len(found) > SHOWN else ""
    hint = f"pull one of {', '.join(found[:SHOWN])}{more}" if found else "and no file of one"
    return CommandError(f"{what} is not {WANTED}; {hint}", reason="SOURCE_INVALID")


def check_whole(path: Path, shown: str) -> str:
    """See that what was fetched is all of a model; for people what about it nobody here can read, or "".

    Raises:
        CommandError: A file is cut short or damaged, or one that another names is missing. It is named as from `shown`.
    """
    try:
        if path.is_dir():
            _check_folder(path)
        elif _is_gguf(path):
            _check_gguf(path)
    except UnsupportedModelError as error:
        return str(error).replace(f"{path.parent}/", "")
    except LoadError as error:
        told = str(error).replace(f"{path.parent}/", "")
        raise CommandError(f"{told}; {shown} is not pulled", reason="SOURCE_INVALID") from None
    return ""


def _is_gguf(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(len(GGUF)) == GGUF


def _check_gguf(path: Path) -> None:
    from inferd_weights.gguf import GgufFile  # noqa: PLC0415 - it takes numpy

    GgufFile(path)


def _check_folder(path: Path) -> None:
    from inferd_weights.safetensors import check_length  # noqa: PLC0415 - it takes numpy

    for file in sorted(path.rglob("*.safetensors")):
        check_length(file)
    for file in sorted(path.rglob("*.json")):
        if file.name in {"config.json", "tokenizer.json", INDEX}:
            _check_json(file)


def _check_json(path: Path) -> None:
    with path.open("rb") as file:
        try:
            document: Any = json.loads(file.read(MOST_INDEX_BYTES))
        except (ValueError, RecursionError) as error:
            raise LoadError(f"{path}: is not JSON: {error}: it is cut short or damaged") from None
    if path.name != INDEX:
        return
    named = document.get("weight_map") if isinstance(document, dict) else None
    if not isinstance(named, dict) or not all(isinstance(name, str) for name in named.values()):
        raise LoadError(f"{path}: has no 'weight_map' of names: it is damaged")
    for name in sorted(set(named.values())):
        if not path.with_name(name.rpartition("/")[2]).is_file():
            raise LoadError(f"{path}: names {name!r}, which is missing; fetch it, too")


def _has_weights(paths: Iterable[str], folder: str) -> bool:
    inside = f"{folder}/" if folder else ""
    return any(path.startswith(inside) and path.endswith((".safetensors", *MODEL_ENDINGS[1:])) for path in paths)


def _matches(path: str, patterns: Iterable[str]) -> bool:
    return any(fnmatchcase(path, pattern) for pattern in patterns)
