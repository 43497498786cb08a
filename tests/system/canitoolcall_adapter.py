"""inferd as an engine of canitoolcall, which replays what models wrote through parsers (`make canitoolcall`).

Its fixtures come with token ids, of tokenizers that are elsewhere: a text is cut here at its markers and, between them,
after every character. So its deltas of "one token" are of one character, and those of several of that many: harder than
any tokens.
"""

from __future__ import annotations

import re
import sys
from itertools import pairwise
from typing import TYPE_CHECKING, Any, ClassVar, Final

from canitoolcall.adapters.base import Adapter, ReplayInput, Support, ToolSpec  # type: ignore[import-not-found]
from canitoolcall.results import ParseResult, StreamAccumulator  # type: ignore[import-not-found]

from inferd.http.speech import Speech
from inferd.http.tools.formats.table import FORMATS
from inferd.http_settings import Http

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

KINDS: Final = (  # of which models, by what their names begin with
    ("qwen3-hermes", "", "hermes"),
    ("qwen3-xml", "", "qwen3_coder"),
    ("gpt-oss", "", "harmony"),
    ("deepseek", "deepseek-ai/DeepSeek-V3.2", "deepseek_v32"),
    ("deepseek", "deepseek-ai/DeepSeek-V4", "deepseek_v32"),
    ("deepseek", "", "deepseek_v3"),
    ("kimi", "moonshotai/Kimi-K3", "kimi_k3"),
    ("kimi", "", "kimi_k2"),
    ("glm", "", "glm"),
    ("llama", "meta-llama/Llama-4", "llama4"),
    ("llama", "", "llama3"),
    ("mistral", "", "mistral"),
    ("gemma4", "", "gemma4"),
)
PROMPT_ENDS: Final = {"kimi_k3": "<|open|>think<|sep|>"}  # of models without a template, as their encoders write them
_MARKER: Final = re.compile(r"<[|｜/]?[^<>\s]{1,40}>|\[/?[A-Z_]{3,}\]|.", re.DOTALL)  # noqa: RUF001 - as models write them


class InferdAdapter(Adapter):  # type: ignore[misc]
    """The parsers of `inferd.http.tools`, by the reader that the gateway has for chats."""

    name: ClassVar[str] = "inferd"
    pinned_version: ClassVar[str] = "tree"
    supports_text_deltas: ClassVar[bool] = True

    def version(self) -> str:
        return "tree"

    def supports(self, family: str, model: str) -> Support:
        found = _format(family, model)
        return Support(found is not None, None if found else f"no format is known for {model}")

    def parser_config(self, raw: ReplayInput) -> dict[str, Any]:
        return {"format": _format(raw.family, raw.model), "units": "markers and characters"}

    def units(self, raw: ReplayInput) -> list[int]:
        return [found.start() for found in _MARKER.finditer(raw.text)]

    def special_token_ids(self, raw: ReplayInput) -> Collection[int]:
        return [found.start() for found in _MARKER.finditer(raw.text) if len(found.group()) > 1]

    def parse(self, raw: ReplayInput, tools: Sequence[ToolSpec]) -> ParseResult:
        return _replay(raw, [raw.text], tools, streamed=False)

    def parse_stream(self, raw: ReplayInput, chunks: Sequence[Sequence[int]], tools: Sequence[ToolSpec]) -> ParseResult:
        starts = [*(chunk[0] for chunk in chunks if chunk), len(raw.text)]
        return _replay(raw, [raw.text[at:end] for at, end in pairwise(starts)], tools)

    def parse_stream_text(self, raw: ReplayInput, deltas: Sequence[str], tools: Sequence[ToolSpec]) -> ParseResult:
        return _replay(raw, deltas, tools)


def _format(family: str, model: str) -> str | None:
    return next((form for known, begin, form in KINDS if known == family and model.startswith(begin)), None)


def _replay(
    raw: ReplayInput, pieces: Sequence[str], tools: Sequence[ToolSpec], *, streamed: bool = True
) -> ParseResult:
    """What a client puts together of the deltas that the gateway sends."""
    form = _format(raw.family, raw.model) or ""
    prompt_end = raw.generation_prompt or ("" if raw.thinking is False else PROMPT_ENDS.get(form, ""))
    held_chars = Http().held_chars if streamed else sys.maxsize
    speech = Speech(form=FORMATS[form], tools=tuple(tools), prompt_end=prompt_end, held_chars=held_chars, thinks=True)
    reader, client = speech.reader(None), StreamAccumulator()
    for deltas in (*map(reader.feed, pieces), reader.finish(cut=raw.truncated)):
        for delta in deltas:
            client.add_openai_delta(delta)
    return client.result()
