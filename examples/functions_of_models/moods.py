"""A function that asks a model.

pip install examples/functions_of_models
inferd functions call mood --input '{"text": "It rains.", "model": "smollm2"}'
"""

from inferd.plugin import Ask, ask, function, hookimpl


@function(asks=1)
def mood(text: str, model: str) -> str:
    """Whether a text is glad or sad."""
    said = Ask(model=model, prompt=f"{text}\nThe mood of this is", choice=[" glad", " sad"])
    return ask(said).text.strip()


@hookimpl
def inferd_functions() -> list[object]:
    """What this package offers."""
    return [mood]
