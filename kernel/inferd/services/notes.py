"""What is told of each call in the audit trail; which calls those are, their policies say, so that none is forgotten.

- Health and reflection: nothing.
- What reads: who was denied; with `audit.reads` all.
- What creates, changes or deletes what is no tenant's passing work, as keys, rules, quotas, models and blobs: that it
  begins, which is kept before it does, and how it ended, which is kept before that is acknowledged.
- What runs, and all else: how it ended. Of tasks: that they were made, and their end.
"""

from __future__ import annotations

import re
import secrets
from collections import Counter
from enum import IntEnum
from functools import cache
from hashlib import blake2b, sha256
from itertools import count, islice
from typing import TYPE_CHECKING, Any, NamedTuple

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

from inferd.core.audit import HEAD, Decision, EntryType, Said, members
from inferd.core.policy import Policy, ResourceKind, Verb
from inferd.errors import InferdError, PermissionDeniedError, UnauthenticatedError
from inferd.runtime.login import NOBODY
from inferd.runtime.trail import MAKER, UNCHANGED
from inferd.services.secure import UNIX

if TYPE_CHECKING:
    from collections.abc import Iterator

    from google.protobuf.descriptor import Descriptor

    from inferd.core.changes import TaskAccepted
    from inferd.runtime.front.access import Access
    from inferd.runtime.front.caller import Caller
    from inferd.runtime.login import Login
    from inferd.runtime.trail import Trail
    from inferd.services.policies import CallPolicy

OF_TENANTS = (ResourceKind.TASK, ResourceKind.LEASE, ResourceKind.UPLOAD)
"""Kinds of which each tenant makes many, which are gone soon."""
MADE = frozenset({"key_id", "rule_id", "quota_id", "flag_id", "digest", "name", "version"})
"""Of an answer."""
NAMES = MADE | {
    *("names", "model", "models", "tenant", "tenants", "who", "principal", "role", "roles", "alias", "aliases"),
    *("task_id", "lease_id", "pinned_digest", "source", "path", "blob", "backend", "device", "device_id", "devices"),
    "host_id",
}
"""Fields with texts that are names: what they hold is told. Of others only that they were given."""
MOST_FIELDS, MOST_TEXT, MOST_LIST, DEEPEST = 32, 128, 16, 5
TEXTS = (FieldDescriptor.TYPE_STRING, FieldDescriptor.TYPE_BYTES)
USER = re.compile("//[^/]*@")
GIVEN = "given"  # of a field whose content is not told
WAYS = {"user:": "ticket", "uid:": "ticket", "cert:": "certificate"}
INPUT_BYTES = 32  # of the hash of one: BLAKE2b with a key
MOST_CALLERS = 1000  # of whom it is known how they are told of
INPUTS = b"inferd audit 1 inputs"
"""What the key that hashes inputs is derived for from the pepper."""
LEFT = "LEFT"  # the reason of a call whose client left before its end, or that a defect ended


class Weight(IntEnum):
    """How much is told of a call."""

    NOTHING = 0
    READ = 1
    CALL = 2
    CHANGE = 3


def weigh(policy: Policy) -> Weight:
    """How much is told of calls with a policy."""
    if policy.kind in (ResourceKind.HEALTH, ResourceKind.REFLECTION):
        return Weight.NOTHING
    if policy.verb is Verb.READ:
        return Weight.READ
    return Weight.CALL if policy.verb is Verb.RUN or policy.kind in OF_TENANTS else Weight.CHANGE


class Notes:
    """Makes the notes of calls.

    Args:
        trail: Where they go.
        access: Which rules there are.
        inputs_key: With which inputs are hashed, so that nobody who has not got it can try what they might be.
        ended: Counts calls that are over, as `Calls` has it.
    """

    def __init__(
        self, trail: Trail, access: Access, inputs_key: bytes, ended: Counter[tuple[str, str]] | None = None
    ) -> None:
        self.ended = Counter[tuple[str, str]]() if ended is None else ended
        self.trail = trail
        self.access = access
        self._inputs_key = inputs_key
        self._mark = f"{sha256(inputs_key).hexdigest()[:8]}:"
        self._prefix = secrets.token_hex(4)
        self._count = count(1)
        self._kinds: dict[str, CallKind] = {}  # by the path of each method that was called
        self._callers: dict[tuple[str, str, str, str], str] = {}  # what is said of who has called

    def begin(self, policy: CallPolicy, peer: str) -> Note:
        """The note of a call that has come, which is that of this task of the loop."""
        if (kind := self._kinds.get(policy.method)) is None:
            kind = self._kinds[policy.method] = _kind_of(policy)
        note = Note(self, policy, kind, peer)
        MAKER.set(note)
        return note

    def correlation(self) -> str:
        """An id for a call that has none of its client's."""
        return f"{self._prefix}-{next(self._count):x}"

    def caller(self, peer: str, login: Login | None, caller: Caller | None) -> str:
        """What is said of who calls, and from where, as members of JSON."""
        address = UNIX[:-1] if peer.startswith(UNIX) else peer.rpartition(":")[0]
        if login is None:
            return members({"peer": address})
        tenant = "" if caller is None else caller.tenant
        key = (login.principal.name, login.key_id or login.signer, tenant, address)
        if (known := self._callers.get(key)) is None:
            who: Said = {"principal": key[0], "login": _way_of(login), "tenant": tenant, "peer": address}
            if len(self._callers) >= MOST_CALLERS:
                self._callers.clear()
            known = self._callers[key] = members(who)
        return known

    def hash(self, request: Any) -> str:
        """The keyed hash of what was sent, and the beginning of its key's own."""
        if isinstance(request, Message):
            request = request.SerializeToString(deterministic=True)
        if not isinstance(request, bytes):
            return ""
        return self._mark + blake2b(request, key=self._inputs_key, digest_size=INPUT_BYTES).hexdigest()


class CallKind(NamedTuple):
    """What is told of all calls of a method.

    Attributes:
        weight: How much.
        head: The same of each, as members of JSON.
    """

    weight: Weight
    head: str


def _kind_of(policy: CallPolicy) -> CallKind:
    verb, kind = policy.policy.verb.name.lower(), policy.policy.kind.name.lower()
    said: Said = {"type": EntryType.CALL, "method": policy.method, "verb": verb, "kind": kind}
    return CallKind(weigh(policy.policy), members(said))


class Note:
    """What is known of one call, and was told of it. One writer: its call.

    Attributes:
        login, caller: Who makes it; None before that is known.
        correlation: The id that its client gave it; "" for none.
        sent: Its message as it came, until it is hashed.
        request: The same, read; of a stream its first one.
    """

    __slots__ = (
        "_begun",
        "_head",
        "_input",
        "_notes",
        "_outcome",
        "_peer",
        "_policy",
        "_told",
        "_weight",
        "caller",
        "correlation",
        "login",
        "request",
        "sent",
    )

    def __init__(self, notes: Notes, policy: CallPolicy, kind: CallKind, peer: str) -> None:
        self._notes = notes
        self._policy = policy
        self._peer = peer
        self._weight, self._head = kind
        self._told = self._begun = False
        self._outcome = LEFT
        self.login: Login | None = None
        self.caller: Caller | None = None
        self.correlation = ""
        self._input = ""
        self.sent: Any = None
        self.request: Any = None

    # As the call goes on.

    def take(self, request: Message, *, is_order: bool) -> None:
        """It goes on with a message: the first one of a stream is what it asks for; an order makes a task by itself."""
        if is_order:
            self._input = self._notes.hash(request)
        elif self.request is None:
            self.request = request
            if self._begun or self.sent is None:  # of a stream
                self._input = self._notes.hash(request)

    async def begin(self) -> None:
        """It is about to be answered.

        Raises:
            StoreUnavailableError: It would change something lasting, and that cannot be told; or it is to be refused.
        """
        trail = self._notes.trail
        if self._is_told and self.sent is not None:
            self._input, self.sent = self._notes.hash(self.sent), None  # nobody holds what it was sent for the trail
        if self._weight is Weight.CALL:
            trail.check_call()
        elif self._weight is Weight.CHANGE:
            trail.check_change()
            trail.add(self._said(Decision.ALLOWED, phase="begun", fields=self._fields()))
            self._begun = True
            await trail.written(UNCHANGED)

    @property
    def origin(self) -> Said:
        """As `Maker.origin`."""
        principal = "" if self.login is None else self.login.principal.name
        return {"principal": principal, "correlation": self.correlation}

    def made_task(self, change: TaskAccepted) -> Said:
        """As `Maker.made_task`."""
        self._told = True
        spec = change.spec
        said = self._said(Decision.ALLOWED, task_id=spec.task_id, model=spec.model)
        self._input = ""
        return said

    async def end(self, answer: Any) -> None:
        """It was answered, and is acknowledged when this returns.

        Raises:
            StoreUnavailableError: It has changed something lasting, and that cannot be told yet.
        """
        self._outcome = ""
        if self._told or not self._is_told:
            return
        self._told = True
        if self._weight is not Weight.CHANGE:
            self._notes.trail.add(self._said(Decision.ALLOWED))
            return
        made = dict(islice(_told_of(answer, MADE), MOST_FIELDS)) if isinstance(answer, Message) else {}
        self._notes.trail.add(self._said(Decision.ALLOWED, phase="done", fields=self._fields(), made=made))
        await self._notes.trail.written("the change was made, and will be told when the trail can be written")

    def fail(self, error: InferdError, *, is_order: bool = False) -> None:
        """It is refused with an error; or one order of it is, and it goes on."""
        self._outcome = self._outcome if is_order else error.reason
        denied = isinstance(error, PermissionDeniedError | UnauthenticatedError)
        if self._weight is Weight.NOTHING or not (denied or self._is_told):
            return
        if not is_order and self._told and not self._begun:
            return  # of tasks the end is told
        self._told = self._told or not is_order
        decision = Decision.DENIED if denied else Decision.REFUSED
        said = self._said(decision, reason=error.reason, phase="done" if self._begun else "", rule=self._rule(error))
        if is_order:
            said["model"], self._input = error.metadata.get("model", "")[:MOST_TEXT], ""
        (self._notes.trail.add if self._begun else self._notes.trail.refuse)(said)

    def leave(self) -> None:
        """It is over; if nothing was told of it, its client has gone, or it was a defect."""
        self._notes.ended[self._policy.method, self._outcome] += 1
        if not self._told and self._is_told and self.caller is not None:
            self._told = True
            self._notes.trail.add(self._said(Decision.ALLOWED, reason=LEFT, phase="done" if self._begun else ""))
        self.request = self.sent = None  # what the call began may go on for long, and has this note in its context

    @property
    def _is_told(self) -> bool:
        return self._weight >= Weight.CALL or (self._weight is Weight.READ and self._notes.trail.settings.reads)

    # What is said.

    def _said(self, decision: Decision, **more: object) -> Said:
        notes, request = self._notes, self.request
        self.correlation = self.correlation or notes.correlation()
        said: Said = {
            HEAD: f"{self._head},{notes.caller(self._peer, self.login, self.caller)}",
            "decision": decision.value,
            "correlation": self.correlation,
            "input": self._input or notes.hash(self.sent),
            **more,
        }
        if request is not None:
            if self._policy.fields and "model" not in said:
                said["model"] = ",".join(name[:MOST_TEXT] for name in self._policy.models(request)[:MOST_LIST])
            if (name := _name_field(request.DESCRIPTOR)) is not None:
                said["name"] = str(getattr(request, name))[:MOST_TEXT]
        return said

    def _fields(self) -> Said:
        """What a request of an administrator asks for, by name."""
        return dict(islice(_told_of(self.request, NAMES), MOST_FIELDS)) if isinstance(self.request, Message) else {}

    def _rule(self, error: InferdError) -> str:
        """Which rule denies it."""
        facts = error.metadata
        if not isinstance(error, PermissionDeniedError) or self.login is None or "verb" not in facts:
            return ""
        policy = Policy(Verb[facts["verb"].upper()], ResourceKind[facts["kind"].upper()])
        tenant = facts.get("tenant") or ("" if self.caller is None else self.caller.tenant)
        rule = self._notes.access.rules.against(self.login.principal, tenant, policy, facts.get("model"))
        if rule is None:
            return "none allows it"
        return rule.rule_id or f"of the configuration: deny {rule.who} models {rule.models} tenants {rule.tenants}"


def _way_of(login: Login) -> str:
    """How it is known who makes a call."""
    if login.key_id:
        return f"key:{login.key_id}"
    if login.signer:
        return "token"
    name = login.principal.name
    if login is NOBODY:
        return "none"
    return next((way for begins, way in WAYS.items() if name.startswith(begins)), "local")


@cache
def _name_field(kind: Descriptor) -> str | None:
    """The field of a request that names what it is about; None for none."""
    fields = [
        field.name for field in kind.fields if field.type == FieldDescriptor.TYPE_STRING and not field.is_repeated
    ]
    return next((name for name in fields if name in NAMES - {"model", "source", "path"}), None)


def _told_of(message: Any, names: frozenset[str], way: str = "", depth: int = DEEPEST) -> Iterator[tuple[str, object]]:
    """What is told of a message, by the paths of its fields: texts that are names; of a request also numbers."""
    every, fields = names is NAMES, message.ListFields()
    for field, value in fields[:MOST_FIELDS]:
        path, nested = f"{way}{field.name}", field.message_type
        if nested is not None and nested.GetOptions().map_entry:
            if every:
                yield path, sorted(str(key)[:MOST_TEXT] for key in islice(value, MOST_LIST))
        elif nested is not None and not field.is_repeated and depth:
            yield from _told_of(value, names, f"{path}.", depth - 1)
        elif field.name in names or (every and nested is None and field.type not in TEXTS):
            yield (
                path,
                [_shown(field, each) for each in value[:MOST_LIST]] if field.is_repeated else _shown(field, value),
            )
        elif every:
            yield path, GIVEN
    if every and len(fields) > MOST_FIELDS:
        yield f"{way}…", len(fields) - MOST_FIELDS


def _shown(field: FieldDescriptor, value: Any) -> object:
    if field.enum_type is not None:
        known = field.enum_type.values_by_number.get(value)
        return str(value) if known is None else known.name
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, int):
        return value
    told = str(value)
    if "://" in told:  # who may be let in there, and by what, is no name
        told = USER.sub("//", told.partition("?")[0].partition("#")[0], count=1)
    return told[:MOST_TEXT]
