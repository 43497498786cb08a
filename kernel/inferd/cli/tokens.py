"""`inferd tokenize`: the tokens of a text."""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING

from inferd.cli.amounts import counted
from inferd.cli.inputs import read_stdin
from inferd.cli.kernel import connected_or_private
from inferd.cli.wanted import check, resolved

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from inferd.cli.named import Wanted
    from inferd.cli.output import Output
    from inferd_client import Prompt


def tokenize(
    output: Output, wanted: Wanted, text: str | None, *, address: str, data_dir: Callable[[], Path], chat: bool
) -> None:
    """Show the token ids of `text`, or of stdin; with `chat`, of what the chat template makes of it."""
    given = read_stdin(output) if text is None else text
    prompt: Prompt = [{"role": "user", "content": given}] if chat else given
    wanted.path()
    with ExitStack() as stack:
        kernel = connected_or_private(output, address, "", before=lambda: check(wanted, data_dir))
        client = stack.enter_context(kernel)
        name = stack.enter_context(resolved(client, wanted, data_dir))
        token_ids = client.tokenize(name, prompt)
    if output.json:
        output.document({"model": name, "tokens": len(token_ids), "token_ids": token_ids})
    else:
        output.text(" ".join(map(str, token_ids)))
        output.note(counted(len(token_ids), "token"))
