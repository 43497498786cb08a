"""Requests of the Open Inference Protocol, whatever they hold."""

import asyncio
import struct
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from inferd.errors import InferdError
from inferd.plugin.tensor import ElementType
from inferd.services.inference.datatypes import DATATYPES
from inferd.services.inference.requests import OWN, read_request
from inferd.services.inference.tensors import write_texts
from inferd_api.inference import grpc_service_pb2 as gp

MOST_STRINGS = 64
CONTENTS = {
    "bool_contents": st.booleans(),
    "int_contents": st.integers(-(2**31), 2**31 - 1),
    "uint_contents": st.integers(0, 2**32 - 1),
    "fp32_contents": st.floats(width=32),
    "bytes_contents": st.binary(max_size=6),
}
PARAMETERS = st.dictionaries(
    st.sampled_from([*sorted(OWN), "triton_x", "classification", "shared_memory_region", "other", ""]),
    st.one_of(
        st.builds(gp.InferParameter, bool_param=st.booleans()),
        st.builds(gp.InferParameter, int64_param=st.integers(-(2**63), 2**63 - 1)),
        st.builds(gp.InferParameter, uint64_param=st.integers(0, 2**64 - 1)),
        st.builds(gp.InferParameter, double_param=st.floats()),
        st.builds(gp.InferParameter, string_param=st.text(max_size=5)),
        st.builds(gp.InferParameter),
    ),
    max_size=3,
)


@st.composite
def tensors(draw: st.DrawFn) -> Any:
    """An input, with contents that may be of its type."""
    made = gp.ModelInferRequest.InferInputTensor(
        name=draw(st.text(max_size=3)),
        datatype=draw(st.sampled_from([*DATATYPES, "", "FP8"])),
        shape=draw(st.lists(st.one_of(st.integers(0, 3), st.integers(-(2**63), 2**63 - 1)), max_size=3)),
    )
    for name in draw(st.sets(st.sampled_from(sorted(CONTENTS)), max_size=2)):
        getattr(made.contents, name).extend(draw(st.lists(CONTENTS[name], max_size=4)))
    return made


REQUESTS = st.builds(
    gp.ModelInferRequest,
    model_name=st.text(max_size=3),
    parameters=PARAMETERS,
    inputs=st.lists(tensors(), max_size=3),
    raw_input_contents=st.lists(st.binary(max_size=24), max_size=3),
)


@settings(max_examples=60)
@given(REQUESTS)
def test_any_request_is_read_or_refused(request: gp.ModelInferRequest) -> None:
    """Whatever a request holds, it is read, or refused by a typed error; what is read has as much as its shape says."""
    try:
        asked = asyncio.run(read_request(request, most_strings=MOST_STRINGS))
    except InferdError:
        return
    assert len(asked.run.spec.infer.inputs) == len(request.inputs)
    assert asked.timeout_s is None or asked.timeout_s > 0


@given(st.lists(st.text(max_size=8), max_size=MOST_STRINGS), st.binary(max_size=3))
def test_texts_come_back(texts: list[str], behind: bytes) -> None:
    """Texts that are written as raw bytes are read as they were; with anything behind them they are refused."""
    raw = write_texts(texts)
    given_texts = gp.ModelInferRequest(raw_input_contents=[raw + behind])
    given_texts.inputs.add(name="x", datatype="BYTES", shape=[len(texts)])
    try:
        asked = asyncio.run(read_request(given_texts, most_strings=MOST_STRINGS))
    except InferdError:
        assert behind
        return
    assert not behind
    (tensor,) = asked.run.spec.infer.inputs
    assert (tensor.element_type, list(tensor.strings.values)) == (ElementType.STRING.value, texts)


@given(st.lists(st.integers(-200, 200), max_size=8))
def test_numbers_that_do_not_fit_are_refused(numbers: list[int]) -> None:
    """Typed contents are packed as their type says, and a number that is none of it is refused."""
    request = gp.ModelInferRequest()
    request.inputs.add(name="x", datatype="INT8", shape=[len(numbers)]).contents.int_contents.extend(numbers)
    fits = all(-128 <= number <= 127 for number in numbers)
    try:
        asked = asyncio.run(read_request(request, most_strings=MOST_STRINGS))
    except InferdError:
        assert not fits
        return
    assert fits
    assert asked.run.spec.infer.inputs[0].data == struct.pack(f"<{len(numbers)}b", *numbers)
