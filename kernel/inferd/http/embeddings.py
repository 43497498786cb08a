"""`POST /v1/embeddings` and `/v1/rerank`: vectors of texts, and scores of documents for a query."""

from __future__ import annotations

import math
import struct
from base64 import b64encode
from contextlib import aclosing
from functools import partial
from typing import TYPE_CHECKING, Any, Final, NamedTuple
from uuid import uuid4

from inferd.http.calls import answer
from inferd.http.chat import HARMLESS
from inferd.http.completions import read_inputs
from inferd.http.fields import (
    TASKS,
    check_fields,
    checked,
    flag,
    need,
    read_labels,
    read_options,
    read_tier,
    shown,
    take,
)
from inferd.http.problems import Refusal
from inferd.http.tasks import each, start
from inferd_api.v1.task_pb2 import EmbeddingParams, Pooling

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from starlette.types import ASGIApp

    from inferd.http.calls import Call
    from inferd_client import AsyncClient

OWN: Final = TASKS - {"request_id"}
TASK: Final = OWN | HARMLESS | {"model", "metadata", "priority", "service_tier"}
KNOWN: Final = TASK | {"input", "encoding_format", "dimensions"}
KNOWN_RERANK: Final = TASK | {"query", "documents", "top_n", "return_documents"}
FORMATS: Final = ("float", "base64")


class Vector(NamedTuple):
    """What a task gave: the numbers, and how many tokens it read."""

    values: Sequence[float]
    tokens: int


async def embed(call: Call) -> ASGIApp:
    """The vectors of some texts."""
    body = call.body
    check_fields(body, KNOWN, {})
    model = need(body, "model", str, "the name of a model")
    inputs = await call.aside(read_inputs, body, "input", most_inputs=call.settings.inputs)
    form = take(body, "encoding_format", str, "float or base64", "float")
    if form not in FORMATS:
        raise Refusal(f"encoding_format is {shown(form)}; it must be float or base64", param="encoding_format")
    size = read_size(body)
    run = partial(embed_one, call.client, model, _options(body), EmbeddingParams())
    vectors = await each(inputs, run, at_once=call.settings.at_once)
    data = [
        {"object": "embedding", "index": index, "embedding": _written(cut(vector.values, size), form)}
        for index, vector in enumerate(vectors)
    ]
    return answer({"object": "list", "data": data, "model": model, "usage": _usage(vectors)})


def read_size(body: Mapping[str, Any]) -> int | None:
    """How many numbers a vector is to have; None where nothing is said.

    Raises:
        Refusal: It is no such number.
    """
    size: int | None = take(body, "dimensions", int, "a whole number from 1 on")
    if size is not None and size < 1:
        raise Refusal(f"dimensions is {size}; it must be a whole number from 1 on", param="dimensions")
    return size


async def rerank(call: Call) -> ASGIApp:
    """Documents in the order of their scores for a query, best first, as Jina and Cohere tell them."""
    body = call.body
    check_fields(body, KNOWN_RERANK, {})
    model = need(body, "model", str, "the name of a model")
    query = need(body, "query", str, "a text")
    documents = _documents(body, call.settings.inputs)
    most = take(body, "top_n", int, "a whole number from 1 on", len(documents))
    if most < 1:
        raise Refusal(f"top_n is {most}; it must be a whole number from 1 on", param="top_n")
    params = EmbeddingParams(pooling=Pooling.POOLING_RANK, query=query)
    run = partial(embed_one, call.client, model, _options(body), params)
    vectors = await each(documents, run, at_once=call.settings.at_once)
    scored = sorted(enumerate(vectors), key=lambda one: -one[1].values[0])[:most]
    with_texts = body.get("return_documents") is None or flag(body, "return_documents")
    results = []
    for index, vector in scored:
        result: dict[str, Any] = {"index": index, "relevance_score": sigmoid(vector.values[0])}
        if with_texts:
            result["document"] = {"text": documents[index]}
        results.append(result)
    used = _usage(vectors)
    meta = {"billed_units": {"search_units": 1}, "tokens": {"input_tokens": used["prompt_tokens"]}}
    return answer({"id": f"rerank-{uuid4()}", "model": model, "results": results, "usage": used, "meta": meta})


def cut(values: Sequence[float], size: int | None) -> Sequence[float]:
    """The first `size` numbers of a vector of a model that was trained for it, scaled to its length again.

    Raises:
        Refusal: It has fewer.
    """
    if size is None or size == len(values):
        return values
    if size > len(values):
        raise Refusal(f"dimensions is {size}; the model's vectors have {len(values)}", param="dimensions")
    kept = values[:size]
    was, now = math.sqrt(math.fsum(x * x for x in values)), math.sqrt(math.fsum(x * x for x in kept))
    return [x * was / now for x in kept] if now else kept


def sigmoid(score: float) -> float:
    """A score as a number from 0 to 1."""
    return 1 / (1 + math.exp(-score)) if score >= 0 else math.exp(score) / (1 + math.exp(score))


def _written(values: Sequence[float], form: str) -> Any:
    if form == "float":
        return list(values)
    return b64encode(struct.pack(f"<{len(values)}f", *values)).decode()


def _options(body: Mapping[str, Any]) -> dict[str, Any]:
    return {**read_options(body, OWN), **read_tier(body), **read_labels(body)}


def _documents(body: Mapping[str, Any], most: int) -> list[str]:
    said = need(body, "documents", list, "a list of texts")
    if not 0 < len(said) <= most:
        raise Refusal(
            f"documents has {len(said)} texts; it must have 1 to {most} (http.inputs)",
            code="LIMIT_EXCEEDED",
            param="documents",
        )
    return [
        checked(f"documents[{n}]", one.get("text") if isinstance(one, dict) else one, str, "a text")
        for n, one in enumerate(said)
    ]


async def embed_one(
    client: AsyncClient, model: str, options: Mapping[str, Any], params: EmbeddingParams, text: Any
) -> Vector:
    """The vector of a text, or its scores, by a task of its own."""
    values: list[float] = []
    tokens = 0
    async with aclosing(start(client, model, text, {**options, "embedding": params})) as events:
        async for event in events:
            values.extend(event.output.embedding.values)
            if event.HasField("finished"):
                tokens = event.finished.usage.prompt_tokens
    return Vector(values, tokens)


def _usage(vectors: Sequence[Vector]) -> dict[str, int]:
    tokens = sum(vector.tokens for vector in vectors)
    return {"prompt_tokens": tokens, "total_tokens": tokens}
