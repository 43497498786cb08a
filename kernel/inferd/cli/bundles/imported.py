"""Which bundle a model was imported from last, as a label of the model: an older one of the same name is a downgrade.

    bundle: "3 2026-11-29T20:15:00+00:00 chat"

The version there, when the bundle was made, and the name there. It is given with the version that the bundle becomes,
and so stays as it was where that is not rolled out.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final, NamedTuple

from inferd.cli.bundles.faults import older

if TYPE_CHECKING:
    from collections.abc import Mapping

    from inferd.cli.bundles.manifest import Facts

LABEL: Final = "bundle"
NO_TIME: Final = "-"


class Imported(NamedTuple):
    """A bundle that was imported.

    Attributes:
        version: Of its model, where it was made.
        time: When it was made; None where it does not say.
        name: Of its model there.
    """

    version: int
    time: datetime | None
    name: str

    def __str__(self) -> str:
        made = f", made {self.time.isoformat()}" if self.time else ""
        return f"version {self.version} of {self.name}{made}"


def label_of(facts: Facts) -> dict[str, str]:
    """The label that tells of a bundle."""
    time = _time(facts.time)
    return {LABEL: f"{facts.version} {time.isoformat() if time else NO_TIME} {facts.name}"}


def check_newer(facts: Facts, labels: Mapping[str, str]) -> None:
    """Refuse a bundle that is older than the one that was imported last, where that is known and of the same name.

    Args:
        facts: What the bundle says of its model.
        labels: Of the model that it is to become a version of.

    Raises:
        CommandError: Its version is lower, or it was made before.
    """
    before, new = _read(labels.get(LABEL, "")), Imported(facts.version, _time(facts.time), facts.name)
    if before is None or before.name != new.name:
        return
    if new.version < before.version or (new.time and before.time and new.time < before.time):
        raise older(
            f"the bundle is {new}, and what was imported last is {before}: it is older; import a newer one, or add"
            " --allow-older",
            version=new.version,
            time=facts.time,
            imported_version=before.version,
            imported_time=before.time.isoformat() if before.time else "",
        )


def _read(label: str) -> Imported | None:
    """What a label tells; None where it is none of these."""
    version, _, rest = label.partition(" ")
    time, _, name = rest.partition(" ")
    return Imported(int(version), _time(time), name) if version.isdecimal() and name else None


def _time(written: str) -> datetime | None:
    """A time of ISO 8601, which is UTC where it does not say; None for anything else."""
    try:
        time = datetime.fromisoformat(written)
    except (TypeError, ValueError):
        return None
    return time if time.tzinfo else time.replace(tzinfo=UTC)
