"""Who a credential stands for, asked again and again."""

import errno
import os
from pathlib import Path

import pytest

from inferd.auth_settings import Auth
from inferd.core.principal import Principal
from inferd.errors import StoreUnavailableError, UnauthenticatedError
from inferd.runtime.keyring import Keyring
from inferd.runtime.pepper import read_pepper

ANNA = Principal(name="anna", roles=frozenset({"user"}), tenants=("a",))


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


async def test_a_login_that_is_known_ends_with_what_it_came_to() -> None:
    """A credential that has come before is refused once its key is revoked or ended, or it was rotated long ago."""
    clock = Clock()
    ring = Keyring(b"pepper" * 6, Auth(), wall=clock)
    for _ in range(2):
        expiring, one = await ring.create(ANNA, clock.now + 10)
        rotated, two = await ring.create(ANNA, None)
        revoked, three = await ring.create(ANNA, None)
        for credential in (one, two, three) * 2:
            assert ring.verify(credential).principal is ANNA
        assert ring.verify(one) is ring.verify(one)
        _, new = await ring.rotate(rotated.key_id, lambda _: True, 5)
        numbers = [ring.verify(each).secret for each in (two, new, two, new)]
        assert numbers == [1, 2, 1, 2]
        await ring.revoke(revoked.key_id, lambda _: True, lambda _: None)
        clock.now += 6
        for credential in (two, three):
            with pytest.raises(UnauthenticatedError):
                ring.verify(credential)
        assert ring.verify(new).key_id == rotated.key_id
        assert ring.verify(one).key_id == expiring.key_id
        assert ring.last_use(expiring) == clock.now
        clock.now += 5
        with pytest.raises(UnauthenticatedError):
            ring.verify(one)


async def test_an_id_that_is_known_is_no_login() -> None:
    """The id of a key that was used, with another secret, with more behind it or in other letters, is nobody's."""
    ring = Keyring(b"pepper" * 6, Auth())
    _, credential = await ring.create(ANNA, None)
    ring.verify(credential)
    for wrong in (credential[:-1], credential + "0", credential[:20] + "0" * 64, credential.upper(), "", "ik_"):
        with pytest.raises(UnauthenticatedError):
            ring.verify(wrong)


def test_a_disk_without_room_for_the_pepper_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A start that cannot make it says where, why and what to do; nothing of it is left, and with room it is made."""

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    path = tmp_path / "state/pepper"
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(StoreUnavailableError, match=rf"keys {path} cannot .* No space .*auth\.pepper_file"):
            read_pepper(path)
    assert not list(path.parent.iterdir())
    assert read_pepper(path) == read_pepper(path)
