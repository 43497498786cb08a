"""A model's text to contents, reasoning and calls, as it comes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from inferd.http.tools.formats.table import FORMATS, PLAIN, format_of
from inferd.http.tools.parse import Parse
from inferd.http.tools.reader import Reader
from inferd.http.tools.schema import Tools
from inferd.http.tools.sink import HELD_CHARS, Sink, fresh_id

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from inferd.http.tools.deltas import Delta
    from inferd.http.tools.formats.table import Format
    from inferd.http.tools.reader import Steps


class ToolParser:
    """The parser of one answer. How its text is cut into pieces does not change what comes out, pieces apart.

    One writer: whoever feeds it.
    """

    def __init__(self, form: Format, tools: Tools, sink: Sink, *, begun: bool) -> None:
        self._reader = Reader()
        self._sink = sink
        self._steps = _steps(form, Parse(self._reader, sink, tools), begun=begun)
        self._over = False

    def feed(self, text: str) -> list[Delta]:
        """Take the next piece of the text; what is known with it."""
        if text:
            self._reader.push(text)
            self._run()
        return self._sink.drain()

    def finish(self, *, cut: bool = False) -> list[Delta]:
        """The text is over; all that was held back.

        Args:
            cut: Whether it was cut off, at its longest or by its deadline, and not ended by the model: the begin of a
                call at its end is no content then.
        """
        self._reader.end(cut=cut)
        self._run()
        self._sink.finish()
        return self._sink.drain()

    def _run(self) -> None:
        if not self._over:
            self._over = next(self._steps, True) is True


def _steps(form: Format, p: Parse, *, begun: bool) -> Steps[None]:
    if form.thinking:
        yield from form.thinking.parse(p, begun=begun)
    yield from (form if form.structured or len(p.tools) else PLAIN).parse(p)


def parser_for(
    form: str,
    tools: Sequence[Mapping[str, Any]] = (),
    *,
    prompt_end: str = "",
    held_chars: int = HELD_CHARS,
    make_id: Callable[[], str] = fresh_id,
) -> ToolParser:
    """A parser for the next answer of a model.

    Args:
        form: A name of `FORMATS`, or the text of the model's chat template, which tells its format.
        tools: Those that were offered, as OpenAI's interface has them; with none, calls are content.
        prompt_end: What the prompt ends with: it may have begun the model's thoughts.
        held_chars: Characters of a call's arguments that are held back until the call is whole, so that one that
            breaks off can be given as content; a longer one goes out as it comes from there on.
        make_id: Gives the ids of calls, where the format has none.
    """
    found = FORMATS.get(form) or format_of(form)
    begun = bool(found.thinking and found.thinking.begun_by(prompt_end))
    return ToolParser(found, Tools(tools), Sink(glue=found.glue, held_chars=held_chars, make_id=make_id), begun=begun)
