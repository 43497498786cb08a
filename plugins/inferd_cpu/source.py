"""A file that is sound as far as it has been read, and how it was asked for."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from inferd.plugin import (
    EmbeddingDefaults,
    LoadRequest,
    SamplingDefaults,
    Vocabulary,
    read_gguf_embedding,
    read_gguf_sampling,
    refuse_ignored,
)
from inferd_cpu.architecture import Architecture, read_architecture
from inferd_cpu.gguf import GgufFile
from inferd_cpu.inventory import Inventory
from inferd_cpu.vocabulary import read_vocabulary


@dataclass(frozen=True, slots=True)
class Source:
    """What is to be loaded: all of the file but its weights."""

    request: LoadRequest
    file: GgufFile
    architecture: Architecture
    vocabulary: Vocabulary
    vocabulary_size: int
    inventory: Inventory
    sampling: SamplingDefaults
    embedding: EmbeddingDefaults

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
    file = GgufFile(request.path)
    architecture = read_architecture(file.metadata)
    vocabulary = read_vocabulary(file.metadata, str(request.settings.get("pre_tokenizer") or ""))
    size = len(file.metadata.texts("tokenizer.ggml.tokens"))
    where, read = str(request.path), file.metadata.content
    source = Source(
        request,
        file,
        architecture,
        vocabulary,
        size,
        Inventory(file, architecture, vocabulary_size=size),
        read_gguf_sampling(where, read),
        read_gguf_embedding(where, read),
    )
    refuse_ignored(
        where,
        {key: value.content for key, value in file.metadata.items()},
        used=file.metadata.used,
    )
    return source
