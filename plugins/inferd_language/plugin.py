"""What this package offers to inferd."""

from collections.abc import Callable, Iterable
from typing import Any

from inferd.plugin import hookimpl
from inferd_language.choices import classify, sentiment
from inferd_language.dialogue import converse, dialogue_add, dialogue_forget, dialogue_list, dialogue_show
from inferd_language.extraction import extract
from inferd_language.moderation import moderate
from inferd_language.ranking import rank
from inferd_language.recommending import recommend
from inferd_language.summaries import summarise
from inferd_language.translation import translate


@hookimpl
def inferd_functions() -> Iterable[Callable[..., Any]]:
    """Functions that ask models, or can."""
    dialogues = (converse, dialogue_add, dialogue_forget, dialogue_list, dialogue_show)
    return (*dialogues, classify, extract, moderate, rank, recommend, sentiment, summarise, translate)
