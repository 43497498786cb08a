"""`inferd audit verify`, `export`, `checkpoint` and `tail`."""

from __future__ import annotations

import os
import re
import sys
import time
from collections import defaultdict
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import load_pem_public_key

from inferd.cli.amounts import counted
from inferd.cli.kernel import connected
from inferd.cli.output import CommandError
from inferd.cli.settings import read_settings
from inferd.cli.store import opened
from inferd.core.audit import EntryType, NoLineError, Said, read_line, text
from inferd.core.audit_check import Fault, FaultKind, Verdict, check
from inferd.runtime.audit_key import public_halves
from inferd.runtime.kept_trail import all_lines, read_parts
from inferd.runtime.trail_opening import ANCHOR, KEY
from inferd.signatures import RAW, holds

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from pathlib import Path

    from inferd.cli.output import Output

DIGITS: Final = re.compile(rb"\s*([0-9a-f]{64})\s*")
KEY_BYTES, LINE_BYTES = 1 << 14, 1 << 24  # most of a file with a key, and of a line (now 64 KiB, once a message)
FOLLOW_S = 1.0
PASSING = "this kernel has no store (store.url is memory:): its audit trail ends with it"
FOUND: Final = {
    "damaged": "parts of the trail damaged, and went on behind them: {what}",
    "put back": "that the trail was put back or removed: {lines} lines had been written before",
    "no checkpoint apart": "no {what} beside its key, so that nobody knows whether lines before that are gone",
    "key changed": "that its key is another one: {before:.16} before, {key:.16} now",
}
"""What kernels say of a trail that they found wrong."""
COLUMNS = ("TIME", "WHO", "WHAT", "ABOUT", "DECISION")


class Source:
    """Where a trail is read.

    Attributes:
        name: For people.
        lines: Its lines.
        heads: Checkpoints of it that are known besides.
        keys: By which it may be signed.
        count: How many lines it is known to have; 0 where that is not known.
        durable: Whether it outlives its kernel.
    """

    def __init__(
        self,
        name: str,
        lines: Iterable[str],
        *,
        heads: Sequence[str] = (),
        keys: Sequence[str] = (),
        count: int = 0,
        durable: bool = True,
    ) -> None:
        self.name, self.lines, self.heads, self.keys, self.count = name, lines, heads, keys, count
        self.durable = durable


def verify(
    output: Output,
    address: str,
    *,
    file: Path | None,
    keys: list[Path],
    checkpoints: list[Path],
    offline: bool,
    url: str | None,
) -> None:
    """Tell whether a trail is what was written.

    Raises:
        CommandError: It is not; or it cannot be read, or no key is known for it.
    """
    heads, trusted = [_read_checkpoint(path) for path in checkpoints], {_read_key(path) for path in keys}
    with _source(address, file=file, offline=offline, url=url) as source:
        trusted = trusted or set(source.keys)
        if not trusted:
            raise CommandError(
                "it is not known by which key this trail was signed; name its public half: --key audit.pub, which is"
                " beside the key of the kernel that has written it",
                reason="USAGE",
            )
        verdict = check(
            source.lines, lambda key, *signed: key in trusted and holds(key, *signed), heads=(*heads, *source.heads)
        )
    if verdict.fault is None and source.count > verdict.last:
        why = f"the trail ends with line {verdict.last}, and {source.count} were written"
        verdict.fault = Fault(FaultKind.TRUNCATED, verdict.last + 1, why)
    _tell(output, source, verdict)


def _tell(output: Output, source: Source, verdict: Verdict) -> None:
    fault = verdict.fault
    if fault is not None:
        raise CommandError(
            f"{source.name} is not what was written: line {fault.sequence} is the first that is wrong, {fault.kind}:"
            f" {fault.why}",
            reason="AUDIT_BROKEN",
            metadata={
                "kind": fault.kind.value,
                "line": str(fault.sequence),
                "why": fault.why,
                "sealed": str(verdict.sealed),
                "last": str(verdict.last),
            },
        )
    if output.json:
        output.document(
            {
                "ok": True,
                "first": verdict.first,
                "last": verdict.last,
                "checkpoints": verdict.checkpoints,
                "sealed": verdict.sealed,
                "sealed_time": verdict.sealed_time or None,
                "unsealed": verdict.unsealed,
                "keys": verdict.keys,
                "cut": verdict.cut or None,
                "told": verdict.told,
                "durable": source.durable,
            }
        )
        return
    output.text(
        f"{source.name}: lines {verdict.first} to {verdict.last} are what was written, as"
        f" {counted(verdict.checkpoints, 'checkpoint')} signed by {', '.join(key[:16] for key in verdict.keys)} say"
    )
    if not source.durable:
        output.note(PASSING)
    if verdict.first > 1:
        output.text(f"lines 1 to {verdict.first - 1} are not kept any more{_cut(verdict.cut)}")
    for said in verdict.told:
        what = f"line {said.get('sequence')} of {text(said, 'time')[:19]}"
        output.text(f"{what}: a kernel found {FOUND[text(said, 'event')].format_map(defaultdict(str, said))}")
    if verdict.unsealed:
        output.text(
            f"{counted(verdict.unsealed, 'line')} behind the last checkpoint ({verdict.sealed_time}) hold together and"
            " are not signed yet: whoever can write there could have changed or cut them"
        )


def _cut(cut: Said) -> str:
    """When the last of them went, and why."""
    if not cut:
        return ""
    by = cut.get("by")
    setting = ", ".join(f"{name} = {value}" for name, value in by.items()) if isinstance(by, dict) else ""
    lines = f"lines {cut.get('first')} to {cut.get('last')}, which ended {text(cut, 'ended')[:19]}"
    return f"; the last to go were {lines}: cut at {text(cut, 'time')[:19]} by {setting}"


def export(output: Output, address: str, *, to: Path | None, offline: bool, url: str | None) -> None:
    """Write a trail.

    Raises:
        CommandError: It cannot be read, or the file is there already.
    """
    with _source(address, file=None, offline=offline, url=url) as source:
        if to is None:
            for line in source.lines:
                sys.stdout.write(f"{line}\n")
            sys.stdout.flush()
            return
        count, last = 0, ""
        try:
            descriptor = os.open(to, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        except FileExistsError:
            raise CommandError(f"{to} is there already; name another, or remove it", reason="FILE_EXISTS") from None
        with os.fdopen(descriptor, "w", encoding="ascii", errors="replace") as file:
            for line in source.lines:
                file.write(f"{line}\n")
                count, last = count + 1, line
    sealed = '"type":"checkpoint"' in last
    if output.json:
        output.document({"path": str(to), "lines": count, "sealed": sealed})
        return
    output.text(f"{to}: {counted(count, 'line')}; check them anywhere with: inferd audit verify {to} --key audit.pub")


def checkpoint(output: Output, address: str) -> None:
    """Write the last checkpoint of a kernel's trail."""
    with connected(address) as client:
        line = client.get_audit_trail().checkpoint
    if not line:
        raise CommandError("the trail has no checkpoint yet; ask again in a minute", reason="AUDIT_EMPTY")
    output.text(line)


def tail(output: Output, address: str, *, lines: int, follow: bool) -> None:
    """Show the last lines, and what comes."""
    with connected(address) as client:
        trail = client.get_audit_trail()
        if not trail.durable:
            output.note(PASSING)
        after = max(0, trail.line_count - lines)
        shown = list(client.list_audit_lines(after_line=after))[-lines:]
        _show(output, shown)
        while follow:
            after = max([after, *(number for number in map(_number, shown) if number)])
            time.sleep(FOLLOW_S)
            shown = list(client.list_audit_lines(after_line=after))
            _show(output, shown, headed=False)


def _show(output: Output, lines: Sequence[str], *, headed: bool = True) -> None:
    if output.json:
        for line in lines:
            output.text(line)
        return
    rows = [row for row in map(_row, lines) if row]
    if headed or not rows:
        if headed:
            output.table(COLUMNS, rows, empty="the trail is empty", gives_way="WHAT")
        return
    for row in rows:
        output.text("  ".join(row))


def _number(line: str) -> int:
    try:
        return read_line(line).sequence
    except NoLineError:
        return 0


def _row(line: str) -> tuple[str, ...]:
    try:
        said = read_line(line).said
    except NoLineError:
        return ("", "", "a line that is damaged", "", "")
    what = text(said, "method").rpartition("/")[2] or text(said, "event") or text(said, "type")
    if said.get("type") == EntryType.END:
        what = "task ended"
    about = text(said, "task_id")[:12] or text(said, "name") or text(said, "model")
    ended = text(said, "decision") or text(said, "state")
    why = text(said, "rule") or text(said, "reason") or text(said, "phase")
    tenant = text(said, "tenant")
    who = text(said, "principal") + (f" ({tenant})" if tenant else "")
    return (text(said, "time")[:19].replace("T", " "), who, what, about, _joined(said, ended, why))


def _joined(said: Said, ended: str, why: str) -> str:
    lost = said.get("lost") or said.get("count") if said.get("type") in (EntryType.GAP, EntryType.OMITTED) else None
    return f"{lost} entries" if lost else ": ".join(each for each in (ended, why) if each)


# Where trails are.


@contextmanager
def _source(address: str, *, file: Path | None, offline: bool, url: str | None) -> Iterator[Source]:
    if file is not None and (offline or url is not None):
        raise CommandError("FILE and --offline or --url name two trails; leave one out", reason="USAGE")
    if file is not None:
        with file.open(encoding="ascii", errors="replace") as read:
            lines = iter(lambda: read.readline(LINE_BYTES), "")
            yield Source(str(file), (line.rstrip("\n") for line in lines), keys=_own_keys())
    elif offline or url is not None:
        with opened(None, url, reads=True) as store:
            head, segments, damaged = read_parts(store)
            if damaged:
                names = ", ".join(damaged)
                raise CommandError(
                    f"records of the trail in the store {store.name} are damaged: {names}", reason="STORE_DAMAGED"
                )
            heads = [str(head["checkpoint"])] if head is not None else []
            count = int(head["count"]) if head is not None else 0
            lines = all_lines(store, segments)
            heads += _anchor() if url is None else []
            yield Source(f"the trail in {store.name}", lines, heads=heads, keys=_own_keys(), count=count)
    else:
        with connected(address) as client:
            trail = client.get_audit_trail()
            heads = [trail.checkpoint] if trail.checkpoint else []
            yield Source(
                "the trail of the kernel",
                client.list_audit_lines(),
                heads=heads,
                keys=[trail.public_key.hex(), *_own_keys()],
                count=trail.line_count,
                durable=trail.durable,
            )


def _own_keys() -> list[str]:
    """The public half of this host's kernel's key, and of those before it, as far as they are there."""
    settings = read_settings()
    return [_read_key(path) for path in public_halves(settings.audit.key_file or settings.state_dir / KEY)]


def _anchor() -> list[str]:
    path = read_settings().state_dir / ANCHOR
    return [_read_checkpoint(path)] if path.exists() else []


def _read_key(path: Path) -> str:
    """The public half of a key, PEM or 64 hexadecimal digits, as the latter.

    Raises:
        CommandError: The file has none.
    """
    with path.open("rb") as file:
        data = file.read(KEY_BYTES)
    if found := DIGITS.fullmatch(data):
        return found[1].decode()
    try:
        key = load_pem_public_key(data)
    except ValueError:
        key = None
    if not isinstance(key, Ed25519PublicKey):
        raise CommandError(
            f"{path} has no public key of an audit trail, as the audit.pub beside a kernel's audit.key",
            reason="KEY_INVALID",
            metadata={"file": str(path)},
        )
    return key.public_bytes(*RAW).hex()


def _read_checkpoint(path: Path) -> str:
    """A checkpoint that was kept.

    Raises:
        CommandError: The file has none.
    """
    with path.open(encoding="ascii", errors="replace") as file:
        line = file.read(LINE_BYTES).strip()
    try:
        found = read_line(line)
    except NoLineError as error:
        raise CommandError(f"{path} has no checkpoint: {error}", reason="USAGE") from None
    if not found.is_checkpoint:
        raise CommandError(f"{path} has a line of a trail that is no checkpoint", reason="USAGE")
    return line
