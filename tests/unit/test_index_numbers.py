"""Numbers of documents, by which searches filter."""

import math

import pytest

from inferd.core.document_index import IndexFieldType
from inferd.services.index_values import is_of


@pytest.mark.parametrize(
    ("value", "fits"),
    [(10**300, True), (-(10**300), True), (10**400, False), (-(10**400), False), (math.inf, False), (math.nan, False)],
    ids=["large", "little", "too large", "too little", "infinite", "none"],
)
def test_a_number_is_one_that_a_float_can_be(value: float, *, fits: bool) -> None:
    """Whole numbers are bounded as others are: one that is too large is refused, and breaks nothing."""
    assert is_of(value, IndexFieldType.NUMBER) is fits
