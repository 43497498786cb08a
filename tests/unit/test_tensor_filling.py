"""Requests that differ in sizes which may be filled up: what is computed as one, and what each is told."""

from typing import Any

import numpy as np
import pytest
from tensor_sessions import Session, entry, floats, info, request, running

from inferd.engine.tensor.board import Board
from inferd.engine.tensor.filling import Filling
from inferd.engine.tensor.request import Request, TensorLimits
from inferd.engine.tensor.sequences import Sequences
from inferd.errors import InvalidFieldError
from inferd.plugin import (
    BATCH_SETTINGS,
    Batching,
    Cut,
    ElementType,
    Fill,
    Padding,
    Signature,
    Tensor,
    TensorInfo,
    read_batching,
)
from inferd.plugin.batch_checks import check_batching

WIDTH = Padding(fills=(Fill(input_name="x", dimension=1, value=9),), cuts=(Cut(output_name="y", dimension=1),))


def rule(**more: Any) -> dict[str, Any]:
    """Of a signature whose rows of `x` may be filled up with nines."""
    return {"batching": Batching(paddings=(WIDTH,), **more)}


def board(delay_s: float = 0.0, most: int = 8, **batching: Any) -> Board:
    session = Session(batching=Batching(**batching))
    return Board(Sequences(session.signature, TensorLimits()), most, delay_s)


def taken(from_board: Board, now: float = 0.0) -> list[int]:
    batch = from_board.take(now)
    return [] if batch is None else [each.handle for each in batch.entries]


def test_shorter_requests_are_filled_up() -> None:
    """Requests of several widths are one call, filled up with the rule's value; each is told as much as it gave."""
    session = Session(**rule())
    with running(session) as (loop, told):
        loop.submit(request(1, [[0.5]]))
        session.wait()
        for handle, row in ((2, [1.0]), (3, [1.0, 2.0, 3.0]), (4, [1.0, 2.0])):
            loop.submit(request(handle, [row]))
        session.gate.release(2)
        assert told.until(1, 2, 3, 4) == dict.fromkeys((1, 2, 3, 4))
        assert session.calls == [[0.5], [1.0, 9.0, 9.0, 1.0, 2.0, 3.0, 1.0, 2.0, 9.0]]
        assert told.outputs() == {1: [[[1.0]]], 2: [[[2.0]]], 3: [[[2.0, 4.0, 6.0]]], 4: [[[2.0, 4.0]]]}


def test_without_a_rule_only_equal_shapes_are_one() -> None:
    """Where nothing says that a size may be filled up, requests that differ in it are calls of their own."""
    session = Session()
    with running(session) as (loop, told):
        loop.submit(request(1, [[0.5]]))
        session.wait()
        for handle, row in ((2, [1.0]), (3, [1.0, 2.0])):
            loop.submit(request(handle, [row]))
        session.gate.release(3)
        told.until(1, 2, 3)
        assert session.calls == [[0.5], [1.0], [1.0, 2.0]]


def test_a_bad_request_fails_alone_among_those_filled_up() -> None:
    """Of requests that are filled up together the one that the model does not take fails, and the others do not."""

    def compute(x: Any) -> Any:
        if 7 in x:
            raise ValueError("not taken")
        return 2 * x

    session = Session(compute=compute, **rule())
    with running(session) as (loop, told):
        loop.submit(request(1))
        session.wait()
        for handle, row in ((2, [1.0]), (3, [7.0, 7.0]), (4, [1.0, 2.0, 3.0])):
            loop.submit(request(handle, [row]))
        session.gate.release(9)
        assert told.until(1, 2, 3, 4) == {1: None, 2: None, 3: InvalidFieldError, 4: None}
        assert told.outputs()[2] == [[[2.0]]]
        assert told.outputs()[4] == [[[2.0, 4.0, 6.0]]]


@pytest.mark.parametrize("compute", [lambda x: 2 * x[:, :1], lambda x: np.concatenate([x, x], 1)])
def test_an_output_of_another_size_is_not_cut(compute: Any) -> None:
    """A session whose output has not the size that its rule says is asked for each request alone, and told whole."""
    session = Session(compute=compute, outputs=(info("y", "b", "v"),), **rule())
    with running(session) as (loop, told):
        session.gate.release(9)
        loop.submit(request(1))
        told.until(1)
        one, other = [[1.0]], [[1.0, 2.0]]
        with loop._changed:
            loop.submit(request(2, one))
            loop.submit(request(3, other))
        told.until(2, 3)
        assert told.outputs()[2] == [compute(np.array(one)).tolist()]
        assert told.outputs()[3] == [compute(np.array(other)).tolist()]


def test_a_batch_is_not_filled_up_too_far() -> None:
    """Who would make a batch many times as large as its requests waits for another one."""
    waiting = board(paddings=(WIDTH,), filled_times=2.0)
    for handle, width in ((1, 4), (2, 1), (3, 100), (4, 90), (5, 2)):
        waiting.add(entry(handle, rows=[[1.0] * width]))
    assert [taken(waiting) for _ in range(3)] == [[1, 2, 5], [3, 4], []]


def test_preferred_sizes_wait_for_nothing() -> None:
    """The largest preferred number of rows that is there is taken at once; what is left waits, and goes when due."""
    waiting = board(delay_s=1.0, preferred=(2, 4))
    waiting.add(entry(1, 10.0))
    assert taken(waiting, 10.0) == []
    for handle in range(2, 8):
        waiting.add(entry(handle, 10.0))
    assert taken(waiting, 10.0) == [1, 2, 3, 4]
    assert taken(waiting, 10.0) == [5, 6]
    assert taken(waiting, 10.0) == []
    assert waiting.due == 11.0
    assert taken(waiting, 11.0) == [7]


def test_preferred_sizes_are_of_rows() -> None:
    """Requests of several rows count with all of them; a sum that is not preferred waits."""
    waiting = board(delay_s=1.0, preferred=(4,))
    for handle in (1, 2):
        waiting.add(entry(handle, rows=[[1.0]] * 3))
    assert taken(waiting) == []
    waiting.add(entry(3, rows=[[1.0]] * 2))
    assert taken(waiting) == [1, 2, 3]  # eight: a batch that is full


def test_the_delay_of_the_model_beats_that_of_the_kernel() -> None:
    """What a signature says of waiting holds, 0 too; where it says nothing the configuration does."""
    limits = TensorLimits(batch_delay_s=0.25)
    assert [limits.delay_s(Session(batching=Batching(delay_s=each)).signature) for each in (None, 0.0, 2.0)] == [
        0.25,
        0.0,
        2.0,
    ]


def test_a_request_whose_own_sizes_differ_is_not_filled_up() -> None:
    """Nobody knows how to cut outputs of a request with two sizes of one rule: it is one with its equals only."""
    infos = tuple(info(name, "b", "") for name in "ab")
    padding = Padding(fills=tuple(Fill(input_name=name, dimension=1) for name in "ab"))
    filling = Filling(Signature(inputs=infos, outputs=infos, most_batch=8, batching=Batching(paddings=(padding,))))
    made = []
    for widths in ((1, 1), (3, 3), (1, 3), (1, 3), (2, 3)):
        each = entry(len(made))
        each.inputs = {name: floats([[0.0] * width]) for name, width in zip("ab", widths, strict=True)}
        filling.measure(each)
        made.append(each)
    assert [each.sizes for each in made] == [(1,), (3,), (), (), ()]
    assert made[0].key == made[1].key
    assert made[2].key == made[3].key != made[4].key
    assert made[0].key != made[2].key


@pytest.mark.parametrize(
    ("kind", "value"), [(ElementType.STRING, "nix"), (ElementType.BOOL, True), (ElementType.INT64, -(2**60) - 1)]
)
def test_what_other_types_are_filled_up_with(kind: ElementType, value: Any) -> None:
    """Texts, truth and whole numbers of 64 bits are filled up with exactly what the rule says."""
    x = TensorInfo(name="x", element_type=kind, shape=("b", "w"))
    padding = Padding(fills=(Fill(input_name="x", dimension=1, value=value),))
    signature = Signature(inputs=(x,), outputs=(), most_batch=8, batching=Batching(paddings=(padding,)))
    check_batching(signature)
    filling, entries = Filling(signature), []
    for width in (1, 3):
        array = np.full((1, width), value, {"STRING": "O", "BOOL": "?", "INT64": "<i8"}[kind.name])
        tensor = Tensor(element_type=kind, shape=array.shape, array=array)
        each = entry(width)
        each.request = Request(handle=width, inputs={"x": tensor})
        each.inputs = {"x": tensor}
        filling.measure(each)
        entries.append(each)
    assert filling.join(entries)["x"].array.tolist() == [[value] * 3] * 2


@pytest.mark.parametrize(
    ("batching", "message"),
    [
        (Batching(preferred=(0,)), "preferred has 0; it must be from 1 to most_batch, 8"),
        (Batching(preferred=(9,)), "preferred has 9"),
        (Batching(delay_s=-1.0), "delay_s is -1.0; it must be 0 or more"),
        (Batching(filled_times=0.5), "filled_times is 0.5; it must be 1 or more"),
        (Batching(paddings=(Padding(fills=()),)), "a Padding fills nothing"),
        (Batching(paddings=(Padding(fills=(Fill(input_name="z", dimension=1),)),)), "no input 'z'; there are x"),
        (Batching(paddings=(Padding(fills=(Fill(input_name="x", dimension=1),)),)), "output 'y' has the size 'w'"),
        (Batching(paddings=(WIDTH, WIDTH)), "dimension 1 of input 'x' is named twice"),
        (Batching(paddings=(Padding(fills=(Fill(input_name="x", dimension=1, value="a"),)),)), "must be a number"),
    ],
)
def test_wrong_batching_is_refused(batching: Batching, message: str) -> None:
    """What a session says of batches is held against its signature; the error names the field and what it must be."""
    with pytest.raises(ValueError, match=message):
        check_batching(Session(batching=batching).signature)


def test_settings_that_a_request_leaves_out() -> None:
    """A request to load that has none of the settings of batches is read as if it had their defaults."""
    signature = Session(most_batch=8).signature
    assert read_batching(signature, {}) == read_batching(
        signature, {each.name: each.default for each in BATCH_SETTINGS}
    )
    assert read_batching(signature, {"preferred_batches": "4"}).batching.preferred == (4,)
