"""Libraries of the extra `functions`: what needs one that is missing is offered, and says so when it is called."""

from importlib import import_module
from typing import Any

EXTRA = 'pip install "inferd[functions]"'


class Missing:
    """Stands for a library that is not installed.

    Args:
        name: Its name.
        fix: How it is installed.
    """

    def __init__(self, name: str, fix: str = EXTRA) -> None:
        self._name, self._fix = name, fix

    def __bool__(self) -> bool:
        return False

    def __getattr__(self, name: str) -> Any:
        raise RuntimeError(f"{self._name} is not installed on the kernel's host; fix: {self._fix}")


def library(name: str, fix: str = EXTRA) -> Any:
    """A library, imported; what stands for it where it is not installed, which is false."""
    try:
        return import_module(name)
    except ImportError:
        return Missing(name, fix)
