"""Models that `inferd pull` knows by name; the kernel knows them too, for how they are to be sampled."""

from inferd.runtime.catalogue import CATALOGUE, CatalogueEntry

__all__ = ["CATALOGUE", "CatalogueEntry"]
