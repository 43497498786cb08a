"""What this package offers to inferd."""

from collections.abc import Callable, Iterable
from typing import Any

from inferd.plugin import hookimpl
from inferd_evaluation.figures import evaluation_report
from inferd_evaluation.items import evaluation_items
from inferd_evaluation.page import evaluation_page
from inferd_evaluation.rows import evaluation_rows


@hookimpl
def inferd_functions() -> Iterable[Callable[..., Any]]:
    """Functions for evaluations."""
    return (evaluation_items, evaluation_page, evaluation_report, evaluation_rows)
