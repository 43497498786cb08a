"""Tensors of the Python client: of texts and of what numpy would change on the way."""

import tracemalloc
from typing import Any

import numpy as np
import pytest

from inferd_client.tensors import to_array, to_tensor


@pytest.mark.parametrize(
    ("value", "texts"),
    [
        (["abc\0", "\0", ""], ["abc\0", "\0", ""]),
        ([b"a\0", "b"], ["a\0", "b"]),
        ("x\0", "x\0"),
        (b"x\0", "x\0"),
        (np.str_("x\0"), "x\0"),
        ((("a", "b\0"), ["c", "d"]), [["a", "b\0"], ["c", "d"]]),
        ([np.array(["a", "b"]), np.array(["c", "d"])], [["a", "b"], ["c", "d"]]),
        (np.array([["a"], ["ü"]]), [["a"], ["ü"]]),
        (np.array([b"a", "ü".encode()]), ["a", "ü"]),
        (np.array(["a\0", "b"], object), ["a\0", "b"]),
    ],
)
def test_texts(value: Any, texts: Any) -> None:
    """Texts arrive as they are, with what is NUL at their end, from lists, bytes, single ones and arrays."""
    assert to_array(to_tensor("x", value)).tolist() == texts


@pytest.mark.parametrize(
    ("value", "why"),
    [
        (["a", 1], "input 'x' holds 1, a int, among objects; give texts"),
        ([True, "a"], "input 'x' holds True, a bool, among objects"),
        ([["a"], [1.5]], "input 'x' holds 1.5, a float, among objects"),
        (["a", None], "input 'x' holds None, a NoneType"),
        ([["a"], ["b", "c"]], "a list, among objects"),
        ([1, [2, 3]], "input 'x' cannot be an array"),
        (
            b"\xff",
            "input 'x' holds a text that is no UTF-8: invalid start byte; .* as a bytearray",
        ),
        (["a", b"\xff"], "no UTF-8"),
        (np.array([b"\xff"]), "no UTF-8"),
        ("\ud800", "no UTF-8: surrogates not allowed"),
        (np.array(["\ud800"]), "no UTF-8"),
        (np.ma.masked_array([1.0, 2.0], [False, True]), "some of its values are masked"),
        (np.ma.masked, "some of its values are masked"),
        ([np.ma.masked_array([1.0], [True])], "some of its values are masked"),
        ([[1.0, np.ma.masked]], "some of its values are masked"),
    ],
)
def test_what_is_no_tensor(value: Any, why: str) -> None:
    """What would be changed on its way, masked or made a text is a TypeError that names the input and says why."""
    with pytest.raises(TypeError, match=why):
        to_tensor("x", value)


def test_what_stays_as_it_was() -> None:
    """Numbers in lists, and arrays that could be masked but are not, are tensors as before."""
    assert to_array(to_tensor("x", [[1, 2], [3, 4]])).dtype == np.int64
    assert to_array(to_tensor("x", np.ma.masked_array([1.5], [False]))).tolist() == [1.5]
    assert to_array(to_tensor("x", True)).tolist() is True
    assert to_array(to_tensor("x", [])).shape == (0,)


def test_one_long_text_among_many() -> None:
    """Many short texts beside a long one take what they are long, not each as much as the longest."""
    tracemalloc.start()
    try:
        tensor = to_tensor("x", ["long" * 25_000, *["short"] * 5000])
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(tensor.strings.values) == 5001
    assert most < 4 << 20  # 2 GB in an array of that width
