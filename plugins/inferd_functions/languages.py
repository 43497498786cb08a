"""In which language a text is."""

import io
from functools import cache
from types import SimpleNamespace
from typing import Any

from pydantic import BaseModel

from inferd.plugin import function
from inferd_functions.libraries import library

langid = library("py3langid.langid")


class Language(BaseModel):
    """A language.

    Attributes:
        language: Its code, ISO 639-1.
        confidence: How likely it is among those that were looked at, 0 to 1.
    """

    language: str
    confidence: float


@cache
def identifier() -> Any:
    """The model of languages; False where its library is not installed."""
    if not langid:
        return False
    modelio = library("py3langid.modelio")
    # It unpacks its model into a file in a temporary folder. A process of a sandbox has none that it may write to.
    before, modelio.tempfile = modelio.tempfile, SimpleNamespace(TemporaryFile=lambda **_: io.BytesIO())
    try:
        return langid.LanguageIdentifier.from_model_file(langid.MODEL_FILE, norm_probs=True)
    finally:
        modelio.tempfile = before


@function(timeout_s=60, prepare=identifier)
def detect_language(text: str, among: list[str] | None = None) -> Language:
    """Find the language that a text is in; a sentence is enough for most.

    Args:
        text: What is looked at.
        among: Codes of the languages that it may be in. Default: all that are known, about a hundred.
    """
    if not text.strip():
        raise ValueError("text has nothing but white space; there is no language in that")
    known = identifier() or langid.LanguageIdentifier
    if among is not None:
        if unknown := sorted({*among} - {*known.labels}):
            raise ValueError(f"among has {unknown[0]!r}; known are {', '.join(sorted(known.labels))}")
        if not among:
            raise ValueError("among is empty; name languages, or leave it out")
        known.set_languages(among)
    language, confidence = known.classify(text)
    return Language(language=language, confidence=round(float(confidence), 6))
