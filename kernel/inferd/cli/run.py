"""`inferd run`: one answer, or a conversation."""

from __future__ import annotations

import sys
from contextlib import ExitStack
from typing import TYPE_CHECKING

import typer

from inferd.cli.conversation import Conversation
from inferd.cli.inputs import compose, read_stdin, read_text
from inferd.cli.kernel import connected_or_private
from inferd.cli.output import CLOSED, CommandError
from inferd.cli.wanted import Wanted, check, resolved

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from inferd.cli.output import Output
    from inferd_client import RunOptions


def run(
    output: Output,
    wanted: Wanted,
    prompt: str | None,
    *,
    address: str,
    tenant: str,
    data_dir: Callable[[], Path],
    files: Sequence[Path],
    system: str,
    raw: bool,
    verbose: bool,
    options: RunOptions,
) -> None:
    """Run a model on `prompt`, files and what stdin gives; without a prompt and on a terminal, in a conversation."""
    if raw and system:
        raise typer.BadParameter(
            "a system message needs the chat template, which --raw leaves out", param_hint="--system"
        )
    if sys.stdout.name == CLOSED:
        raise CommandError("stdout is closed, and the answer would be lost; send it to a file", reason="USAGE")
    wanted.path()  # is no model where a path leads, nothing is read and no kernel asked
    converses = prompt is None and sys.stdin.isatty()
    given = compose(prompt or "", *map(read_text, files), "" if sys.stdin.isatty() else read_stdin(output))
    if not given and not converses:
        raise typer.BadParameter("the prompt is empty", param_hint="PROMPT")
    with ExitStack() as stack:
        kernel = connected_or_private(output, address, tenant, before=lambda: check(wanted, data_dir))
        client = stack.enter_context(kernel)
        name = stack.enter_context(resolved(client, wanted, data_dir))
        conversation = Conversation(
            output, client.address, name, options, tenant=tenant, system=system, raw=raw, verbose=verbose
        )
        if not converses:
            conversation.ask(given)
            return
        from inferd.cli.chat import Chat  # noqa: PLC0415 - readline tells of itself only where there is a terminal

        Chat(output, conversation, attached=given).run()
