"""What an answer must be, from the options of `inferd run`."""

from collections.abc import Sequence
from pathlib import Path

import typer

from inferd.errors import words_of
from inferd_api.v1.sampling_pb2 import Choice, Grammar


def read_grammar(*, json_schema: str, regex: str, choice: Sequence[str]) -> Grammar | None:
    """The grammar that the options ask for; None for none. A schema "@FILE" is read from the file.

    Raises:
        typer.BadParameter: More than one is given, or the file cannot be read.
    """
    if sum(map(bool, (json_schema, regex, choice))) > 1:
        raise typer.BadParameter("give one of --json-schema, --regex and --choice")
    if json_schema.startswith("@"):
        try:
            json_schema = Path(json_schema[1:]).expanduser().read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise typer.BadParameter(words_of(error), param_hint="--json-schema") from None
    if json_schema:
        return Grammar(json_schema=json_schema)
    if regex:
        return Grammar(regex=regex)
    return Grammar(choice=Choice(texts=choice)) if choice else None
