"""Encoders of texts: a graph that takes token ids, in a folder with the tokenizer that makes them.

What the folder says beside the graph is read as the other backends read it: tokenizer.json, config.json, and
modules.json with the pooling of sentence-transformers.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np

from inferd.plugin import (
    EmbeddingDefaults,
    LoadedModel,
    LoadError,
    LoadRequest,
    ModelDescription,
    Pooling,
    RankHead,
    TensorInfo,
    UnsupportedModelError,
    Vocabulary,
    read_hf_json,
    read_hf_pooling,
    read_hf_separator,
    read_hf_vocabulary,
)
from inferd.plugin.hf import CLASSIFIES, CONFIG, MODULES, POOLING
from inferd.plugin.recipe_file import find_recipe
from inferd_onnx.encoder_session import FLOATS, INTEGERS, EncoderGraph, EncoderSession
from inferd_onnx.session import OnnxSession
from inferd_onnx.signature import find_tensor_settings

TOKENIZER: Final = "tokenizer.json"
IDS, MASK, TYPES, POSITIONS = "input_ids", "attention_mask", "token_type_ids", "position_ids"
TAKEN: Final = frozenset({IDS, MASK, TYPES, POSITIONS})
HIDDEN: Final = ("last_hidden_state", "token_embeddings", "hidden_states", "hidden_state", "output_0")
POOLED: Final = ("sentence_embedding", "sentence_embeddings", "embedding", "embeddings", "text_embeds", "pooler_output")
SCORES: Final = "logits"
TOKENS, NUMBERS = 3, 2  # sizes of an output with numbers for each token, and for each text
FIRST_POSITION: Final = frozenset({"roberta", "xlm-roberta", "xlm-roberta-xl", "camembert", "mpnet", "xmod"})
"""Types whose positions begin behind that of padding."""
DEFAULT_CONTEXT, MOST_CONTEXT = 512, 1 << 16


@dataclass(frozen=True, slots=True)
class _Folder:
    """What a folder says beside its graph."""

    path: Path
    config: Mapping[str, Any]
    vocabulary: Vocabulary
    embedding: EmbeddingDefaults
    scores: bool


def load_encoder(
    graph: OnnxSession, request: LoadRequest, description: ModelDescription, *, alone: bool = False
) -> LoadedModel | None:
    """The encoder of a folder; None where the folder or the graph is none, and nobody asked for one.

    Args:
        graph: Loaded.
        request: What was asked for.
        description: Of the model.
        alone: Whether each text is computed alone, as others beside it would change what it gives.

    Raises:
        LoadError: A file of the folder is missing, damaged or contradicts the graph; the message names file and field.
    """
    asked = request.settings["serves"] == "embeddings"
    if not may_encode(request):
        if asked and find_recipe(request.path).is_file():
            raise LoadError(
                f"setting 'serves' is 'embeddings', but {find_recipe(request.path)} is for models of tensors"
            )
        if asked:
            where = request.path / TOKENIZER if request.path.is_dir() else f"a folder beside it, not {request.path},"
            raise LoadError(f"setting 'serves' is 'embeddings', but {where} is not there: texts need a tokenizer")
        return None
    if given := find_tensor_settings(request.settings):
        raise LoadError(
            f"{request.path}: setting {given[0]!r} is for models of tensors, and 'serves' is 'embeddings': texts are"
            " computed together as they come; leave one of the two out"
        )
    inputs = {each.name: each for each in graph.signature.inputs}
    why = _refuse_inputs(inputs)
    output = None if why else _choose_output(graph.signature.outputs)
    if output is None:
        why = why or (
            f"none of its outputs ({', '.join(each.name for each in graph.signature.outputs)}) has hidden states of"
            f" [batch, tokens, width] ({', '.join(HIDDEN)}), or vectors of texts ({', '.join(POOLED)})"
        )
        if asked or (request.path / MODULES).is_file():
            raise UnsupportedModelError(f"{request.path} makes no embeddings: {why}; load it with serves=tensors")
        return None
    folder = _read_folder(request.path)
    if output.name == SCORES and not folder.scores:
        return None
    ranks = output.name == SCORES
    if ranks != folder.scores:
        raise LoadError(
            f"{request.path / CONFIG}: 'architectures' is a classifier's, but the graph has no output {SCORES!r}"
        )
    session = _make_session(graph, folder, output, alone=alone)
    return LoadedModel(
        session=session,
        vocabulary=folder.vocabulary,
        description=description,
        embedding=_embedding(folder, output, width=session.limits.embedding_size),
    )


def may_encode(request: LoadRequest) -> bool:
    """Whether a model is a folder with a tokenizer, and nothing says that it is to be one of tensors."""
    serves = request.settings["serves"]
    if serves == "tensors" or (serves == "auto" and find_tensor_settings(request.settings)):
        return False
    return request.path.is_dir() and (request.path / TOKENIZER).is_file() and not find_recipe(request.path).is_file()


def _refuse_inputs(inputs: Mapping[str, TensorInfo]) -> str:
    """Why a graph does not take token ids alone; "" where it does."""
    if IDS not in inputs:
        return f"it has no input {IDS!r}"
    for name, info in inputs.items():
        if name not in TAKEN and not info.optional:
            return f"it has the input {name!r}, which no tokenizer gives"
        if name in TAKEN and (info.element_type not in INTEGERS or len(info.shape or ()) != NUMBERS):
            kind = f"{info.element_type.name} of shape {info.shape}"
            return f"its input {name!r} is {kind}; it must be INT64 [batch, tokens]"
    return ""


def _choose_output(outputs: tuple[TensorInfo, ...]) -> TensorInfo | None:
    """Hidden states before what is pooled already, and that before scores."""
    floats = [each for each in outputs if each.element_type in FLOATS and each.shape is not None]
    for names, rank in ((HIDDEN, TOKENS), (POOLED, NUMBERS), ((SCORES,), NUMBERS)):
        for name in names:
            found = next((each for each in floats if each.name == name and len(each.shape or ()) == rank), None)
            if found is not None:
                return found
    return None


def _read_folder(path: Path) -> _Folder:
    config = read_hf_json(path / CONFIG, required=False)
    names = config.get("architectures")
    named = names[0] if isinstance(names, list) and names else ""
    return _Folder(
        path=path,
        config=config,
        vocabulary=read_hf_vocabulary(path, dict(config), {}),
        embedding=read_hf_pooling(path, default=Pooling.MEAN),
        scores=isinstance(named, str) and named.endswith(CLASSIFIES),
    )


def _make_session(graph: OnnxSession, folder: _Folder, output: TensorInfo, *, alone: bool) -> EncoderSession:
    """The session, after one token was tried: so its width is known, and that the graph gives what it says."""
    inputs = {each.name: each for each in graph.signature.inputs if each.name in TAKEN}
    rows, tokens = inputs[IDS].shape or ("", "")
    if isinstance(tokens, int) and MASK not in inputs:
        raise UnsupportedModelError(
            f"{folder.path}: the graph takes texts of {tokens} tokens and no {MASK!r}, so that it cannot tell shorter"
            " texts from padding; load it with serves=tensors"
        )
    made = EncoderGraph(
        graph=graph,
        inputs={name: each.element_type for name, each in inputs.items()},
        output=output.name,
        pooled=len(output.shape or ()) == NUMBERS,
        padding=_integer(folder, "pad_token_id", 0, most=1 << 31, default=0),
        separator=read_hf_separator(folder.path) if folder.scores else -1,
        rows=rows if isinstance(rows, int) else None,
        tokens=tokens if isinstance(tokens, int) else None,
        alone=alone,
    )
    size = _vocabulary_size(folder)
    ends = folder.vocabulary.eos_ids[:1] or (0,)
    try:
        (tried,) = made.compute([np.array([min(ends[0], size - 1)], np.int32)])
    except Exception as error:
        raise LoadError(f"{folder.path}: the graph does not compute one token: {error}") from error
    return EncoderSession(made, vocabulary_size=size, context_tokens=_context(folder, made), width=tried.shape[-1])


def _embedding(folder: _Folder, output: TensorInfo, *, width: int) -> EmbeddingDefaults:
    """How embeddings are made: by the folder, unless the graph does it."""
    if folder.scores:
        head = RankHead(pooling=Pooling.FIRST, layers=((np.eye(width, dtype=np.float32), None, ""),))
        return EmbeddingDefaults(pooling=Pooling.RANK, head=head, pooled=True)
    pooled = len(output.shape or ()) == NUMBERS
    told = (folder.path / MODULES).is_file() or (folder.path / POOLING).is_dir()
    if pooled and not told:
        return EmbeddingDefaults(pooling=Pooling.FIRST, pooled=True)
    return replace(folder.embedding, pooled=pooled)


def _context(folder: _Folder, graph: EncoderGraph) -> int:
    """Most tokens of a text."""
    positions = _integer(folder, "max_position_embeddings", 1, most=1 << 31, default=0)
    if positions and folder.config.get("model_type") in FIRST_POSITION:
        positions -= graph.padding + 1
    known = [each for each in (positions, graph.tokens) if each]
    if positions < 0 or min(known, default=1) < 1:
        raise LoadError(f"{folder.path / CONFIG}: 'max_position_embeddings' leaves {positions} positions for tokens")
    return min(*known, MOST_CONTEXT) if known else DEFAULT_CONTEXT


def _vocabulary_size(folder: _Folder) -> int:
    """Tokens that the graph knows: as the configuration says, else as many as the tokenizer has."""
    if "vocab_size" in folder.config:
        return _integer(folder, "vocab_size", 1, most=1 << 24)
    definition = json.loads(folder.vocabulary.definition)
    pieces = (definition.get("model") or {}).get("vocab") or ()
    added = [each["id"] for each in definition.get("added_tokens") or ()]
    known = list(pieces.values()) if isinstance(pieces, dict) else list(range(len(pieces)))
    return int(max([*known, *added], default=0)) + 1


def _integer(folder: _Folder, name: str, least: int, *, most: int, default: int | None = None) -> int:
    value = folder.config.get(name)
    if value is None and default is not None:
        return default
    if type(value) is not int or not least <= value <= most:
        raise LoadError(
            f"{folder.path / CONFIG}: {name!r} is {str(value)[:80]}; it must be a whole number from {least} to {most}"
        )
    return value
