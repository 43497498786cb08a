"""Who a credential stands for, asked again and again."""

import errno
import os
from pathlib import Path

import pytest

from inferd.auth_settings import Auth
from inferd.core.key import KeyState
from inferd.core.principal import HOSTS, Principal
from inferd.errors import LimitExceededError, StoreUnavailableError, UnauthenticatedError
from inferd.runtime.keyring import Keyring
from inferd.runtime.pepper import read_pepper

HOST_B = Principal(name="host:b", roles=frozenset({"agent"}), tenants=(HOSTS,))
INVITED = Principal(name="invite:b", roles=frozenset({"joiner"}), tenants=(HOSTS,))
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


async def test_how_keys_of_hosts_and_invitations_have_ended_is_told_to_who_has_them() -> None:
    """Expired, revoked and used up differ, with when and what helps; of all other keys nothing is told."""
    clock = Clock()
    ring = Keyring(b"pepper" * 6, Auth(), wall=clock)
    host, of_host = await ring.create(HOST_B, None)
    used, of_used = await ring.create(INVITED, None, uses=1)
    _, of_expired = await ring.create(INVITED, clock.now + 1, uses=1)
    user, of_user = await ring.create(ANNA, None)
    await ring.spend(used.key_id)
    (spent,) = ring.all(lambda key: key.key_id == used.key_id)
    assert (spent.state(clock.now), spent.ended(clock.now)) == (KeyState.USED, clock.now)
    assert await ring.revoke(used.key_id, lambda _: True, lambda _: None) is spent, "it has ended, and stays so"
    for each in (host, user):
        await ring.revoke(each.key_id, lambda _: True, lambda _: None)
    clock.now += 2
    for credential, cause in ((of_host, "revoked"), (of_used, "used up"), (of_expired, "expired")):
        with pytest.raises(UnauthenticatedError, match=rf"{cause}, at 1970-.*: inferd hosts invite --host b$") as told:
            ring.verify(credential)
        assert told.value.metadata == {"cause": cause}
    for credential in (of_user, of_host[:-1] + ("1" if of_host[-1] != "1" else "2")):
        with pytest.raises(UnauthenticatedError, match="not known, or holds no longer") as told:
            ring.verify(credential)
        assert not told.value.metadata


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


async def test_hosts_that_come_and_go_leave_room_for_keys() -> None:
    """Keys of hosts and invitations are counted apart, are gone soon after they ended, and give way before that."""
    clock = Clock()
    ring = Keyring(b"pepper" * 6, Auth(keys=1, host_keys=3, host_retention_s=60, retention_s=1000), wall=clock)
    for _ in range(20):  # each host with an invitation that it uses up
        invitation, _ = await ring.create(INVITED, clock.now + 10, uses=1)
        await ring.spend(invitation.key_id)
        for key in ring.of(HOST_B.name):
            await ring.revoke(key.key_id, lambda _: True, lambda _: None)
        host, credential = await ring.create(HOST_B, None)
        clock.now += 1
    assert ring.verify(credential).key_id == host.key_id
    assert len(ring.all(lambda _: True)) == 3
    clock.now += 60
    assert ring.all(lambda _: True) == [host]
    anna, _ = await ring.create(ANNA, None)
    with pytest.raises(LimitExceededError, match=r"1 keys and auth\.keys is 1"):
        await ring.create(ANNA, None)
    for _ in range(2):
        await ring.create(HOST_B, None)
    with pytest.raises(LimitExceededError, match=r"3 keys of hosts and invitations and auth\.host_keys is 3"):
        await ring.create(INVITED, None)
    await ring.revoke(anna.key_id, lambda _: True, lambda _: None)
    clock.now += 61
    assert anna.key_id in {key.key_id for key in ring.all(lambda _: True)}
