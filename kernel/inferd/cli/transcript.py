"""A task as it comes: what it waits for on stderr, its text on stdout, what it cost at the end."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from inferd.cli.amounts import size, span
from inferd.cli.output import command_error
from inferd.cli.plain import plain
from inferd.cli.visible import VisibleStream
from inferd_api.v1.moderation_pb2 import Moderated, ModerationAction
from inferd_api.v1.task_pb2 import (
    FINISH_REASON_MAX_TOKENS,
    PHASE_CALL,
    PHASE_LOAD,
    Finished,
    Progress,
    Queued,
    SuspendReason,
    TaskEvent,
)
from inferd_client.errors import from_status
from inferd_client.options import DEFAULT_MAX_TOKENS

if TYPE_CHECKING:
    from collections.abc import AsyncIterable, Callable

    from inferd.cli.output import Output


class Transcript:
    """Plays the events of one task.

    Args:
        output: Where it is shown.
        model: Of the task.
        bound: Whether it may put out no more tokens than it does by default.
        verbose: Whether its id is told before all else.

    Attributes:
        text: The output so far.
        finished: How it ended; empty before.
    """

    def __init__(self, output: Output, model: str, *, bound: bool = False, verbose: bool = False) -> None:
        self._bound = bound
        self._verbose = verbose
        self._cut = False
        self.text = ""
        self.finished = Finished()
        self._task_id = ""
        self._output = output
        self._model = model
        self._visible = VisibleStream() if sys.stdout.isatty() else None

    async def play(self, events: AsyncIterable[TaskEvent]) -> None:
        """Show the events as they come, to the last one; where this is cancelled, what came stays."""
        try:
            with self._output.status("") as say:
                async for event in events:
                    self._show(event, say)
        finally:
            if not self._output.json and self._visible is not None:
                sys.stdout.write(self._visible.end())
            if not self._output.json and self.text and not self.text.endswith("\n"):
                self._output.text("")

    def close(self) -> None:
        """Tell what the task cost.

        Raises:
            CommandError: The task did not succeed.
        """
        if self.finished.HasField("error"):
            raise command_error(from_status(self.finished.error))
        if self._bound and self._cut:
            self._output.note(
                f"the answer ends at {DEFAULT_MAX_TOKENS} tokens, or where the context was full; "
                "ask for more with --max-tokens N, or --max-tokens all"
            )
        if self._output.json:
            summary = {"task_id": self._task_id, "model": self._model, "text": self.text}
            rates = {"tokens_per_s": tokens_per_s(self.finished)}
            self._output.line({"summary": summary | plain(self.finished) | rates})
        else:
            self._output.note(costs(self.finished))

    def _show(self, event: TaskEvent, say: Callable[[str], None]) -> None:
        if self._verbose and not self._task_id and not self._output.json:
            self._output.note(f"task {event.task_id}")
        self._task_id = event.task_id
        self._cut = self._cut or FINISH_REASON_MAX_TOKENS in (event.finished.reason, event.output.finish_reason)
        if self._output.json:
            self._output.line({"event": plain(event)})
        match event.WhichOneof("kind"):
            case "output":
                say("")
                self._write(event.output.text)
            case "finished":
                self.finished = event.finished
            case "queued" if not self.text:  # behind text, a line that comes and goes would spoil it
                say(f"{waiting(event.queued, self._model)} · task {event.task_id}")
            case "moderated" if not self._output.json:
                self._output.note(cut(event.moderated))
            case "suspended" if not self.text:
                say(stopped(event))
            case "progress" if not self.text:
                say(progressing(event.progress, self._model))

    def _write(self, text: str) -> None:
        """Show output: on a terminal visible, else as it is."""
        self.text += text
        if not self._output.json:
            sys.stdout.write(text if self._visible is None else self._visible.feed(text))
            sys.stdout.flush()


def waiting(queued: Queued, model: str) -> str:
    """What a queued task waits for."""
    before = f", {queued.position} before it" if queued.position else ""
    about = f", about {span(queued.eta.ToTimedelta().total_seconds())}" if queued.HasField("eta") else ""
    why = f": {queued.reason}" if queued.reason else ""
    return f"waiting for {model}{before}{about}{why}"


def cut(moderated: Moderated) -> str:
    """What a rule has done."""
    if moderated.action == ModerationAction.MODERATION_ACTION_STOP:
        return f"rule {moderated.rule} ended it"
    return f"rule {moderated.rule} cut {moderated.spans} {'span' if moderated.spans == 1 else 'spans'}"


def stopped(event: TaskEvent) -> str:
    """Why a task does not run, and how it goes on."""
    match event.suspended.reason:
        case SuspendReason.SUSPEND_REASON_CLIENT:
            return f"suspended; it goes on with: inferd resume {event.task_id}"
        case SuspendReason.SUSPEND_REASON_WORKER_DIED:
            return "its worker died; it goes on where it was"
        case SuspendReason.SUSPEND_REASON_UNLOADED:
            return "its instance ends; it goes on elsewhere"
        case SuspendReason.SUSPEND_REASON_STORE:
            return "the store takes nothing; it goes on when that does"
        case _:
            return "stopped for a task of a higher class"


def progressing(progress: Progress, model: str) -> str:
    """What goes on before the first token."""
    doing = {PHASE_LOAD: f"loading {model}", PHASE_CALL: "at work"}
    what = doing.get(progress.phase, "reading the prompt")
    return f"{what} {progress.fraction:.0%}"


LEAST_S = 0.02  # shorter spans tell how events were joined, not how fast a model is


def tokens_per_s(finished: Finished) -> float | None:
    """Tokens a second behind the first one; None for fewer than two, and where they came in no time to speak of."""
    receipt = finished.receipt
    first_s = receipt.first_token_duration.ToTimedelta().total_seconds()
    all_s = (receipt.queue_duration.ToTimedelta() + receipt.run_duration.ToTimedelta()).total_seconds()
    behind = finished.usage.output_tokens - 1
    return behind / (all_s - first_s) if behind > 0 and all_s - first_s >= LEAST_S else None


def costs(finished: Finished) -> str:
    """The last line of `inferd run`."""
    receipt, tokens, rate = finished.receipt, finished.usage.output_tokens, tokens_per_s(finished)
    parts = []
    if receipt.HasField("first_token_duration"):
        parts.append(f"TTFT {span(receipt.first_token_duration.ToTimedelta().total_seconds())}")
    if rate is not None:
        parts.append(f"{rate:.1f} tok/s")
    parts.append(f"{tokens} token{'' if tokens == 1 else 's'}")
    parts.append(f"{receipt.backend} backend on {receipt.device}")
    parts.append(size(receipt.worker_memory_bytes))
    return " · ".join(parts)
