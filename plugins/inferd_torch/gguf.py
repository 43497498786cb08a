"""A GGUF file: its index of tensors and its vocabulary. transformers reads the weights and decodes them."""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache, partial
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from gguf import GGUFReader
from transformers.integrations.ggml import GGUF_CONFIG_MAPPING

from inferd.plugin import (
    GGUF_BOS_RULES,
    LoadError,
    TokenKind,
    UnsupportedModelError,
    Vocabulary,
    read_gguf_embedding,
    read_gguf_endings,
    read_gguf_sampling,
    read_gguf_splitting,
    read_gguf_strips,
    refuse_ignored,
    refuse_no_model,
)
from inferd_torch.artifact import Artifact

PREFIX = "tokenizer.ggml."
TEMPLATE = "tokenizer.chat_template"  # others have their names behind it, see gguf's `add_chat_template`
ALGORITHMS = ("gpt2", "llama")

# Factors of the rotation's frequencies.
ROTATION_TENSORS = frozenset({"rope_freqs.weight", "rope_factors_long.weight", "rope_factors_short.weight"})
# What `_read_vocabulary` reads, and `read_gguf_embedding`.
USED = frozenset(
    f"{PREFIX}{name}"
    for name in (
        *("model", "tokens", "token_type", "scores", "merges", "pre", "bos_token_id", "eos_token_id"),
        *("eos_token_ids", "eot_token_id", "eom_token_id", "add_bos_token", "add_eos_token", "add_space_prefix"),
    )
)
# Values that transformers takes from the configuration of an architecture, not from its file: they must be the same.
SAME = {
    "attention.sliding_window": "sliding_window",
    "attention.key_length": "head_dim",
    "attention.value_length": "head_dim",
    "rope.dimension_count": "head_dim",
    "attn_logit_softcapping": "attn_logit_softcapping",
    "final_logit_softcapping": "final_logit_softcapping",
    "logit_scale": "logit_scale",
}


class Reader(GGUFReader):
    """Reads a file as gguf does, in a third of the time: each of a million pieces is cut from a plain array.

    gguf cuts them from a `numpy.memmap`, each of which is made with its file and place; what is mapped is the same.
    """

    @property
    def data(self) -> Any:
        """The bytes of the file."""
        return self._data

    @data.setter
    def data(self, mapped: Any) -> None:
        self._data = np.asarray(mapped)


@contextmanager
def quick_reading() -> Iterator[None]:
    """In this transformers reads a file by `Reader`, and makes the names of all tensors once, and not for each part."""
    make, reader = gguf.get_tensor_name_map, gguf.GGUFReader
    gguf.get_tensor_name_map, gguf.GGUFReader = cache(make), Reader  # type: ignore[misc] # for the time of this
    try:
        yield
    finally:
        gguf.get_tensor_name_map, gguf.GGUFReader = make, reader  # type: ignore[misc] # as above


def name_architecture(path: Path) -> str:
    """What a file says that it is; "" where that cannot be read."""
    try:
        return str(_read(Reader(path), "general.architecture", ""))
    except Exception:  # noqa: BLE001 - the edge to a parser that raises what it likes
        return ""


def read_gguf(path: Path, pre_tokenizer: str = "") -> Artifact:
    """Read the index and the vocabulary of a file.

    Args:
        path: The file.
        pre_tokenizer: How a byte-level vocabulary splits text, whatever the file says; "" for that.

    Raises:
        LoadError: The file is not sound, or its tokenizer is of a kind that is not supported.
    """
    try:
        reader = Reader(path)
        refuse_no_model(str(path), lambda key: _read(reader, key, None))
        counts = Counter[str]()
        for tensor in reader.tensors:
            counts[tensor.tensor_type.name] += int(tensor.n_elements)
        _refuse_scaling(path, reader)
        vocabulary = _read_vocabulary(path, reader, pre_tokenizer)
        sampling = read_gguf_sampling(str(path), lambda key: _read(reader, key, None))
        embedding = read_gguf_embedding(str(path), lambda key: _read(reader, key, None))
        left = {name: field.contents() for name, field in reader.fields.items() if name not in USED}
    except LoadError:
        raise
    except Exception as error:  # the edge to a parser that raises what it likes
        raise LoadError(f"{path} is not a sound GGUF file: {type(error).__name__}: {error}; fetch it again") from error
    return Artifact(
        path=path,
        folder=path.parent,
        options={"gguf_file": path.name},
        parameters=counts.total(),
        weight_format=counts.most_common(1)[0][0] if counts else "none",
        vocabulary=vocabulary,
        sampling=sampling,
        embedding=embedding,
        metadata=left,
    )


def refuse_unread(artifact: Artifact, config: Any) -> None:
    """Refuse what transformers leaves out in silence when it reads a GGUF file: metadata that it has no place for.

    Raises:
        LoadError: There is such a key; it is named with its value.
    """
    architecture = str(artifact.metadata.get("general.architecture", ""))
    known = GGUF_CONFIG_MAPPING.get(architecture.replace("-", "_")) or GGUF_CONFIG_MAPPING.get(config.model_type, {})
    used = {f"{architecture}.{key}" for key, field in known.items() if field is not None}
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    own = {"head_dim": width, "sliding_window": getattr(config, "sliding_window", None)}
    neutral = {key: (own.get(name, getattr(config, name, None)),) for key, name in SAME.items()}
    rotated = int(width * (getattr(config, "partial_rotary_factor", None) or 1))
    refuse_ignored(
        str(artifact.path),
        artifact.metadata,
        used={"general.architecture", f"{architecture}.pooling_type", f"{architecture}.rope.scaling.type", *used},
        neutral=neutral | {"rope.dimension_count": (rotated,), "attention.scale": (width**-0.5,)},
        fix="transformers does not read it: take the model's folder of safetensors",
    )


def _refuse_scaling(path: Path, reader: GGUFReader) -> None:
    """Refuse what transformers leaves out in silence when it reads a GGUF file: scaled rotation."""
    architecture = _read(reader, "general.architecture", "")
    linear = _read(reader, f"{architecture}.rope.scale_linear", 1.0)
    factor = _read(reader, f"{architecture}.rope.scaling.factor", linear)
    kind = _read(reader, f"{architecture}.rope.scaling.type", "none" if factor in (0, 1) else "linear")
    tensors = [tensor.name for tensor in reader.tensors if tensor.name in ROTATION_TENSORS]
    if kind != "none" or linear != 1 or tensors:
        what = tensors[0] if tensors else f"rope.scaling.type {kind!r}" if kind != "none" else f"scale_linear {linear}"
        raise UnsupportedModelError(
            f"{path} scales the rotation of positions ({what}), which transformers does not read from a GGUF file:"
            " load it with the backend 'cpu', or take the model's folder of safetensors"
        )


def _read(reader: GGUFReader, name: str, default: Any) -> Any:
    field = reader.get_field(name)
    return default if field is None else field.contents()


def _read_vocabulary(path: Path, reader: GGUFReader, pre_tokenizer: str) -> Vocabulary:
    read = partial(_read, reader)
    model = read(f"{PREFIX}model", "")
    if model not in ALGORITHMS:
        raise UnsupportedModelError(
            f"{path}: {PREFIX}model is {model!r}, which is not supported; supported: {ALGORITHMS}"
        )
    tokens: list[str] = read(f"{PREFIX}tokens", [])
    kinds: list[int] = read(f"{PREFIX}token_type", None) or [TokenKind.NORMAL] * len(tokens)
    bpe = model == "gpt2"
    rule = read_gguf_splitting(str(path), lambda key: read(key, None), pre_tokenizer) if bpe else ""
    before, after = read_gguf_strips(lambda key: read(key, None), tokens, kinds)
    return Vocabulary(
        algorithm="bpe" if bpe else "spm",
        tokens=tokens,
        kinds=kinds,
        merges=read(f"{PREFIX}merges", []) if bpe else (),
        scores=() if bpe else read(f"{PREFIX}scores", []),
        pre_tokenizer=rule,
        bos_id=read(f"{PREFIX}bos_token_id", None),
        eos_ids=read_gguf_endings(str(path), lambda key: read(key, None), tokens, kinds),
        add_bos=read(f"{PREFIX}add_bos_token", rule in GGUF_BOS_RULES if bpe else True),
        add_space_prefix=read(f"{PREFIX}add_space_prefix", True),
        strips_before=before,
        strips_after=after,
        chat_template=read(TEMPLATE, None) or read(f"{TEMPLATE}.default", None),
        tool_use_template=read(f"{TEMPLATE}.tool_use", None),
    )
