"""What agents of other hosts may ask, and who may become one."""

from __future__ import annotations

import asyncio
import re
from typing import TYPE_CHECKING

from inferd.core.host import check_facts, check_host_id
from inferd.core.ids import HostId, ModelName
from inferd.core.principal import HOST, HOSTS, INVITE, LOCAL, Principal
from inferd.errors import InferdError, InvalidFieldError, PermissionDeniedError
from inferd.runtime.credential import FORM, ID, drawn_credential
from inferd.runtime.front.bounds import Calls
from inferd.runtime.front.turns import Turns
from inferd.runtime.inspection import PLAN

if TYPE_CHECKING:
    from inferd.core.key import Key
    from inferd.core.model import ModelSpec
    from inferd.core.views import Views
    from inferd.host_settings import Hosts as Settings
    from inferd.runtime.far.host import Facts, FarHost
    from inferd.runtime.far.hosts import FarHosts
    from inferd.runtime.far.worker import FarWorker
    from inferd.runtime.front.auth import Auth
    from inferd.runtime.keyring import Keyring
    from inferd.runtime.login import Login

MOST_PATH = 1024  # letters of the folder of logs
MOST_ADDRESS = 256  # letters of that of a host's files
ADDRESS = re.compile(r"([A-Za-z0-9.-]+|\[[0-9A-Fa-f:.]+\]):[0-9]{1,5}")
MOST_CERTIFICATE = 8192  # bytes
LATER_S = 5.0  # when a host asks again for which there is no place in the line


class Agents:
    """Makes invitations, and lets agents in.

    Args:
        hosts: The attached ones.
        keyring: Of the kernel.
        auth: The same, for calls to end whose key holds no longer.
        settings: The bounds.
        views: Of what is known of models.

    Attributes:
        hosts: See there.
        calls: Counts what agents have open, and each of them.
        fetches: Gives turns to the streams that give models to hosts.
        fetch_idle_s: How long one may take nothing.
        peer_wait_s: How long a host waits for another one that has a model.
    """

    def __init__(self, hosts: FarHosts, keyring: Keyring, auth: Auth, settings: Settings, *, views: Views) -> None:
        self.hosts = hosts
        self.calls = Calls(
            calls_limit=settings.calls,
            tenant_calls_limit=settings.host_calls,
            bounds=("hosts.calls", "hosts.host_calls"),
        )
        self.fetches = Turns(
            "hosts.fetches",
            settings.fetches,
            line_name="hosts.fetch_line",
            line_limit=settings.fetch_line,
            what="streams that give models to hosts",
            retry_after_s=LATER_S,
        )
        self.fetch_idle_s, self.peer_wait_s = settings.fetch_idle_s, settings.peer_wait_s
        self._views = views
        self._keyring = keyring
        self._auth = auth
        self._settings = settings
        self._joining = asyncio.Lock()  # of two that join by one name at once the second one finds the key of the first

    async def invite(self, name: str, *, uses: int | None, ttl_s: float | None) -> tuple[Key, str]:
        """An invitation and its credential: by it so many hosts may join, for so long, or one of a certain name.

        Raises:
            InvalidFieldError: Something is outside its bounds.
            LimitExceededError, StoreUnavailableError: As `Keyring.create`.
        """
        settings = self._settings
        uses = 1 if uses is None else uses
        ttl_s = settings.invite_s if ttl_s is None else ttl_s
        if name:
            check_host_id(name, "host")
        if not 1 <= uses <= settings.invite_uses:
            message = f"uses is {uses}; it must be from 1 to {settings.invite_uses} (hosts.invite_uses)"
            raise InvalidFieldError(message, field="uses")
        if not 0 < ttl_s <= settings.invite_most_s:
            message = f"ttl is {ttl_s:g} s; it must be above 0 and at most {settings.invite_most_s:g} s"
            raise InvalidFieldError(f"{message} (hosts.invite_most_s)", field="ttl")
        who = f"{INVITE}:{name}" if name else INVITE
        principal = Principal(name=who, roles=frozenset({"joiner"}), tenants=(HOSTS,))
        return await self._keyring.create(principal, self._auth.now() + ttl_s, uses=uses)

    @property
    def keyring_id(self) -> str:
        """See `Keyring`."""
        return self._keyring.keyring_id

    async def join(self, login: Login, name: str, secret: str = "") -> str:
        """A host becomes known; the credential of its agent, in the place of one that it had before.

        Asked again with the same `secret`, it is what it was, and the invitation is not used once more.

        Raises:
            InvalidFieldError: It has no such name, or an agent of it is attached; or the secret is none.
            PermissionDeniedError: It comes by no invitation, by one for another name, or by one for any where a key of
                this name holds.
            UnauthenticatedError: It was used up.
            LimitExceededError, StoreUnavailableError: As `Keyring.create`.
        """
        check_host_id(name, "name")
        drawn = drawn_credential(secret) if secret else ""
        if drawn and not FORM.fullmatch(drawn):
            raise InvalidFieldError("secret must be 64 hexadecimal digits, drawn at random", field="secret")
        invited, _, only = login.principal.name.partition(":")
        if invited == INVITE and only and only != name:
            raise PermissionDeniedError(
                f"this invitation is for host {only!r}, not for {name!r}; name it so (--name), or ask for another one",
                metadata={"principal": login.principal.name},
            )
        if invited != INVITE or not self._keyring.is_invitation(login.key_id):
            raise PermissionDeniedError(
                f"{login.principal.name!r} is no invitation, by which alone hosts join; make one (inferd hosts invite)",
                metadata={"principal": login.principal.name},
            )
        if HostId(name) in self.hosts.attached:
            raise InvalidFieldError(
                f"host {name!r} is attached; end its agent first, or give this one another name (--name)", field="name"
            )
        principal = Principal(name=HOST + name, roles=frozenset({"agent"}), tenants=(HOSTS,))
        async with self._joining:
            before = self._keyring.of(principal.name)
            if drawn and any(key.key_id == drawn[ID] for key in before):
                self._keyring.verify(drawn)
                return drawn
            if before and not only:
                raise PermissionDeniedError(
                    f"host {name!r} has joined before, and its key holds; to take its place, ask for an invitation for "
                    f"this very name (inferd hosts invite --host {name}), or have that key revoked (inferd keys list, "
                    "inferd keys revoke), or give this host another name (--name)",
                    metadata={"principal": login.principal.name},
                )
            made, credential = await self._keyring.create(principal, None, credential=drawn)
            try:
                await self._keyring.spend(login.key_id)
            except InferdError:
                await self._auth.end_key(made.key_id)
                raise
            for key in before:
                await self._auth.end_key(key.key_id)
            return credential

    def joined(self) -> dict[HostId, float | None]:
        """The hosts that have a key, attached or not, with when that was last used, in Unix time; None for never."""
        found = dict[HostId, float | None]()
        for key in self._keyring.holding():
            if key.principal.is_of_hosts and key.principal.name.startswith(HOST):
                name, used = HostId(key.principal.name.removeprefix(HOST)), self._keyring.last_use(key)
                found[name] = max(filter(None, (found.get(name), used)), default=None)
        return found

    async def end_keys(self, name: str) -> None:
        """The credential of a host holds no longer, nor do its streams.

        Raises:
            StoreUnavailableError: That cannot be kept.
        """
        for key in self._keyring.of(HOST + name):
            await self._auth.end_key(key.key_id)

    def is_host(self, login: Login) -> bool:
        """Whether this is a credential that a host got when it joined: no other key has a name with a ":"."""
        return bool(login.key_id) and login.principal.name.startswith(HOST)

    def spec_of(self, worker: FarWorker) -> ModelSpec:
        """What a worker is to load, or to look at.

        Raises:
            InvalidFieldError: It was given up.
        """
        instance = self._views.find_instance(worker.instance_id)
        if instance is not None:
            return self._views.model(instance.model).versions[instance.version].spec
        name, plan, _ = worker.instance_id.rpartition(PLAN)
        if not plan:
            raise InvalidFieldError(f"no worker of launch {worker.launch_id}: it was given up", field="launch_id")
        return self._views.model(ModelName(name)).spec

    def attach(self, login: Login, facts: Facts, *, incarnation: int, kernel: int, epoch: int) -> FarHost:
        """An agent comes, or comes back.

        Raises:
            InferdError: As `FarHosts.attach`; or the facts are none.
        """
        _check_facts(facts)
        who = login.principal.name
        if who.startswith(HOST) and who != HOST + facts.name:
            raise PermissionDeniedError(
                f"the credential of this agent is of host {who.removeprefix(HOST)!r}, and it says {facts.name!r}",
                metadata={"principal": who},
            )
        if not self.is_host(login) and who != LOCAL and self._keyring.of(HOST + facts.name):
            raise PermissionDeniedError(
                f"host {facts.name!r} has joined with a key of its own; {who!r} is another one; name it otherwise"
                " (--name), or revoke that key (inferd keys list)",
                metadata={"principal": who},
            )
        return self.hosts.attach(facts, incarnation=incarnation, kernel=kernel, epoch=epoch, principal=who)


def _check_facts(facts: Facts) -> None:
    check_host_id(facts.name, "facts.name")
    check_facts(facts.told, 0)
    address, certificate = facts.files.address, facts.files.certificate
    if address and (len(address) > MOST_ADDRESS or not ADDRESS.fullmatch(address)):
        message = f"facts.files.address is {address[:80]!r}; it must be host:port, at most {MOST_ADDRESS} letters"
        raise InvalidFieldError(message, field="facts.files.address")
    if len(certificate) > MOST_CERTIFICATE:
        message = f"facts.files.certificate has {len(certificate)} bytes; it may have {MOST_CERTIFICATE}"
        raise InvalidFieldError(message, field="facts.files.certificate")
    if len(facts.log_folder) > MOST_PATH or not facts.log_folder.isprintable():
        message = f"facts.log_folder must be at most {MOST_PATH} letters that can be shown"
        raise InvalidFieldError(message, field="facts.log_folder")
