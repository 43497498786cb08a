"""Loads of models of a repository: for whom, of what, and how they fail."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from inferd.errors import ModelLoadError, PermissionDeniedError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from inferd.core.ids import LeaseId, Tenant

    Check = Callable[[Iterable[str]], None]  # refuses models that a caller may not load and unload


class DisagreementError(ModelLoadError):
    """A model is loaded, and is otherwise than its configuration says."""


class PartDeniedError(PermissionDeniedError):
    """A model is an ensemble of what the caller may not change."""


class UnreadableError(ModelLoadError):
    """The folder of a repository cannot be read."""

    code = "UNAVAILABLE"
    outside = "its folder cannot be read"


class Verify(Protocol):
    """Holds a loaded model against its configuration; see `inferd.services.inference.agreement`."""

    def __call__(self, config: bytes, signature: bytes) -> None:
        """Refuse a model that is otherwise.

        Raises:
            InvalidFieldError: It is.
        """


@dataclass(frozen=True, slots=True)
class Asked:
    """For whom models are loaded.

    Attributes:
        tenant, lease_id: As for every load.
        check: Refuses models that it may not load.
        done: Those that were loaded for it already.
    """

    tenant: Tenant
    lease_id: LeaseId
    check: Check
    done: set[str] = field(default_factory=set)

    def check_parts(self, names: Iterable[str]) -> None:
        """Refuse an ensemble of models that it may not load.

        Raises:
            PartDeniedError: It may not load one.
        """
        try:
            self.check(names)
        except PermissionDeniedError as error:
            raise PartDeniedError(error.message, metadata=error.metadata, field=error.field) from None


@dataclass(frozen=True, slots=True)
class Override:
    """What a load gives in place of what is in the repository.

    Attributes:
        config: The configuration in JSON; "" for the one of the folder.
        files: In place of all that are in the folder, by their paths in it.
    """

    config: str = ""
    files: Mapping[str, bytes] = field(default_factory=dict)
