"""What policy has to know of a task's work."""

import pytest

from inferd.errors import InvalidFieldError
from inferd.services.work_values import read_work
from inferd_api.v1 import sampling_pb2 as sp
from inferd_api.v1 import task_pb2 as tp

USER = tp.ChatPrompt(messages=[tp.ChatMessage(role="user", content="a")])


def contents(**spec: object) -> bytes:
    return read_work(tp.TaskSpec(**spec), 1 << 20)[1].contents  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "others",
    [
        {"labels": {"a": "b"}},
        {"priority": 3},
        {"prefix_cache": False},
        {"sampling": sp.SamplingParams(seed=1, max_tokens=9, temperature=0.5)},
    ],
    ids=lambda others: next(iter(others)),
)
def test_work_that_kills_alike_has_the_same_contents(others: dict[str, object]) -> None:
    """Whatever leaves the input, the kind of work and the grammar as they are changes nothing."""
    assert contents(prompt="a", **others) == contents(prompt="a") != b""


def test_other_work_has_other_contents() -> None:
    """Another text, conversation, list of tokens, kind, adapter or grammar may well not kill."""
    others: list[dict[str, object]] = [
        {"prompt": "a"},
        {"prompt": "b"},
        {"chat": USER},
        {"tokens": tp.TokenPrompt(token_ids=[97])},
        {"prompt": "a", "embedding": tp.EmbeddingParams()},
        {"prompt": "a", "adapter": "a"},
        {"prompt": "a", "sampling": sp.SamplingParams(grammar=sp.Grammar(regex="a"))},
        {"prompt": "a", "sampling": sp.SamplingParams(grammar=sp.Grammar(lark="a"))},
    ]
    assert len({contents(**each) for each in others}) == len(others)


@pytest.mark.parametrize("kind", ["infer", "call"])
def test_an_adapter_beside_work_that_has_none_is_refused(kind: str) -> None:
    """Tensors and functions are computed with no adapter: naming one is INVALID_FIELD, not ignored."""
    given = {"infer": {"inputs": []}, "call": {"input": "{}"}}[kind]
    with pytest.raises(InvalidFieldError, match=f"stands beside spec.{kind}") as caught:
        read_work(tp.TaskSpec(model="function:a/b", adapter="legal", **{kind: given}), 1 << 20)  # type: ignore[arg-type]
    assert caught.value.field == "spec.adapter"
