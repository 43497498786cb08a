"""`inferd top`: what the kernel holds and does, live, on the whole screen of a terminal or as JSON."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
import termios
import tty
from contextlib import aclosing
from typing import TYPE_CHECKING, TypeVar

from rich.console import Group
from rich.live import Live
from rich.text import Text

from inferd.cli.kernel import connected
from inferd.cli.leases import ACTIVE, PENDING
from inferd.cli.output import screen, table_of, uncut
from inferd.cli.quotas import fullest
from inferd.cli.tasks import numbers
from inferd.cli.top_panes import PANES, QUOTAS, Look, summary
from inferd.cli.top_screen import Screen, keys_of
from inferd.cli.visible import visible_line
from inferd.starts import end_start
from inferd_client import AsyncClient, KernelUnreachableError
from inferd_client.errors import KernelTooOldError, PermissionDeniedError, ShuttingDownError

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Iterator

    from rich.console import RenderableType

    from inferd.cli.output import Output

T = TypeVar("T")

MOST_LEASES = MOST_TASKS = 200  # that are read for each look
MOST_HOSTS = MOST_MODELS = 1000
MOST_USES = 1000
LIVING = ("queued", "running", "suspended")
UNSEEN = (KernelUnreachableError, ShuttingDownError, PermissionDeniedError, KernelTooOldError)
"""Why a part of a look is not there: the next one is of a kernel that is back; or it may not be read, or is not yet."""


def top(output: Output, address: str, tenant: str, *, interval_s: float, once: bool) -> None:
    """Show how things stand, again and again until `q` or Ctrl-C; once only where stdout is no terminal."""
    with connected(address, tenant) as client:  # for its errors
        end_start()
        shows = sys.stdout.isatty() and not screen().is_dumb_terminal
        asyncio.run(_top(output, client.address, tenant, interval_s, once=once or not (output.json or shows)))


async def _top(output: Output, address: str, tenant: str, interval_s: float, *, once: bool) -> None:
    async with AsyncClient(address, tenant=tenant) as client, aclosing(_looks(client, interval_s)) as looks:
        if once:
            look = await anext(looks)
            if output.json:
                output.document(look.plain())
            else:
                screen().print(render(look))
        elif output.json:
            async for look in looks:
                output.line(look.plain())
        else:
            await _show(looks)


async def _looks(client: AsyncClient, interval_s: float) -> AsyncGenerator[Look]:
    async with aclosing(client.watch_host(interval_s=interval_s)) as hosts:
        async for told in hosts:
            leases, tasks, all_hosts, models, uses = await asyncio.gather(
                _read(client.list_leases(states=(PENDING, ACTIVE)), MOST_LEASES),
                _read(client.list_tasks(states=numbers(LIVING)), MOST_TASKS),
                _read(client.list_hosts(), MOST_HOSTS),
                _read(client.list_models(), MOST_MODELS),
                _read(client.list_quota_uses(), MOST_USES),
            )
            quotas = fullest(uses, QUOTAS.most)
            yield Look(told=told, leases=leases, quotas=quotas, tasks=tasks, hosts=all_hosts, models=models)


async def _read(found: AsyncGenerator[T], most: int) -> list[T]:
    """The first of what is found; none for who may not read it, or of an older kernel."""
    things: list[T] = []
    with contextlib.suppress(*UNSEEN):
        async with aclosing(found) as each:
            async for thing in each:
                things.append(thing)
                if len(things) == most:
                    break
    return things


async def _show(looks: AsyncGenerator[Look]) -> None:
    """Show each look in place of the one before, as the keys ask for, until one of them ends it."""
    shown, now, ended = Screen(), list[Look](), asyncio.Event()
    console = screen()
    with Live(console=console, screen=True, auto_refresh=False) as live:

        def draw() -> None:
            if now:
                lines = shown.lines(now[0], console.width, console.height)
                live.update(Group(*lines), refresh=True)

        def press(typed: bytes) -> None:
            for key in keys_of(typed):
                shown.press(key)
            if shown.ended or not typed:  # the terminal is gone
                ended.set()
            else:
                draw()

        async def follow() -> None:
            async for look in looks:
                if not (shown.held and now):
                    now[:] = [look]
                    draw()

        with _keys(press), _resizing(draw):
            await _first(follow(), ended)


async def _first(follow: object, ended: asyncio.Event) -> None:
    """Follow until a key ends it; that the kernel ends the stream is the command's error."""
    following = asyncio.ensure_future(follow)  # type: ignore[call-overload] # a coroutine
    ending = asyncio.create_task(ended.wait())
    try:
        await asyncio.wait((following, ending), return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in (following, ending):
            task.cancel()
        await asyncio.gather(following, ending, return_exceptions=True)
    if not following.cancelled():
        following.result()


@contextlib.contextmanager
def _resizing(draw: Callable[[], None]) -> Iterator[None]:
    """Draw anew when the terminal has another size."""
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGWINCH, draw)
    try:
        yield
    finally:
        loop.remove_signal_handler(signal.SIGWINCH)


@contextlib.contextmanager
def _keys(press: Callable[[bytes], None]) -> Iterator[None]:
    """Give what is typed, b"" when nothing more can be; the terminal is as it was when the block ends."""
    if not sys.stdin.isatty():
        yield
        return
    terminal, loop = sys.stdin.fileno(), asyncio.get_running_loop()

    def read() -> None:
        try:
            typed = os.read(terminal, 256)
        except OSError:
            typed = b""
        if not typed:
            loop.remove_reader(terminal)
        press(typed)

    before = termios.tcgetattr(terminal)
    tty.setcbreak(terminal)
    loop.add_reader(terminal, read)
    try:
        yield
    finally:
        loop.remove_reader(terminal)
        with contextlib.suppress(termios.error):  # it may be gone
            termios.tcsetattr(terminal, termios.TCSADRAIN, before)


def render(look: Look) -> RenderableType:
    """Tables for people; what is empty is left out."""
    parts: list[RenderableType] = [
        Text(visible_line(summary(look.told.host))),
        *(Text(visible_line(f"! {warning}"), style="yellow") for warning in look.told.host.warnings),
    ]
    for pane in PANES:
        things = pane.things(look)
        if len(things) >= pane.least:
            rows = map(pane.row, things[: pane.most])
            table = table_of(pane.columns, rows, gives_way=pane.gives_way, width=screen().width)
            parts += ["", uncut(table)]
            if len(things) > pane.most:
                parts.append(Text(f"and {len(things) - pane.most} more {pane.title}", style="dim"))
    return Group(*parts)
