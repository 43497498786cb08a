"""Explanations by what a backend tells of its network, and by examples that are near."""

import asyncio
import json
import threading
from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import pytest_asyncio
from test_latecomers import pull
from typer.testing import CliRunner

from inferd.cli.main import app
from inferd.runtime.front import examples
from inferd.testing.kernel import kernel_here, write_fake_model
from inferd_api.v1.dataset_pb2 import DatasetVersion
from inferd_api.v1.explanation_pb2 import ExampleSource
from inferd_client import AsyncClient, Client, data
from inferd_client.errors import (
    BackendFailedError,
    IndexNotFoundError,
    InferdError,
    InvalidFieldError,
    LimitExceededError,
    UnsupportedInputError,
)
from inferd_client.explanation_pages import explanation_page
from inferd_client.indexes import document

pytestmark = pytest.mark.asyncio(loop_scope="module")

TEXT = "one two three"
FUNCTIONS = {"modules": ("inferd_retrieval.plugin", "inferd_functions.plugin"), "packages": (), "calls": 2}
ROWS = [
    {"text": "zzzz", "label": "z"},
    {"text": "aaaa", "label": "a"},
    {"text": "aaab", "label": "b"},
    {"text": "bbbb", "label": "c"},
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """That of the kernel."""
    return tmp_path_factory.mktemp("inside")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def client(folder: Path) -> AsyncIterator[AsyncClient]:
    """A client of a kernel with a model that is looked into, one that is not, an index and a dataset."""
    store, limits = {"url": f"sqlite:{folder}/store"}, {"attributed_tokens": 40, "example_rows": 4, "tokens": 1000}
    async with (
        kernel_here(folder, store=store, functions=FUNCTIONS, explanations=limits) as kernel,
        AsyncClient(kernel.addresses[0]) as made,
    ):
        await made.create_model("open", str(write_fake_model(folder, "open", attributed=True)))
        bad = write_fake_model(folder, "bad", attributed=True, attribute_error="it asks to fail")
        await made.create_model("bad", str(bad))
        await made.create_model("shut", str(write_fake_model(folder, "shut", embedding_size=1)))
        await made.create_index("notes", embedding_model="open")
        await made.add_documents("notes", [document("whale", "The whale is a mammal."), document("oak", "An oak.")])
        await asyncio.to_thread(add_rows, kernel.addresses[0])
        yield made


def add_rows(address: str) -> None:
    """Two datasets, one of which has more rows than may be."""
    with Client(address) as client:
        data.add(client, "rows", ROWS)
        data.add(client, "many", [*ROWS, ROWS[0]])
        data.add(client, "long", [{"text": "a" * 600}, {"text": "b" * 600}])


async def why(client: AsyncClient, kind: type[InferdError], model: str, prompt: str = TEXT, **options: Any) -> str:
    """What a plan is refused with."""
    with pytest.raises(kind) as told:
        await client.plan_explanation(model, prompt, **{"answer": "x", **options})
    return str(told.value)


async def test_gradients_are_summed_by_span(client: AsyncClient) -> None:
    """A span is worth what the backend tells of its tokens, in the mean over the steps; the cost is as was stated."""
    asked: dict[str, Any] = {"answer": " one", "method": "gradients", "steps": 6, "random_orders": 2}
    told = [each async for each in client.follow_explanation("open", TEXT, **asked)]
    found = told[-1].explanation
    assert [each.text for each in found.spans] == ["one", " two", " three"]
    for each in found.spans:
        assert each.scores[0].score == pytest.approx(sum(each.text.encode()) / 100, rel=1e-4)
    assert found.steps == 6
    assert found.targets[0].HasField("replaced")
    assert told[0].plan == await client.plan_explanation("open", TEXT, **asked)
    assert found.cost.computed_tokens == pytest.approx(told[0].plan.cost.computed_tokens, rel=0.1)
    assert found.cost.tokens >= 6 * len(TEXT + " one")
    assert len(found.faithfulness.random) == 2
    page = explanation_page(found)
    assert "Integrated gradients of 6 steps" in page
    assert "with line feeds in their place" in page


async def test_attention_is_told_as_shares_of_a_conversation(client: AsyncClient) -> None:
    """Shares of the words of a message are told, of which the template around them has its own."""
    messages = [{"role": "user", "content": "ab cde"}]
    found = await client.explain("open", messages, answer="ab", method="attention", random_orders=0)
    tokens = len("ab cde") + 2  # control tokens of the template
    assert [each.scores[0].score for each in found.spans] == pytest.approx([2 / tokens, 4 / tokens])
    assert not found.targets[0].HasField("replaced")
    assert "% of attention" in explanation_page(found)
    assert found.cost.computed_tokens == pytest.approx(found.planned.computed_tokens, rel=0.1)


async def test_why_one_answer_and_not_another(client: AsyncClient) -> None:
    """Against another answer the score is the difference of both, and each is told."""
    found = await client.explain(
        "open", TEXT, answer=" one", against=" six", method="gradients", steps=2, random_orders=0
    )
    assert [each.name for each in found.targets] == ["answer - against", "answer", "against"]
    for each in found.spans:
        assert each.scores[0].score == pytest.approx(each.scores[1].score - each.scores[2].score)


async def test_a_backend_that_does_not_tell_is_refused_with_what_it_has(client: AsyncClient) -> None:
    """The refusal comes with the plan and names the methods; so do those of too long a prompt and of a failure."""
    for method in ("gradients", "attention"):
        said = await why(client, UnsupportedInputError, "shut", method=method)
        assert f"is not explained by {method.upper()}" in said
        assert "it is by LEAVE_ONE_OUT, SHAPLEY, EXAMPLES" in said
    said = await why(client, LimitExceededError, "open", "a b " * 20, method="gradients")
    assert "81 tokens and explanations.attributed_tokens is 40" in said
    assert "steps is 0; it must be from 1" in await why(client, InvalidFieldError, "open", steps=0)
    with pytest.raises(BackendFailedError, match="asks to fail"):
        await client.explain("bad", "so", answer="x", method="gradients", random_orders=0)
    assert (await client.generate("bad", "ab", max_tokens=2)).text == "ab"


async def test_the_nearest_rows_of_a_dataset_are_told(client: AsyncClient) -> None:
    """Rows are told by the angle of their vectors, the nearest first, with the rest of the row, at the stated cost."""
    source = ExampleSource(dataset=DatasetVersion(name="rows"), embedding_model="open", count=3)
    asked: dict[str, Any] = {"method": "examples", "examples": source}
    plan = await client.plan_explanation("open", "aaaa", **asked)
    found = await client.explain("open", "aaaa", **asked)
    assert [each.id for each in found.examples[:2]] == ["1", "2"]
    assert found.examples[0].distance == pytest.approx(0, abs=1e-6)
    distances = [each.distance for each in found.examples]
    assert distances == sorted(distances)
    assert len(distances) == 3
    assert json.loads(found.examples[1].metadata_json) == {"label": "b"}
    assert (plan.cost.sequences, plan.cost.computed_tokens) == (5, 20)
    assert (found.cost.sequences, found.cost.computed_tokens) == (5, 20)
    assert not found.spans
    assert "aaab" in explanation_page(found)


async def test_a_model_that_was_pulled_since_makes_vectors(client: AsyncClient, folder: Path) -> None:
    """It is found by its name, as for all other calls."""
    pull(SimpleNamespace(folder=folder), "late")
    source = ExampleSource(dataset=DatasetVersion(name="rows"), embedding_model="late", count=1)
    (example,) = (await client.explain("open", "aaaa", method="examples", examples=source)).examples
    assert example.id == "1"


async def test_rows_are_read_and_compared_beside_the_loop(client: AsyncClient, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows of some megabytes, and vectors of thousands of numbers, hold up nobody else meanwhile."""
    loops, found = threading.get_ident(), list[int]()
    for name in ("_read_row", "mul"):
        done = getattr(examples, name)

        def noted(*given: Any, done: Any = done) -> Any:
            found.append(threading.get_ident())
            return done(*given)

        monkeypatch.setattr(examples, name, noted)
    source = ExampleSource(dataset=DatasetVersion(name="rows"), embedding_model="open")
    await client.explain("open", "aaaa", method="examples", examples=source)
    assert len(found) > len(ROWS)
    assert loops not in found


async def test_examples_of_an_index_stand_beside_scores(client: AsyncClient) -> None:
    """With another method, the nearest chunks of an index are told besides."""
    source = ExampleSource(index="notes", count=1)
    found = await client.explain("open", "The whale is a mammal.", answer="x", examples=source, random_orders=0)
    assert found.spans
    (example,) = found.examples
    assert (example.id, example.text) == ("whale", "The whale is a mammal.")
    assert example.distance == pytest.approx(0, abs=1e-5)


async def test_where_there_are_no_examples(client: AsyncClient) -> None:
    """An index or a column that is not there, too many rows or tokens, and a method without a source are refused."""

    def rows(name: str = "rows", **more: Any) -> ExampleSource:
        return ExampleSource(dataset=DatasetVersion(name=name), **{"embedding_model": "open", **more})

    assert "did you mean 'notes'" in await why(client, IndexNotFoundError, "open", examples=ExampleSource(index="note"))
    said = await why(client, InvalidFieldError, "open", examples=rows(column="txt"))
    assert "has no column 'txt'; did you mean 'text'?" in said
    said = await why(client, LimitExceededError, "open", examples=rows("many"))
    assert "has 5 rows and explanations.example_rows is 4" in said
    for method in ("leave-one-out", "examples"):
        said = await why(client, LimitExceededError, "open", examples=rows("long"), method=method)
        assert "of them for vectors of examples, and explanations.tokens is 1000" in said
        with pytest.raises(LimitExceededError, match=r"explanations\.tokens is 1000"):
            await client.explain("open", TEXT, answer="x", examples=rows("long"), method=method)
    said = await why(client, InvalidFieldError, "open", examples=rows(embedding_model=""))
    assert "embedding_model is empty" in said
    assert "spec has no examples" in await why(client, InvalidFieldError, "open", method="examples")


async def test_the_command_tells_both(client: AsyncClient, tmp_path: Path) -> None:
    """`inferd explain` tells gradients in nats and examples by their distance, and refuses half a source."""
    address = client.address
    words = ["explain", "open", TEXT, "--raw", "--answer", " one", "--method", "gradients", "--steps", "2"]
    words += ["--near", "rows", "--embed", "open", "--count", "1", "--random-orders", "0", "--address", address]
    told = await run([*words, "--html", str(tmp_path / "why.html")])
    assert told.exit_code == 0, told.output
    assert "nats with line feeds in their place" in told.output
    assert "DISTANCE" in told.output
    assert "Examples near to it" in (tmp_path / "why.html").read_text()
    shares = await run(["explain", "open", TEXT, "--answer", "x", "--method", "attention", "--address", address])
    assert "SHARE" in shares.output
    for wrong, said in (
        (["--method", "examples"], "name an index with --near"),
        (["--near", "notes", "--column", "x"], "whose texts need a model"),
        (["--near", "rows@x", "--embed", "open"], "is no version of a dataset"),
    ):
        refused = await run(["explain", "open", TEXT, *wrong, "--address", address])
        assert refused.exit_code == 2
        assert said in " ".join(refused.output.split()).replace("│ ", "").replace(" │", "")


async def run(words: list[str]) -> Any:
    """A command, in a thread of its own, as the kernel is in this one."""
    return await asyncio.to_thread(CliRunner().invoke, app, words)
