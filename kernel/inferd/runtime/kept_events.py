"""Events of tasks as they are kept: JSON, a list for each event that begins with its number and its kind.

A later version reads what an earlier one wrote: fields are added at the end, with a default where they lack.
"""

from __future__ import annotations

import json
from array import array
from base64 import b64decode, b64encode
from dataclasses import asdict
from itertools import chain
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

from inferd.core import task_events as te
from inferd.core.ids import InstanceId
from inferd.core.quota import Quota, QuotaUse
from inferd.core.task import FinishReason, Outcome, SuspendReason, TaskState, Usage
from inferd.reasons import from_reason
from inferd.runtime.elements import Chain, Held, Slice
from inferd.runtime.event_log import Numbered, Run, cost_bytes

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from inferd.core.task_events import Elements
    from inferd.errors import InferdError
    from inferd.runtime.event_log import Entry

Written = list[Any]
PIECE_BYTES = 128 << 10  # so that what is read back of a task is read in parts
DECODER = json.JSONDecoder()
WRITTEN_BYTES = 8  # of a number or the marks around a text


class InBlob(NamedTuple):
    """An event that is kept in a blob.

    Attributes:
        sequence: Its number.
        kind: That of the event.
        digest: Of the blob, as hexadecimal digits.
        size_bytes: How many bytes that has.
        layout: Of a set of tensors, all of whose bytes are in the blob one behind the other: how many `written` has,
            and place and size of the elements of each tensor that has some beside it; of others, which are in the blob
            as in a row, nothing.
    """

    sequence: int
    kind: str
    digest: str
    size_bytes: int
    layout: Sequence[Sequence[int]] = ()

    def outline(self) -> te.TaskEvent:
        """An event of its kind, without its contents."""
        match self.kind:
            case "tensors":
                return te.TensorOutput(b"")
            case "prompt":
                return te.PromptOutput("", ())
            case "embedding":
                return te.EmbeddingOutput(())
        raise ValueError(f"an event of the kind {self.kind!r} in a blob is not known to this version")

    def whole(self, blob: Elements) -> Numbered:
        """The event, of what its blob has."""
        if self.kind != "tensors":
            return Numbered(self.sequence, _read_event(*read_json(blob.read())))
        (start,), *places = self.layout
        written = blob.read(0, start)
        elements: list[tuple[int, Elements]] = []
        for place, size_bytes in places:
            elements.append((place, Slice(blob, start, size_bytes)))
            start += size_bytes
        return Numbered(self.sequence, te.TensorOutput(written, tuple(elements)))


KeptEntry: TypeAlias = "Entry | InBlob"
"""What is kept of one event, or of a run of them."""
CAN_BE_LARGE = (te.TensorOutput, te.PromptOutput, te.EmbeddingOutput)


def contents_of(event: te.TaskEvent) -> Elements:
    """What a blob has of an event that is in it."""
    if isinstance(event, te.TensorOutput):
        return Chain([Held(event.written), *(each for _, each in event.elements)])
    return Held(json.dumps(_write_event(event), separators=(",", ":")).encode())


def in_blob(numbered: Numbered, digest: str, size_bytes: int) -> InBlob:
    """An event whose `contents_of` are in a blob."""
    sequence, event = numbered
    if not isinstance(event, te.TensorOutput):
        kind = "prompt" if isinstance(event, te.PromptOutput) else "embedding"
        return InBlob(sequence, kind, digest, size_bytes)
    layout = [[len(event.written)], *([place, each.size_bytes] for place, each in event.elements)]
    return InBlob(sequence, "tensors", digest, size_bytes, layout)


def write_entries(entries: Sequence[KeptEntry]) -> bytes:
    """Events, to be kept as one piece."""
    return json.dumps([write_entry(entry) for entry in entries], separators=(",", ":")).encode()


def write_pieces(entries: Iterable[KeptEntry]) -> list[tuple[int, bytes]]:
    """Events, to be kept as pieces of about `PIECE_BYTES`, each with the number of its last event."""
    pieces: list[tuple[int, bytes]] = []
    waiting: list[KeptEntry] = []
    size_bytes = 0
    for entry in chain.from_iterable(map(_parts, entries)):
        if waiting and size_bytes + _size_bytes(entry) > PIECE_BYTES:
            pieces.append((waiting[-1].sequence, write_entries(waiting)))
            waiting, size_bytes = [], 0
        waiting.append(entry)
        size_bytes += _size_bytes(entry)
    if waiting:
        pieces.append((waiting[-1].sequence, write_entries(waiting)))
    return pieces


def _parts(entry: KeptEntry) -> Iterator[KeptEntry]:
    """An event, or runs that are small enough for a piece, if one of their events is."""
    while isinstance(entry, Run) and len(entry.texts) > 1 and _size_bytes(entry) > PIECE_BYTES:
        first, entry = entry.split(len(entry.texts) // 2)
        yield from _parts(first)
    yield entry


def _size_bytes(entry: KeptEntry) -> int:
    """About what it takes as it is kept."""
    if isinstance(entry, Run):
        return sum(map(len, entry.texts)) + WRITTEN_BYTES * (len(entry.texts) + len(entry.token_ids))
    return WRITTEN_BYTES * len(entry) if isinstance(entry, InBlob) else cost_bytes(entry.event)


def read_entries(piece: bytes) -> list[KeptEntry]:
    """The events of a piece."""
    return [read_entry(*written) for written in read_json(piece)]


def read_json(written: bytes) -> Any:
    """What was written as one, and nothing else: a third of the time of `json.loads`, which first looks what it is."""
    value, end = DECODER.raw_decode(text := written.decode())
    if end != len(text):
        raise ValueError(f"{len(text) - end} characters follow what was written")
    return value


def write_entry(entry: KeptEntry) -> Written:
    """An event, as it stands in what is kept."""
    if isinstance(entry, InBlob):
        return [entry.sequence, "blob", *entry[1:]]
    if isinstance(entry, Run):
        return [entry.sequence, "run", entry.texts, entry.counts, entry.token_ids.tolist()]
    return [entry.sequence, *_write_event(entry.event)]


def _write_event(event: te.TaskEvent) -> Written:  # noqa: C901, PLR0911 - a table: one row for each kind
    match event:
        case te.Queued(position, eta_s):
            return ["queued", position, eta_s]
        case te.Started(instance_id, attempt, version):
            return ["started", instance_id, attempt, version]
        case te.Suspended(reason):
            return ["suspended", reason.value]
        case te.Resumed(instance_id, attempt, version):
            return ["resumed", instance_id, attempt, version]
        case te.Progress(phase, fraction):
            return ["progress", phase.value, fraction]
        case te.Moderated(rule, action, spans, sample):
            return ["moderated", rule, action, spans, sample]
        case te.PromptOutput(text, token_ids, logprobs, entropies):
            more = [_write_floats(entropies)] if entropies else []  # which a kernel before this one does not know
            return ["prompt", text, list(token_ids), _write_logprobs(logprobs), *more]
        case te.EmbeddingOutput(values):
            return ["embedding", _write_floats(values)]
        case te.TensorOutput(written, elements):
            beside = [[place, b64encode(each.read()).decode()] for place, each in elements]
            return ["tensors", b64encode(written).decode(), *([beside] if beside else [])]
        case te.Output(text, token_ids, sample, logprobs, reason):
            return ["output", text, list(token_ids), sample, _write_logprobs(logprobs), reason.value]
        case te.Finished(outcome, receipt):
            return ["finished", _write_outcome(outcome), asdict(receipt)]


def read_entry(number: int, kind: str, *rest: Any) -> KeptEntry:
    """The event that was written so."""
    if kind == "blob":
        return InBlob(number, *rest)
    if kind == "run":
        texts, counts, token_ids = rest
        return Run(number, texts, counts, array("I", token_ids))
    return Numbered(number, _read_event(kind, *rest))


def _read_event(kind: str, *rest: Any) -> te.TaskEvent:  # noqa: C901, PLR0911 - as above
    match kind, rest:
        case "queued", (position, eta_s):
            return te.Queued(position, eta_s)
        case "started", (instance_id, attempt, *version):  # kernels before this one did not write it
            return te.Started(InstanceId(instance_id), attempt, *version)
        case "suspended", (reason,):
            return te.Suspended(SuspendReason(reason))
        case "resumed", (instance_id, attempt, *version):
            return te.Resumed(InstanceId(instance_id), attempt, *version)
        case "progress", (phase, fraction):
            return te.Progress(te.Phase(phase), fraction)
        case "moderated", (rule, action, spans, sample):
            return te.Moderated(rule, action, spans, sample)
        case "prompt", (text, token_ids, logprobs, *more):
            entropies = _read_floats(more[0]) if more else ()
            return te.PromptOutput(text, array("I", token_ids), _read_logprobs(logprobs), entropies)
        case "embedding", (values,):
            return te.EmbeddingOutput(_read_floats(values))
        case "tensors", (written, *beside):
            elements = [(place, Held(b64decode(data))) for place, data in (beside[0] if beside else ())]
            return te.TensorOutput(b64decode(written), tuple(elements))
        case "output", (text, token_ids, sample, logprobs, reason):
            return te.Output(text, tuple(token_ids), sample, _read_logprobs(logprobs), FinishReason(reason))
        case "finished", (outcome, receipt):
            uses = tuple(QuotaUse(**{**use, "quota": Quota(**use["quota"])}) for use in receipt.pop("quotas", ()))
            asked = te.Asked(**receipt.pop("asked", {}))  # kernels before this one did not write it
            return te.Finished(_read_outcome(outcome), te.Receipt(**receipt, quotas=uses, asked=asked))
        case _:
            raise ValueError(f"an event of the kind {kind!r} with {len(rest)} fields is not known to this version")


def _write_fields(value: object, kind: type) -> dict[str, Any]:
    return {name: getattr(value, name) for name in kind.__dataclass_fields__}  # type: ignore[attr-defined] # has them


def _write_outcome(outcome: Outcome) -> dict[str, Any]:
    error = outcome.error
    return {
        "state": outcome.state.value,
        "reason": outcome.reason.value,
        "error": write_error(error),
        "usage": _write_fields(outcome.usage, Usage),
    }


def _read_outcome(written: dict[str, Any]) -> Outcome:
    return Outcome(
        state=TaskState(written["state"]),
        reason=FinishReason(written["reason"]),
        error=read_error(written["error"]),
        usage=Usage(**written["usage"]),
    )


def write_error(error: InferdError | None) -> Written | None:
    """An error, as it stands in what is kept."""
    return None if error is None else [error.reason, error.message, error.metadata, error.field]


def read_error(written: Written | None) -> InferdError | None:
    """The error that was written so."""
    if written is None:
        return None
    reason, message, metadata, field = written
    return from_reason(reason, message, {**metadata, "field": field})


def _write_logprobs(logprobs: te.Logprobs | None) -> Written | None:
    if logprobs is None:
        return None
    likely, top = _write_floats(logprobs.logprobs), _write_floats(logprobs.top_logprobs)
    return [list(logprobs.token_ids), likely, list(logprobs.top_ids), top]


def _read_logprobs(written: Written | None) -> te.Logprobs | None:
    if written is None:
        return None
    token_ids, likely, top_ids, top = written
    return te.Logprobs(array("I", token_ids), _read_floats(likely), array("I", top_ids), _read_floats(top))


def _write_floats(values: Sequence[float]) -> str:
    """Numbers of 32 bits, bit for bit."""
    return b64encode((values if isinstance(values, array) else array("f", values)).tobytes()).decode()


def _read_floats(written: str) -> array[float]:
    values = array("f")
    values.frombytes(b64decode(written))
    return values
