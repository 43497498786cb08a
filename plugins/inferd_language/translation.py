"""Translations, by models that are large enough for that."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, Field

from inferd.plugin import Ask, ask, function
from inferd_language.needs import Needs, needs_for
from inferd_language.summaries import cut

TRANSLATES = Needs(
    parameters=3_000_000_000,
    why="and training on texts of both languages; smaller ones say it again in their own language, or something else",
)
Language = Annotated[str, Field(min_length=2, max_length=60)]


class Translation(BaseModel):
    """A text in another language.

    Attributes:
        translation: It; "" where the model cannot.
        capable: Whether the model is large enough.
        needs: What is needed where it is not; "" where it is.
    """

    translation: str
    capable: bool = True
    needs: str = ""


@function(asks=2000, timeout_s=600)
def translate(
    *,
    text: str,
    into: Language,
    model: str,
    source: Language = "",
    force: bool = False,
) -> Translation:
    """Say a text in another language, sentence by sentence where it is long.

    Args:
        text: What is translated.
        into: The language to translate into, by its English name.
        model: A language model of 3 billion parameters or more that was trained on both languages.
        source: The language that the text is in, likewise; default: what the model takes it for.
        force: Have the model try whatever its size is.
    """
    if not text.strip():
        raise ValueError("text has nothing but white space; there is nothing to translate in that")
    facts = ask(Ask(model=model, do="count", texts=["x"]))
    needs = needs_for(TRANSLATES, model, facts.parameters)
    if needs and not force:
        return Translation(translation="", capable=False, needs=needs)
    room = facts.context_tokens // 4
    order = f"Translate{f' from {source}' if source else ''} into {into}. Give the translation and nothing else.\n\n"
    said = [
        ask(Ask(model=model, messages=[{"role": "user", "content": order + part}], max_tokens=2 * room)).text.strip()
        for part in cut(model, text, room)
    ]
    return Translation(translation=" ".join(said), capable=not needs, needs=needs)
