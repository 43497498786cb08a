"""How many tokens of what a model writes are told as thoughts. Pure."""

from typing import Any, cast

import pytest

from inferd.http.speech import Speeches
from inferd.http.thoughts import Thoughts
from inferd.http.token_texts import Remembered
from inferd_api.v1.model_service_pb2 import ModelWriting

PIECES = dict(enumerate([b"<think>", b"Hm", b", \xc3", b"\xa9a.", b"</think>", b"Yes", b"."]))


@pytest.mark.parametrize(
    ("told", "found"),
    [
        ([], 0),
        (["Hm, \u00e9a."], 3),
        (["H", "m, \u00e9"], 3),  # the half of a token is one, too
        (["Hm", None, "\u00e9a."], 2),
        (["Hm"], 1),
        (["nowhere"], 2),  # by its share of the text
        (["x" * 900], 7),
    ],
)
def test_tokens_of_thoughts(told: list[str | None], found: int) -> None:
    """Each token of which a part is thought counts once, and markers and answers do not."""
    thoughts = Thoughts()
    thoughts.token_ids.extend(PIECES)
    for text in told:
        if text is None:
            thoughts.end()
        else:
            thoughts.think(text)
    assert bool(thoughts) is bool(told)
    assert thoughts.count(PIECES.__getitem__) == found


class _Writing:
    """A kernel whose model has a template."""

    def __init__(self, template: str) -> None:
        self._template = template

    async def model_writing(self, model: str) -> ModelWriting:
        assert model == "m"
        return ModelWriting(chat_template=self._template)


@pytest.mark.parametrize(
    ("template", "able"),
    [
        ("{{ messages }}", []),
        ("{% if tools %}<tool_call>{% endif %}{{ messages }}", ["tools"]),
        ("{% if tools %}<tool_call>{% endif %}<think></think>", ["tools", "thinking"]),
    ],
)
async def test_what_a_model_can(template: str, able: list[str]) -> None:
    """Whether a model calls tools and thinks is told by its template, for programs that offer either only then."""
    speeches = Speeches(Remembered(8, 8), {}, 100)
    assert await speeches.abilities(cast("Any", _Writing(template)), "m", 1) == able
