"""Which devices there are, which of them a model may use, and which of these are worth a look when one is chosen.

A set of devices is an integer with a bit for each. What a model may use is what its backend, the names of its devices
and its selector have in common: that follows from the hosts that are known at the time, whenever they came. Of many
devices a start looks at some: those where most is free, or that would have it once idle instances are gone, where the
model's files are, and where it has instances. So a decision costs the same with ten thousand hosts as with fifty.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING, TypeVar

from inferd.core.bits import NumberSet, Tiers, numbers_in
from inferd.core.host import HOST_LABEL, LOCAL, LOCAL_HOST, HostState, host_of, name_of
from inferd.core.ids import HostId
from inferd.core.placement_rules import PlacementStrategy

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping, Sequence

    from inferd.core.host import HostFacts
    from inferd.core.ids import DeviceId, ModelName
    from inferd.core.model import ModelSpec

K = TypeVar("K", str, HostId)

MOST_KNOWN = 4096  # models of which is remembered what they may use
MOST_NAMES = 256  # of devices that are told
MOST_SITES = 32  # devices that a decision looks at
OF_ROOM, OF_IDLE, OF_FILES, OF_OWN = 10, 6, 4, 3  # of these, where there are more


@dataclass(slots=True)
class Chart:
    """What is known of one device. One writer: the atlas."""

    device_id: DeviceId
    number: int
    facts: HostFacts | None = None
    places: list[NumberSet] = field(default_factory=list)  # the sets that it is in by those facts


class Atlas:
    """Devices by what they are and by what is free of them. One writer: the broker.

    Attributes:
        generation: Rises whenever models may use other devices than before.
        awaits: Whether hosts of before may join at any moment, as those that another kernel had.
        openings: Rises whenever hosts begin or cease to take something new.
        closed: How those stand that do not.
    """

    def __init__(self) -> None:
        self._charts: dict[DeviceId, Chart] = {}
        self._ids: list[DeviceId | None] = []  # by number
        self._vacant: list[int] = []
        self._names: dict[str, NumberSet] = {}
        self._kinds: dict[str, NumberSet] = {}
        self._backends: dict[str, NumberSet] = {}
        self._any_backend = NumberSet()
        self._labels: dict[str, dict[str, NumberSet]] = {}
        self._files: dict[str, NumberSet] = {}
        self._hosts: dict[HostId, NumberSet] = {}
        self._open = 0
        self._room, self._with_idle = Tiers(), Tiers()
        self.generation = 0
        self.awaits = False
        self.openings = 0
        self.closed: dict[HostId, HostState] = {}
        self._known: dict[ModelName, tuple[ModelSpec, int]] = {}  # what was asked last, until devices come or go

    # What there is.

    def add(self, device_id: DeviceId) -> None:
        """A device is there, of which nothing is known but its name; told again nothing changes."""
        if device_id in self._charts:
            return
        number = self._vacant.pop() if self._vacant else len(self._ids)
        if number == len(self._ids):
            self._ids.append(device_id)
        self._ids[number] = device_id
        self._charts[device_id] = Chart(device_id, number)
        name = name_of(device_id)
        self._names.setdefault(name, NumberSet()).add(number)
        self._kinds.setdefault(kind_of(name), NumberSet()).add(number)
        self._hosts.setdefault(host_of(device_id), NumberSet()).add(number)
        self._renew()

    def describe(self, device_id: DeviceId, facts: HostFacts) -> None:
        """This is known of the host of a device from now on."""
        chart = self._charts[device_id]
        before, name = chart.facts, name_of(device_id)
        if before is facts:
            return
        if before is not None and (before.labels, before.backends) == (facts.labels, facts.backends):
            self._hold(chart, facts)  # which changes what is best, and not what may be used
            return
        self._leave(chart)
        self._hold(chart, facts)
        for key, value in facts.labels.items():
            self._enter(chart, self._labels.setdefault(key, {}).setdefault(value, NumberSet()))
        for backend in facts.backends or ():
            if name in backend.devices:
                self._enter(chart, self._backends.setdefault(backend.name, NumberSet()))
        if facts.backends is None:
            self._enter(chart, self._any_backend)
        self._renew()

    def _hold(self, chart: Chart, facts: HostFacts | None) -> None:
        """The host of a device has other files than before, or none that is told of."""
        before = (None if chart.facts is None else chart.facts.holds) or frozenset[str]()
        after = (None if facts is None else facts.holds) or frozenset[str]()
        for content in before - after:
            _drop(self._files, content, chart.number)
        for content in after - before:
            self._files.setdefault(content, NumberSet()).add(chart.number)
        chart.facts = facts

    def remove(self, device_id: DeviceId) -> None:
        """A device is there no more."""
        chart = self._charts.pop(device_id)
        self._leave(chart)
        number, name = chart.number, name_of(device_id)
        _drop(self._names, name, number)
        _drop(self._kinds, kind_of(name), number)
        _drop(self._hosts, host_of(device_id), number)
        self._open &= ~(1 << number)
        self._room.drop(number)
        self._with_idle.drop(number)
        self._ids[number] = None
        self._vacant.append(number)
        self._renew()

    def open(self, device_id: DeviceId, *, is_open: bool) -> None:
        """Whether anything new comes to a device."""
        bit, before = 1 << self._charts[device_id].number, self._open
        self._open = before | bit if is_open else before & ~bit
        self.openings += self._open != before

    def stand(self, host_id: HostId, state: HostState) -> None:
        """A host stands so from now on."""
        if state in (HostState.READY, HostState.GONE):
            self.closed.pop(host_id, None)
        else:
            self.closed[host_id] = state
        self.openings += 1

    def measure(self, device_id: DeviceId, room_bytes: int, with_idle_bytes: int) -> None:
        """So much is free of a device, and so much would be once idle instances are gone."""
        number = self._charts[device_id].number
        self._room.put(number, room_bytes)
        self._with_idle.put(number, with_idle_bytes)

    def _renew(self) -> None:
        """What models may use may be other than it was."""
        self._known.clear()
        self.generation += 1

    def _enter(self, chart: Chart, numbers: NumberSet) -> None:
        numbers.add(chart.number)
        chart.places.append(numbers)

    def _leave(self, chart: Chart) -> None:
        """Nothing is known of a device but its name; what is known of no other any more is forgotten."""
        for numbers in chart.places:
            numbers.remove(chart.number)
        chart.places.clear()
        facts = chart.facts
        self._hold(chart, None)
        if facts is None:
            return
        for key, value in facts.labels.items():
            if not self._labels.get(key, {}).get(value, True):
                del self._labels[key][value]
            if not self._labels.get(key, True):
                del self._labels[key]
        for backend in facts.backends or ():
            if not self._backends.get(backend.name, True):
                del self._backends[backend.name]

    # What a model may use.

    def __len__(self) -> int:
        return len(self._charts)

    def may(self, spec: ModelSpec) -> int:
        """The devices that a model may use, whether their hosts take anything new or not."""
        known = self._known.get(spec.name)
        if known is not None and known[0] is spec:
            return known[1]
        bits = self.of_backend(spec) & self.selected(spec.placement.selector)
        if len(self._known) >= MOST_KNOWN:
            self._known.clear()
        self._known[spec.name] = (spec, bits)
        return bits

    def is_closed(self, bits: int) -> bool:
        """Whether nothing new comes to any device of a set."""
        return not bits & self._open

    def of_backend(self, spec: ModelSpec) -> int:
        """The devices that its backend may use, whatever its selector says."""
        works = self._any_backend.bits
        if (backend := self._backends.get(spec.backend)) is not None:
            works |= backend.bits
        return works & self.named(spec)

    def named(self, spec: ModelSpec) -> int:
        """The devices that have one of its names, or are of its kinds, whatever works there."""
        bits = 0
        for name in spec.devices:
            if "/" in name:
                bits |= self.bits_of((name,))
                continue
            bits |= named.bits if (named := self._names.get(name)) is not None else 0
            if not spec.pinned and (alike := self._kinds.get(kind_of(name))) is not None:
                bits |= alike.bits & ~self.of_host(LOCAL_HOST)  # of the kernel's own it names those that it may use
        return bits

    def selected(self, selector: Mapping[str, str]) -> int:
        """The devices of hosts that have these labels; all (-1) for none."""
        bits = -1
        for key, value in selector.items():
            if key == HOST_LABEL:
                bits &= self.of_host(LOCAL_HOST if value == LOCAL else HostId(value))
            else:
                found = self._labels.get(key, {}).get(value)
                bits &= 0 if found is None else found.bits
        return bits

    def of_host(self, host_id: HostId) -> int:
        """The devices of a host."""
        return 0 if (found := self._hosts.get(host_id)) is None else found.bits

    def called(self, name: str) -> int:
        """The devices that hosts call so, or are of this kind."""
        found = self._names.get(name) if ":" in name else self._kinds.get(name)
        return 0 if found is None else found.bits

    def roomiest(self, bits: int) -> list[DeviceId]:
        """Those of a set where most is free, as many as a decision looks at; of hosts that take something, if any."""
        bits = bits & self._open or bits
        few = bits.bit_count() <= MOST_SITES
        return self.ids(numbers_in(bits) if few else self._room.most(bits, MOST_SITES))

    def ids(self, numbers: Iterable[int]) -> list[DeviceId]:
        """The devices of some numbers."""
        return [each for number in numbers if (each := self._ids[number]) is not None]

    def bits_of(self, device_ids: Iterable[DeviceId]) -> int:
        """Some devices as a set; unknown ones are left out."""
        bits = 0
        for device_id in device_ids:
            if (chart := self._charts.get(device_id)) is not None:
                bits |= 1 << chart.number
        return bits

    def listed(self, bits: int, spec: ModelSpec, *, most: int | None = None) -> list[DeviceId]:
        """Devices of a set in the order of a model's backend, the kernel's own host before others; so many at most."""
        numbers = numbers_in(bits)
        return self._sorted(numbers if most is None else islice(numbers, most), spec)

    def _sorted(self, numbers: Iterable[int], spec: ModelSpec) -> list[DeviceId]:
        place, ids = {name: at for at, name in enumerate(spec.devices)}, self._ids
        last = len(place)
        found = []
        for number in numbers:
            if (each := ids[number]) is not None:
                at = place.get(each, place.get(name_of(each), last))
                found.append((at, host_of(each) != LOCAL_HOST, number, each))
        return [each for *_, each in sorted(found)]

    def holds(self, device_id: DeviceId, spec: ModelSpec) -> bool:
        """Whether the host of a device tells that it has a model's files.

        The kernel's own has those of all models, and tells of none: it would get all of them.
        """
        facts = self._charts[device_id].facts
        return facts is not None and facts.holds is not None and spec.file_version in facts.holds

    def users(self, specs: Iterable[ModelSpec], device_ids: Iterable[DeviceId]) -> list[ModelSpec]:
        """Those of some models that may use one of the devices of a host; without a look at other devices."""
        names: dict[str, DeviceId] = {name_of(device_id): device_id for device_id in device_ids}
        if not names:
            return []
        first = next(iter(names.values()))
        facts, host_id = self._charts[first].facts, host_of(first)
        labels = {**(facts.labels if facts is not None else {}), HOST_LABEL: host_id or LOCAL}
        backends = None if facts is None or facts.backends is None else {b.name: {*b.devices} for b in facts.backends}
        return [spec for spec in specs if self._uses(spec, names, labels, backends)]

    def _uses(
        self,
        spec: ModelSpec,
        names: Mapping[str, DeviceId],
        labels: Mapping[str, str],
        backends: Mapping[str, set[str]] | None,
    ) -> bool:
        if any(labels.get(key) != value for key, value in spec.placement.selector.items()):
            return False
        works = names.keys() if backends is None else backends.get(spec.backend, set()) & names.keys()
        alike = not spec.pinned and labels[HOST_LABEL] != LOCAL
        kinds = {kind_of(name) for name in spec.devices if "/" not in name} if alike else set[str]()
        return any(n in spec.devices or names[n] in spec.devices or kind_of(n) in kinds for n in works)

    # What is worth a look.

    def candidates(
        self, spec: ModelSpec, need_bytes: int, *, own: Collection[DeviceId], but: Collection[DeviceId]
    ) -> Sequence[DeviceId]:
        """The devices of which the best for one more instance is one; all that are open and that it may use, if few.

        Args:
            spec: The model.
            need_bytes: About what it needs.
            own: Where it has instances, or gets them.
            but: Devices that are left out.
        """
        bits = self.may(spec) & self._open
        if but:
            bits &= ~self.bits_of(but)
        if own and spec.placement.apart:
            bits &= ~self._beside(own)
        if bits.bit_count() <= MOST_SITES:
            return self.listed(bits, spec)
        mine = self.bits_of(own) & bits
        fresh = bits & ~mine
        if spec.placement.strategy is PlacementStrategy.PACK:
            found = self._room.least(bits, OF_ROOM // 2, need_bytes)
        else:
            found = self._room.most(fresh, OF_ROOM)
        found += self._with_idle.most(fresh, OF_IDLE)
        near = self._files.get(spec.file_version)
        if near is not None:
            found += self._room.most(fresh & near.bits, OF_FILES)
        found += self._room.most(fresh & self.of_host(LOCAL_HOST), 1) + self._room.most(mine, OF_OWN)
        return self._sorted({*found}, spec)

    def _beside(self, device_ids: Iterable[DeviceId]) -> int:
        """All devices of the hosts of some."""
        bits = 0
        for host_id in {host_of(device_id) for device_id in device_ids}:
            bits |= self.of_host(host_id)
        return bits

    # For people.

    def beside(self, device_id: DeviceId, *, most: int) -> list[DeviceId]:
        """The devices of the host of an unknown one, or some of all where that is not known either."""
        here = self.of_host(host_of(device_id))
        numbers = numbers_in(here) if here else range(len(self._ids))
        found = (each for number in numbers if (each := self._ids[number]) is not None)
        return [each for each, _ in zip(found, range(most), strict=False)]

    def backends(self) -> dict[str, list[str]]:
        """The backends that far hosts have said to work there, each with what its devices are called."""
        own, found = self.of_host(LOCAL_HOST), dict[str, list[str]]()
        for backend, numbers in self._backends.items():
            far = numbers.bits & ~own
            if names := [name for name, named in self._names.items() if far & named.bits]:
                found[backend] = sorted(names)
        return found

    def names(self) -> list[str]:
        """What devices are called on their hosts; some of very many."""
        return [name for name, _ in zip(self._names, range(MOST_NAMES), strict=False)]

    def has_name(self, name: str) -> bool:
        """Whether a host has a device that it calls so."""
        return name in self._names

    def hosts(self, *, most: int) -> list[HostId]:
        """Hosts that have devices; so many at most."""
        return [host_id for host_id, _ in zip(self._hosts, range(most), strict=False)]

    def label_keys(self) -> list[str]:
        """The keys of all labels of hosts."""
        return [*self._labels]

    def label_values(self, key: str) -> list[str]:
        """The values of a label that hosts have."""
        return [*self._labels.get(key, {})]


def is_called(device_id: DeviceId, name: str) -> bool:
    """Whether a host calls its device so, or it is of this kind."""
    own = name_of(device_id)
    return (own if ":" in name else kind_of(own)) == name


def kind_of(name: str) -> str:
    """What devices of a kind have in common: all in front of the last colon."""
    return name.rpartition(":")[0] or name


def _drop(sets: dict[K, NumberSet], key: K, number: int) -> None:
    """Take a number out of one of some sets, and forget that once it is empty."""
    sets[key].remove(number)
    if not sets[key]:
        del sets[key]
