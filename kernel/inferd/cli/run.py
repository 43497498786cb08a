"""`inferd run`: one answer, or a conversation."""

from __future__ import annotations

import sys
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import typer

from inferd.cli.conversation import Conversation, with_pictures
from inferd.cli.inputs import compose, read_image, read_stdin, read_text
from inferd.cli.kernel import connected, connected_or_private
from inferd.cli.output import CLOSED, CommandError
from inferd.cli.plain import plain
from inferd.cli.wanted import check, resolved

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from inferd.cli.named import Wanted
    from inferd.cli.output import Output
    from inferd.cli.private import StartingKernel
    from inferd_client import Prompt, RunOptions


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
    images: Sequence[Path] = (),
    detach: bool = False,
    ahead: StartingKernel | None = None,
) -> None:
    """Run a model on `prompt`, images, files and what stdin gives; without a prompt, on a terminal, in a conversation.

    Where it is to `detach`, the task is created, and its id told. A private kernel may have been started `ahead`.
    """
    if raw and system:
        raise typer.BadParameter(
            "a system message needs the chat template, which --raw leaves out", param_hint="--system"
        )
    if raw and images:
        raise typer.BadParameter("pictures need the chat template, which --raw leaves out", param_hint="--image")
    if sys.stdout.name == CLOSED:
        raise CommandError("stdout is closed, and the answer would be lost; send it to a file", reason="USAGE")
    wanted.path()  # is no model where a path leads, nothing is read and no kernel asked
    converses = prompt is None and sys.stdin.isatty()
    given = compose(prompt or "", *map(read_text, files), "" if sys.stdin.isatty() else read_stdin(output))
    pictures = [read_image(path) for path in images]
    if not (given or pictures) and (detach or not converses):
        raise typer.BadParameter("the prompt is empty", param_hint="PROMPT")
    if detach:
        messages: list[dict[str, Any]] = [{"role": "system", "content": system}] if system else []
        messages += [{"role": "user", "content": with_pictures(pictures, given)}]
        prompt_given: Prompt = given if raw else messages
        _create(output, wanted, prompt_given, address=address, tenant=tenant, data_dir=data_dir, options=options)
        return
    with ExitStack() as stack:
        kernel = connected_or_private(output, address, tenant, before=lambda: check(wanted, data_dir), ahead=ahead)
        client = stack.enter_context(kernel)
        name = stack.enter_context(resolved(client, wanted, data_dir))
        conversation = Conversation(
            output, client.address, name, options, tenant=tenant, system=system, raw=raw, verbose=verbose
        )
        conversation.pictures = pictures
        if not converses:
            conversation.ask(given)
            return
        from inferd.cli.chat import Chat  # noqa: PLC0415 - readline tells of itself only where there is a terminal

        Chat(output, conversation, attached=given).run()


def _create(
    output: Output,
    wanted: Wanted,
    prompt: Prompt,
    *,
    address: str,
    tenant: str,
    data_dir: Callable[[], Path],
    options: RunOptions,
) -> None:
    """Leave a task with the kernel; a private one would end with this command."""
    with connected(address, tenant) as client, resolved(client, wanted, data_dir, keep=True) as name:
        task = client.create_task(name, prompt, **options)
    if output.json:
        output.document(plain(task))
    else:
        output.text(task.task_id)
        output.note(f"inferd watch {task.task_id} shows its output")
