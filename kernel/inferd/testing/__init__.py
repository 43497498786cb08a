"""For tests of the kernel and of backends: a backend without a model, and `BackendContract`, which all must pass.

Nothing is imported before it is used: the parts need packages that not every user of one of them has.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from inferd.testing.contract import BackendContract

__all__ = ["BackendContract"]


def __getattr__(name: str) -> Any:
    """Import `BackendContract` when it is asked for."""
    if name != "BackendContract":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from inferd.testing.contract import BackendContract  # noqa: PLC0415 - brings pytest and numpy

    return BackendContract
