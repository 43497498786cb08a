"""Calls of the onnx backend that nobody waits for any more."""

import threading
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path

import pytest

pytest.importorskip("onnxruntime", reason="onnxruntime is not installed: pip install 'inferd[onnx]'")

import onnx_models as models
from onnx import TensorProto, ValueInfoProto, helper

from inferd.plugin import ElementType, StoppableSession


def flag(name: str) -> ValueInfoProto:
    """Whether to go on."""
    return models.value(name, TensorProto.BOOL, [])


def test_a_call_can_be_stopped(tmp_path: Path) -> None:
    """A call is ended between two operators, also in a loop, and no other one is; the session computes on."""
    nodes = [helper.make_node("Identity", ["on"], ["still"]), helper.make_node("Add", ["sum", "sum"], ["twice"])]
    taken = [models.value("i", TensorProto.INT64, []), flag("on"), models.value("sum", 1, [])]
    body = helper.make_graph(nodes, "body", taken, [flag("still"), models.value("twice", 1, [])])
    node = helper.make_node("Loop", ["n", "", "one"], ["y"], body=body)
    one = helper.make_tensor("one", 1, [], [1.0])
    path = models.save(
        tmp_path / "m.onnx", [node], [models.value("n", TensorProto.INT64, [])], [models.value("y", 1, [])], [one]
    )
    session = models.load(path).session
    assert isinstance(session, StoppableSession)
    threads: list[int] = []
    begun = threading.Event()

    def call(rounds: int) -> float:
        threads.append(threading.get_ident())
        begun.set()
        given: float = session.predict({"n": models.tensor(rounds, ElementType.INT64)}, ["y"])["y"].array.item()
        return given

    session.stop(threading.get_ident())
    assert call(3) == 8
    begun.clear()
    with ThreadPoolExecutor(2) as pool:
        long = pool.submit(call, 3_000_000)
        assert begun.wait(30)
        assert pool.submit(call, 10).result(30) == 1024
        for _ in range(3000):  # it may not have begun to compute
            session.stop(threads[1])
            if wait([long], 0.01).done:
                break
        with pytest.raises(Exception, match="terminate flag"):
            long.result(0)
    assert call(4) == 16
