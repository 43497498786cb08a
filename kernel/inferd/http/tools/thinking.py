"""Where a model thinks before it answers: between two markers, of which the prompt may have the first."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from inferd.http.tools.parse import Parse
    from inferd.http.tools.reader import Steps


@dataclass(frozen=True, slots=True)
class Thinking:
    """Markers around what a model thinks.

    Attributes:
        begin: Before it.
        end: Behind it.
        calls: What begins something else in the midst of it, for models that forget to end their thoughts.
        other: Markers that some models of the family have instead.
        exact: Whether white space around it is a part of it.
    """

    begin: str
    end: str
    calls: tuple[str, ...] = ()
    other: tuple[str, str] | None = None
    exact: bool = False

    def begun_by(self, prompt: str) -> bool:
        """Whether a prompt that ends so has begun it already."""
        return prompt.rstrip().endswith(self.begin)

    def parse(self, p: Parse, *, begun: bool) -> Steps[None]:
        """What the model thinks, if it does, and the line feeds behind it."""
        end = self.end
        if not begun:
            p.reader.record()
            yield from p.reader.skip()
            marker = yield from p.reader.literal(self.begin, self.end, *(self.other or ()))
            spaces = p.reader.recorded()
            if not marker:
                p.sink.content(spaces)
                return
            if marker == self.end:
                yield from p.reader.skip("\n")
                return
            if self.other and marker == self.other[0]:
                end = self.other[1]
        marker = yield from p.content(end, *self.calls, say=p.sink.reasoning if self.exact else p.sink.thought)
        p.sink.thought_ended()
        if marker in self.calls:
            p.reader.give_back(marker)
        p.reader.recorded()
        if marker == end:
            yield from p.reader.skip("\n")
