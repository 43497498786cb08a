"""Ensembles as configurations say them: what needs what, in which order, and what cannot be."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import pytest

from inferd.errors import InvalidFieldError, LimitExceededError
from inferd.repository.config_text import parse_text
from inferd.repository.ensembles import MOST_ENTRIES, MOST_STEPS, Ensemble, ensemble_of
from inferd.services.inference.ensembles import STEPS_AT_ONCE, Course, run_ensemble
from inferd_api.inference import grpc_service_pb2 as gp


def step(model: str, given: str, made: str, more: str = "") -> str:
    """A step whose inputs and outputs are called as the tensors of the ensemble, words of a text."""
    inputs = " ".join(f'input_map {{ key: "{name}" value: "{name}" }}' for name in given.split())
    outputs = " ".join(f'output_map {{ key: "{name}" value: "{name}" }}' for name in made.split())
    return f'step {{ model_name: "{model}" {inputs} {outputs} {more} }}'


def ensemble(*steps: str, inputs: str = "a", outputs: str = "z", more: str = "") -> Ensemble:
    tensors = [f'input {{ name: "{name}" }}' for name in inputs.split()]
    tensors += [f'output {{ name: "{name}" }}' for name in outputs.split()]
    return ensemble_of(parse_text(f"{' '.join(tensors)} ensemble_scheduling {{ {' '.join(steps)} {more} }}"), "whole")


def test_steps_run_in_stages() -> None:
    """Steps that need nothing of each other are of one stage, in whatever order they are written."""
    found = ensemble(
        step("last", "x y", "z"),
        step("left", "a", "x"),
        step("right", "a", "y", "model_version: 3"),
        step("more", "x", "w"),
    )
    assert [[each.model for each in stage] for stage in found.stages] == [["left", "right"], ["last", "more"]]
    assert [each.version for each in found.stages[0]] == ["", "3"]
    assert set(found.models) == {"left", "right", "last", "more"}


WRONG = {
    "itself": ((step("whole", "a", "z"),), "it must be another model"),
    "no model": ((step("", "a", "z"),), "it must be another model"),
    "nothing": ((), "has 0 steps"),
    "too many": (tuple(step(f"m{n}", "a", f"t{n}") for n in range(MOST_STEPS + 1)), f"must be 1 to {MOST_STEPS}"),
    "too many tensors": ((step("one", "a", " ".join(f"t{n}" for n in range(MOST_ENTRIES))),), "may have 4096"),
    "a circle": ((step("one", "y", "z"), step("two", "z", "y")), "needs the tensor"),
    "a tensor of nobody": ((step("one", "q", "z"),), "needs the tensor 'q'"),
    "an output of nobody": ((step("one", "a", "y"),), "gives the output 'z'"),
    "an output twice": ((step("one", "a", "z"), step("two", "a", "z")), "only once for ensemble 'whole'"),
    "an input that is made": ((step("one", "a", "z a"),), "only once for ensemble 'whole'"),
    "another repository": ((step("one", "a", "z", 'model_namespace: "x"'),), "one repository"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_cannot_be_run_is_refused(case: str) -> None:
    """A circle, what nobody gives and what two give are refused by the tensor's name before anything is run."""
    steps, words = WRONG[case]
    with pytest.raises(InvalidFieldError, match=words):
        ensemble(*steps)


async def test_a_request_becomes_so_many_steps_and_has_one_timeout() -> None:
    """Ensembles in ensembles share one bound of steps and one deadline; what is between steps is held, and let go."""
    inner = ensemble(*(step("leaf", "a", f"t{number}") for number in range(32)), step("leaf", "a", "z"))
    maps = 'step {{ model_name: "inner" input_map {{ key: "a" value: "{}" }} output_map {{ key: "z" value: "{}" }} }}'
    known = {"outer": ensemble(maps.format("a", "b"), maps.format("b", "z")), "inner": inner}
    left, ended, held, clock = list[int](), list[int](), list[int](), iter(range(100_000))

    @contextmanager
    def hold(size_bytes: int) -> Iterator[None]:
        held.append(size_bytes)
        try:
            yield
        finally:
            held.remove(size_bytes)

    async def once(asked: gp.ModelInferRequest, call: Any) -> gp.ModelInferResponse:
        if (found := known.get(asked.model_name)) is not None:
            return await run_ensemble(found, asked, call, once, course)
        left.append(asked.parameters["timeout"].int64_param)
        await asyncio.sleep(0)
        ended.append(len(left) - len(ended))
        made = gp.ModelInferResponse(raw_output_contents=[b"1234"] * len(asked.outputs))
        for each in asked.outputs:
            made.outputs.add(name=each.name, datatype="FP32", shape=[1])
        return made

    request = gp.ModelInferRequest(model_name="outer", raw_input_contents=[b"1234"])
    request.inputs.add(name="a", datatype="FP32", shape=[1])
    call: Any = SimpleNamespace(admission=SimpleNamespace(check_models=lambda _: None))
    course = Course(limit_bytes=1 << 20, most_steps=64, hold=hold, now=lambda: float(next(clock)), ends=1e5)
    with pytest.raises(LimitExceededError, match=r"inference\.ensemble_steps"):
        await once(request, call)
    assert (len(left), max(ended) <= STEPS_AT_ONCE, held) == (62, True, [])
    assert left == sorted(left, reverse=True)
    assert left[0] > left[-1] > 0
