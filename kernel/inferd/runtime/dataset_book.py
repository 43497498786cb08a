"""The datasets that a kernel knows, by tenant, name and version."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from inferd.core.dataset import DatasetState
from inferd.dataset_errors import DatasetHeldError, DatasetNotFoundError
from inferd.errors import InvalidFieldError, suggestion

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from inferd.core.dataset import Statistics
    from inferd.runtime.kept_datasets import Entry

MOST_SHOWN = 500  # characters of versions that an error names


class DatasetBook:
    """Entries of datasets. One writer: `inferd.runtime.front.datasets.Datasets`.

    Attributes:
        count: Of all tenants.
        cost_bytes: What all take of memory, about.
    """

    def __init__(self) -> None:
        self.count = self.cost_bytes = 0
        self._costs: Counter[str] = Counter()  # by tenant
        self._tenants: dict[str, dict[str, dict[int, Entry]]] = {}

    def add(self, entry: Entry) -> None:
        """One more is known."""
        versions = self._tenants.setdefault(entry.tenant, {}).setdefault(entry.dataset.name, {})
        versions[entry.dataset.version] = entry
        self.count += 1
        self.charge(entry, entry.cost_bytes)

    def charge(self, entry: Entry, more_bytes: int) -> None:
        """It takes so much more memory than was counted."""
        self.cost_bytes += more_bytes
        self._costs[entry.tenant] += more_bytes

    def cost_of(self, tenant: str) -> int:
        """What those of a tenant take of memory, about."""
        return self._costs[tenant]

    def forget(self, entry: Entry) -> None:
        """It is known no longer; nothing where it is not."""
        names = self._tenants.get(entry.tenant, {})
        versions = names.get(entry.dataset.name, {})
        if versions.get(entry.dataset.version) is not entry:
            return
        del versions[entry.dataset.version]
        self.count -= 1
        self.charge(entry, -entry.cost_bytes)
        if not versions:
            del names[entry.dataset.name]
            if not names:
                del self._tenants[entry.tenant]
                del self._costs[entry.tenant]

    def forget_tenant(self, tenant: str) -> None:
        """A tenant was shredded: its rows and its blobs are gone already."""
        self.count -= len(self.all(tenant))
        self._tenants.pop(tenant, None)
        self.cost_bytes -= self._costs.pop(tenant, 0)

    def tenants(self) -> list[str]:
        """Those that have any."""
        return [*self._tenants]

    def versions(self, tenant: str, name: str) -> Mapping[int, Entry]:
        """Those of a name, growing ones too."""
        return self._tenants.get(tenant, {}).get(name, {})

    def all(self, tenant: str) -> list[Entry]:
        """All of a tenant."""
        return [entry for versions in self._tenants.get(tenant, {}).values() for entry in versions.values()]

    def find(self, tenant: str, name: str, version: int) -> Entry:
        """A version; of 0 the highest that is whole.

        Raises:
            DatasetNotFoundError: There is none.
        """
        versions = self.versions(tenant, name)
        whole = [number for number, entry in versions.items() if entry.dataset.state is DatasetState.WHOLE]
        entry = versions.get(version or max(whole, default=0))
        if entry is not None:
            return entry
        facts = {"dataset": name[:128]}
        if versions:
            known = ", ".join(str(number) if number in whole else f"{number} (growing)" for number in sorted(versions))
            what = f"has no version {version}" if version else "has no version that is whole"
            raise DatasetNotFoundError(f"dataset {name!r} {what}; it has {known[:MOST_SHOWN]}", metadata=facts)
        near = suggestion(name, [*self._tenants.get(tenant, {})])
        hint = f"; did you mean {near!r}?" if near else "; list them: inferd data list"
        if near:
            facts["suggestion"] = near
        raise DatasetNotFoundError(f"there is no dataset {name[:128]!r}{hint}", metadata=facts, field="name")

    def whole(self, tenant: str, name: str, version: int) -> Entry:
        """A version that is whole; of 0 the highest.

        Raises:
            DatasetNotFoundError: There is none.
        """
        entry = self.find(tenant, name, version)
        if entry.dataset.state is not DatasetState.WHOLE:
            raise DatasetNotFoundError(
                f"dataset {entry.key} grows, and is read once it is whole", metadata={"dataset": name}, field="dataset"
            )
        return entry


def check_free(entry: Entry) -> None:
    """Refuse to forget a version that something reads.

    Raises:
        DatasetHeldError: Something does.
    """
    if entry.readers:
        holders = ", ".join(sorted(entry.readers))[:MOST_SHOWN]
        raise DatasetHeldError(
            f"dataset {entry.key} is read by {holders}; delete it when that has ended, or cancel that",
            metadata={"dataset": entry.key, "holders": holders},
        )


def check_stays(entry: Entry) -> None:
    """Refuse to read a version that is being forgotten.

    Raises:
        DatasetNotFoundError: It is.
    """
    if entry.going:
        raise DatasetNotFoundError(
            f"dataset {entry.key} is being deleted", metadata={"dataset": entry.dataset.name[:128]}, field="dataset"
        )


def known_parts(entry: Entry, first: int, parts: Sequence[tuple[str, int, Sequence[Statistics]]]) -> int:
    """How many of these parts it has already.

    Raises:
        InvalidFieldError: It does not grow, has another part in one of these places, or none before them.
    """
    have = entry.parts[first : first + len(parts)]
    if first > len(entry.parts):
        raise InvalidFieldError(
            f"first_part is {first} and dataset {entry.key} has {len(entry.parts)} parts; append those before it first",
            field="first_part",
        )
    for number, (known, (digest, rows, _)) in enumerate(zip(have, parts, strict=False)):
        if (known.digest, known.rows) != (digest, rows):
            raise InvalidFieldError(
                f"parts[{number}] is sha256:{digest} with {rows} rows, and part {first + number} of dataset"
                f" {entry.key} is sha256:{known.digest} with {known.rows}; begin another version",
                field=f"parts[{number}].digest",
            )
    if len(have) < len(parts) and entry.dataset.state is not DatasetState.GROWING:
        raise InvalidFieldError(
            f"dataset {entry.key} is whole, and never changes; begin another version", field="version"
        )
    for number, (_, _, statistics) in enumerate(parts):
        if statistics and len(statistics) != len(entry.dataset.columns):
            raise InvalidFieldError(
                f"parts[{number}].statistics has {len(statistics)} entries and the dataset has"
                f" {len(entry.dataset.columns)} columns; give one for each, or none",
                field=f"parts[{number}].statistics",
            )
    return len(have)
