"""No core is left behind, also where the system's limit is lower already."""

import resource

import pytest

from inferd.plugin import cores


def test_a_limit_of_nothing_that_may_not_be_raised_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """After `ulimit -c 0` a program of no root goes on; where it may not look at all, it does not."""
    hard = [0]

    def prlimit(_pid: int, _what: int, wanted: tuple[int, int] | None = None) -> tuple[int, int]:
        if wanted is not None:
            raise PermissionError(1, "Operation not permitted")
        return (0, hard[0])

    monkeypatch.setattr(resource, "prlimit", prlimit)
    cores.forbid_cores()
    hard[0] = resource.RLIM_INFINITY if resource.RLIM_INFINITY > 0 else 1 << 62
    with pytest.raises(PermissionError):
        cores.forbid_cores()
