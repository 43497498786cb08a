"""Of which format a model's file or folder is. Nothing of it is parsed."""

import re
from pathlib import Path

from inferd.content import PART

MAGICS = {b"GGUF": "gguf"}  # formats that say so in their first bytes, whatever the file is called
FOLDER_MARKS = {  # the format of a folder, by the file that makes it one; of several the first one
    "classifier.json": "classifier",  # beside a config.json
    "config.json": "hf",
    "model.onnx": "onnx",
    "heads.json": "heads",
}
INNER_MARKS = {  # where sentence-transformers and others put it, and those of an encoder with a decoder
    "onnx/model.onnx": "onnx",
    "encoder_model.onnx": "onnx",
    "onnx/encoder_model.onnx": "onnx",
}
HF_WEIGHTS = "*.safetensors"  # a Hugging Face folder that has an ONNX model beside its own weights stays one
PEFT_MARK = "adapter_config.json"
WEIGHTS = (".safetensors", ".bin", ".pt", ".pth", ".ckpt")


def folder_format(path: Path) -> str | None:
    """The format of a folder; None where it is none, or no model's."""
    found = [kind for mark, kind in (FOLDER_MARKS | INNER_MARKS).items() if (path / mark).is_file()]
    if len(found) > 1 and not any(path.glob(HF_WEIGHTS)):
        return found[-1]
    return found[0] if found else None


def file_format(path: Path) -> str:
    """The format of a file.

    Raises:
        OSError: It cannot be read.
    """
    with path.open("rb") as file:
        magic = file.read(4)
    return MAGICS.get(magic, path.suffix.removeprefix(".").lower())


def lacks(path: Path) -> str:
    """What a folder that is no model's lacks, for errors."""
    if (path / PEFT_MARK).is_file():
        return (
            f"{path} is an adapter (LoRA), no model: have the model that it was made for use it (inferd adapters load"
            f" MODEL NAME {path}), or load that model with --set adapter={path}"
        )
    *marks, last = FOLDER_MARKS
    return f"{path} is a folder without a {', '.join(marks)} or {last}"


def refuse_weights(path: Path) -> str:
    """Why a file is no model, where its ending says that it is weights alone; else ""."""
    if path.suffix.lower() not in WEIGHTS:
        return ""
    if (path.parent / PEFT_MARK).is_file():
        return lacks(path.parent)
    fix = f"name {path.parent}" if folder_format(path.parent) else "name that folder"
    return f"{path} is weights alone; a model is a folder with config.json, its weights and its tokenizer: {fix}"


def model_name(file: str, *, folder: bool = False) -> str:
    """The name of a model whose file or folder is called `file`, in the characters of names.

    Of a file it is the stem, less which part of a model it is.
    """
    part = PART.fullmatch(file)
    stem = file if folder else part["stem"] if part else Path(file).stem
    return re.sub(r"[^A-Za-z0-9._-]+", "_", stem).lstrip(".")[:128] or "model"
