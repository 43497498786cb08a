"""A file that is sound as far as it has been read, and how it was asked for."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from inferd.plugin import (
    EmbeddingDefaults,
    LoadError,
    LoadRequest,
    Pooling,
    SamplingDefaults,
    UnsupportedModelError,
    Vocabulary,
    naming,
    read_gguf_embedding,
    read_gguf_sampling,
    read_hf_json,
    read_hf_pooling,
    read_hf_sampling,
    read_hf_separator,
    read_hf_type,
    read_hf_vocabulary,
    refuse_ignored,
    refuse_no_model,
)
from inferd.plugin.hf import CLASSIFIES
from inferd_cpu.adapters import adapt
from inferd_cpu.architecture import Architecture, read_architecture
from inferd_cpu.expert_files import stack_experts
from inferd_cpu.heads import GGUF_TENSORS, is_ranked, read_gguf_head, read_hf_head, read_tensors
from inferd_cpu.hf_folder import CONFIG, HfFolder
from inferd_cpu.inventory import Inventory
from inferd_cpu.vision.sight import Sight, look
from inferd_cpu.vocabulary import read_vocabulary
from inferd_weights.gguf import GgufFile
from inferd_weights.model_file import ModelFile

GENERATION = "generation_config.json"


@dataclass(frozen=True, slots=True)
class Source:
    """What is to be loaded: all of the file but its weights."""

    request: LoadRequest
    file: ModelFile
    architecture: Architecture
    vocabulary: Vocabulary
    vocabulary_size: int
    inventory: Inventory
    sampling: SamplingDefaults
    embedding: EmbeddingDefaults
    sight: Sight | str = ""  # what it sees with; where it sees nothing, why
    separator: int = -1  # the token between two texts that are scored, of which the second is of another type

    @property
    def settings(self) -> Mapping[str, Any]:
        """How it was asked for."""
        return self.request.settings


def read_source(request: LoadRequest) -> Source:
    """Read it.

    Raises:
        LoadError: The file is not a sound GGUF model of a known architecture, or has metadata that changes results and
            is not supported.
    """
    with naming(lambda: _name_architecture(request.path)):
        return _read_folder(request) if request.path.is_dir() else _read_file(request)


def _name_architecture(path: Path) -> str:
    """What a file or folder says that it is; "" where that cannot be read either."""
    if path.is_dir():
        return read_hf_type(path)
    try:
        return GgufFile(path).metadata.text("general.architecture")
    except LoadError:
        return ""


def _read_folder(request: LoadRequest) -> Source:
    """A Hugging Face folder."""
    folder = HfFolder(request.path)
    config, path = folder.config, request.path
    generation, settings = read_hf_json(path / GENERATION, required=False), read_hf_json(path / CONFIG)
    architecture = read_architecture(folder.metadata, halves=config.halves, grouped=True)
    embedding = _read_pooling(path, architecture)
    if architecture.family.encodes and str((settings.get("architectures") or [""])[0]).endswith(CLASSIFIES):
        head = read_hf_head(str(path), read_tensors(folder, folder.heads), settings, width=architecture.width)
        embedding = replace(embedding, pooling=Pooling.RANK, head=head)
    file = _adapt(request, folder, architecture)
    vocabulary = read_hf_vocabulary(path, settings, generation)
    return Source(
        request,
        file,
        architecture,
        vocabulary,
        config.vocabulary_size,
        Inventory(file, architecture, vocabulary_size=config.vocabulary_size),
        read_hf_sampling(str(path / GENERATION), generation),
        embedding,
        look(request, architecture, vocabulary),
        read_hf_separator(path) if embedding.head else -1,
    )


def _adapt(request: LoadRequest, file: ModelFile, architecture: Architecture) -> ModelFile:
    """The file with the adapter that the settings name."""
    path = request.settings.get("adapter")
    if not path:
        return file
    scale = request.settings.get("adapter_scale")
    try:
        return adapt(file, architecture, Path(str(path)), 1.0 if scale is None else float(scale))
    except UnsupportedModelError as error:  # other backends add no adapters
        raise LoadError(str(error)) from None


def _read_pooling(path: Path, architecture: Architecture) -> EmbeddingDefaults:
    """As sentence-transformers says it; of an encoder that it does not know the mean of all tokens."""
    return read_hf_pooling(path, default=Pooling.MEAN if architecture.family.encodes else Pooling.LAST)


def _read_file(request: LoadRequest) -> Source:
    """A GGUF file."""
    file = GgufFile(request.path)
    refuse_no_model(str(request.path), file.metadata.content)
    architecture = read_architecture(file.metadata)
    vocabulary = read_vocabulary(file.metadata, str(request.settings.get("pre_tokenizer") or ""))
    size = len(file.metadata.texts("tokenizer.ggml.tokens"))
    where, read = str(request.path), file.metadata.content
    ranked = is_ranked(read(f"{architecture.name}.pooling_type"))
    embedding = EmbeddingDefaults()
    if ranked:
        file.metadata.used.add(f"{architecture.name}.classifier.output_labels")  # names of the scores
        key = f"{where}: '{architecture.name}.pooling_type' is {Pooling.RANK.value}"
        head = read_gguf_head(key, read_tensors(file, file.tensors), width=architecture.width)
        embedding = EmbeddingDefaults(pooling=Pooling.RANK, head=head)
        file.tensors = {name: each for name, each in file.tensors.items() if name not in GGUF_TENSORS}
    else:
        embedding = read_gguf_embedding(where, read)
    adapted = _adapt(request, stack_experts(file), architecture)
    source = Source(
        request,
        adapted,
        architecture,
        vocabulary,
        size,
        Inventory(adapted, architecture, vocabulary_size=size),
        read_gguf_sampling(where, read),
        embedding,
        look(request, architecture, vocabulary),
        file.metadata.integer("tokenizer.ggml.seperator_token_id", size) if ranked else -1,
    )
    refuse_ignored(
        where,
        {key: value.content for key, value in file.metadata.items()},
        used=file.metadata.used,
    )
    return source
