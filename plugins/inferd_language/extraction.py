"""Values that a text gives, as a schema says: a model writes them by a grammar, and nothing else."""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field

from inferd.plugin import Ask, ask, ask_all, function

MOST_FIELDS = 64
MOST_TOKENS = 256
MOST_SCHEMA = 16 << 10  # characters
MOST_CHARACTERS = 4000
RULED = ("enum", "const", "pattern", "format")  # a text of a schema with one of these need not stand in what is read


class Example(BaseModel):
    """A text, and what is to be found in it.

    Attributes:
        text: It.
        value: Of the schema.
    """

    text: str
    value: dict[str, Any]


class Extracted(BaseModel):
    """What was found.

    Attributes:
        value: Of the schema.
        found: The names of values that stand in the text as they are: the others the model has made up or changed.
    """

    value: dict[str, Any]
    found: list[str]


@function(asks=MOST_FIELDS, timeout_s=300)
def extract(
    *,
    text: str,
    schema: dict[str, Any],
    model: str,
    by: Literal["fields", "whole"] = "fields",
    instruction: Annotated[str, Field(max_length=2000)] = "",
    examples: Annotated[list[Example], Field(max_length=16)] | None = None,
    most_tokens: Annotated[int, Field(ge=1, le=4096)] = MOST_TOKENS,
) -> Extracted:
    """Find values in a text: JSON of a schema of an object, which a language model cannot but keep to.

    Args:
        text: What is looked at; its first 4,000 characters.
        schema: JSON schema of an object; descriptions of its properties are told to the model.
        model: A language model.
        by: "fields": each value is asked for by itself, and texts are words of the text as they stand there, unless the
            schema gives them an enum, a pattern or a format; small models are able to do that. "whole": the model
            writes the object at once, and texts in its own words.
        instruction: What the model is told besides.
        examples: Texts with their values, which the model reads before; small models need some.
        most_tokens: Most that it writes.
    """
    properties = schema.get("properties")
    if schema.get("type", "object") != "object" or not isinstance(properties, dict) or not properties:
        raise ValueError('schema is no schema of an object with properties; give {"type": "object", "properties": {…}}')
    if len(properties) > MOST_FIELDS or len(json.dumps(schema)) > MOST_SCHEMA:
        raise ValueError(f"schema has {len(properties)} properties; at most {MOST_FIELDS}, in {MOST_SCHEMA} characters")
    shown, shots = text.strip()[:MOST_CHARACTERS], examples or []
    if not shown:
        raise ValueError("text has nothing but white space; there is nothing to find in that")
    if by == "whole":
        closed = {"additionalProperties": False, "required": sorted(properties), **schema, "type": "object"}
        before = "".join(_whole(each.text) + json.dumps(each.value, ensure_ascii=False) + "\n\n" for each in shots)
        prompt = f"{instruction or 'Find these values in the text.'}\n\n{before}{_whole(shown)}"
        value = ask(Ask(model=model, prompt=prompt, schema=closed, max_tokens=most_tokens)).value
    else:
        asked = [_field(model, name, of, shown, shots, instruction, most_tokens) for name, of in properties.items()]
        told = ask_all(asked)
        value = {
            name: one.text.strip() if a_question.lark else one.value
            for name, a_question, one in zip(properties, asked, told, strict=True)
        }
    return Extracted(value=value, found=[name for name, each in value.items() if _stands(each, text)])


def _whole(text: str) -> str:
    return f"Text: {text}\nJSON: "


def _field(  # noqa: PLR0917 - of one field
    model: str, name: str, of: Any, text: str, shots: list[Example], instruction: str, most_tokens: int
) -> Ask:
    """What is asked for one value."""
    rule = of if isinstance(of, dict) else {}
    what = name.replace("_", " ")
    told = instruction or f"Find the {what} in the text."
    if rule.get("description"):
        told += f" The {what} is: {rule['description']}"
    verbatim = rule.get("type") == "string" and not any(each in rule for each in RULED)
    written = [
        f"Text: {each.text}\n{what}: "
        + (str(each.value[name]) if verbatim else json.dumps(each.value[name], ensure_ascii=False))
        for each in shots
        if name in each.value
    ]
    prompt = "\n\n".join([told, *written, f"Text: {text}\n{what}:"])
    if verbatim:
        return Ask(model=model, prompt=prompt, lark=words_of_text(text), max_tokens=most_tokens, stop=["\n"])
    return Ask(model=model, prompt=f"{prompt} ", schema=rule, max_tokens=most_tokens)


def words_of_text(text: str) -> str:
    """A grammar of words that stand one behind the other in a text, and of a line feed behind them."""
    return f'start: " " WORDS "\\n"\nWORDS: %regex {{ "substring_words": {json.dumps(text, ensure_ascii=False)} }}'


def _stands(value: Any, text: str) -> bool:
    """Whether a value, or all of a list, stands in a text."""
    if isinstance(value, list):
        return bool(value) and all(_stands(each, text) for each in value)
    written = value if isinstance(value, str) else json.dumps(value)
    return bool(written) and written.casefold() in text.casefold()
