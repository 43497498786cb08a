"""What was said and when, as programs for transcripts and subtitles read it. Pure.

Sources: OpenAI's `TranscriptionVerbose`; SubRip's .srt; WebVTT (W3C).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from html import escape
from typing import TYPE_CHECKING, Any, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

SEGMENTS: Final = "_segments"
MILLISECONDS: Final = 1000


class Segment(NamedTuple):
    """A part of what is said, and from when to when, in seconds."""

    text: str
    begin_s: float
    end_s: float


@dataclass(slots=True)
class Heard:
    """What a model has written of a sound so far.

    Attributes:
        text: All of it.
        segments: Those that have ended.
        language: The code of what it is written in; "" where the model does not tell.
        length_s: Of the sound; None where that is not told.
    """

    text: str = ""
    segments: list[Segment] = field(default_factory=list)
    language: str = ""
    length_s: float | None = None

    def add(self, outputs: Mapping[str, Any]) -> bool:
        """Take a set of outputs; whether it tells times at all."""
        name = next((each.removesuffix(SEGMENTS) for each in outputs if each.endswith(SEGMENTS)), None)
        if name is None:
            return False
        self.text += "".join(outputs[name])
        ended = zip(*(outputs[name + part].tolist() for part in (SEGMENTS, "_begins", "_ends")), strict=True)
        self.segments += [Segment(text, round(begin_s, 3), round(end_s, 3)) for text, begin_s, end_s in ended]
        self.language = self.language or "".join(outputs[name + "_language"])
        for length_s in outputs[name + "_length"].tolist():
            self.length_s = round(length_s, 3)
        return True


def verbose(heard: Heard, task: str) -> dict[str, Any]:
    """As `verbose_json` has it; what the model does not tell is not there."""
    segments = [
        {"id": number, "start": begin_s, "end": end_s, "text": text, "temperature": 0.0}
        for number, (text, begin_s, end_s) in enumerate(heard.segments)
    ]
    known: dict[str, Any] = {} if heard.length_s is None else {"duration": heard.length_s}
    known |= {"language": heard.language} if heard.language else {}
    return {"task": task, **known, "text": heard.text.strip(), "segments": segments}


def srt(segments: Sequence[Segment]) -> str:
    """As SubRip has it."""
    return "".join(
        f"{number}\n{_clock(begin_s, ',')} --> {_clock(end_s, ',')}\n{_line(text)}\n\n"
        for number, (text, begin_s, end_s) in enumerate(segments, start=1)
    )


def vtt(segments: Sequence[Segment]) -> str:
    """As WebVTT has it."""
    cues = (
        f"{_clock(begin_s, '.')} --> {_clock(end_s, '.')}\n{escape(_line(text), quote=False)}\n\n"
        for text, begin_s, end_s in segments
    )
    return "WEBVTT\n\n" + "".join(cues)


def _line(text: str) -> str:
    """A text on one line, which no reader takes for the times of a cue."""
    return " ".join(text.split()).replace("-->", "->")


def _clock(seconds: float, point: str) -> str:
    minutes, milliseconds = divmod(round(seconds * MILLISECONDS), 60 * MILLISECONDS)
    hours, minutes = divmod(minutes, 60)
    return f"{hours:02}:{minutes:02}:{milliseconds // MILLISECONDS:02}{point}{milliseconds % MILLISECONDS:03}"
