"""Evaluations by the wire, with real workers: what they find, and what becomes of them when something ends."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from typer.testing import CliRunner

from inferd.cli import main
from inferd.testing.kernel import kernel_here, write_fake_model
from inferd_api.v1 import evaluation_pb2 as ep
from inferd_client import AsyncClient
from inferd_client.errors import (
    EvaluationNotFoundError,
    InvalidFieldError,
    LimitExceededError,
    ModelNotFoundError,
    RequestConflictError,
)

pytestmark = pytest.mark.asyncio(loop_scope="module")

FUNCTIONS = {
    "modules": ("inferd_evaluation.plugin",),
    "packages": (),
    "calls": 2,
    "timeouts_s": {"evaluation_program": 4},
}
CHOICE = [{"prompt": "aaaa", "choices": ["aaa", "zzz"], "answer": number % 2} for number in range(6)]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def client(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[AsyncClient]:
    """A client of a kernel with a model that repeats what it is told, and the functions of evaluations."""
    folder = tmp_path_factory.mktemp("evaluated")
    async with (
        kernel_here(folder, functions=FUNCTIONS, evaluate={"code": True, "lines": 30}) as kernel,
        AsyncClient(kernel.addresses[0]) as made,
    ):
        await made.create_model("fake", str(write_fake_model(folder, "fake")))
        await made.create_model("slow", str(write_fake_model(folder, "slow", step_s=0.2)))
        yield made


async def ended(client: AsyncClient, evaluation_id: str) -> ep.Evaluation:
    """How an evaluation ended."""
    told = [each async for each in client.watch_evaluation(evaluation_id)]
    assert told[-1].finish_time.seconds
    return told[-1]


def figures(evaluation: Any) -> dict[str, float]:
    return {each.name: each.value for each in evaluation.figures}


async def test_choices_are_scored_by_how_likely_they_are(client: AsyncClient) -> None:
    """The likelier text wins, in sum and by character; the figures have intervals, and the lines can be read."""
    made = await client.evaluate_model("fake", CHOICE, kind="choice", separator="")
    assert (made.state, made.lines) == (ep.EVALUATION_STATE_QUEUED, 6)
    found = await ended(client, made.evaluation_id)
    assert found.state == ep.EVALUATION_STATE_SUCCEEDED, found.error
    assert (found.done_lines, found.failed_lines, list(found.versions)) == (6, 0, [1])
    assert figures(found)["accuracy"] == figures(found)["accuracy_norm"] == 0.5
    assert all(each.low <= each.value <= each.high for each in found.figures)
    lines = [each async for each in client.evaluation_lines(made.evaluation_id)]
    assert [each.number for each in lines] == [1, 2, 3, 4, 5, 6]
    assert all(each.logprobs[0] > each.logprobs[1] for each in lines)
    assert [each.scores["accuracy"] for each in lines] == [1, 0, 1, 0, 1, 0]
    assert json.loads(lines[0].data) == CHOICE[0]


async def test_each_kind_of_task_is_measured(client: AsyncClient) -> None:
    """What is written, labels by a grammar, programs by their tests, and ratings of another model."""
    written = [{"prompt": "the cat sat", "references": ["the cat sat on", "a dog"]}, {"prompt": "b", "reference": "c"}]
    made = await client.evaluate_model("fake", written, kind="generation", chat=True)
    found = await ended(client, made.evaluation_id)
    assert found.state == ep.EVALUATION_STATE_SUCCEEDED, found.error
    assert {"exact_match", "f1", "rouge1", "rouge2", "rougeL"} <= figures(found).keys()
    first = await anext(client.evaluation_lines(made.evaluation_id))
    assert first.text == "the cat sat"
    assert first.scores["rouge1"] == pytest.approx(6 / 7)
    assert found.output_tokens > 0
    labelled = [{"prompt": "x", "label": "bad"}, {"prompt": "x", "label": "good"}]
    made = await client.evaluate_model("fake", labelled, kind="classification", class_labels=["good", "bad"])
    found = await ended(client, made.evaluation_id)
    assert figures(found)["accuracy"] == 0.5
    assert [(each.label, each.support) for each in found.labels] == [("good", 1), ("bad", 1)]
    programs = [
        {"prompt": "def f(x): return x", "tests": "assert f(1) == 1"},
        {"prompt": "def g(x): return x", "tests": "assert g(1) == 2"},
        {"prompt": "while True: pass", "tests": "pass"},
    ]
    made = await client.evaluate_model("fake", programs, kind="code", chat=True, most_tokens=200)
    found = await ended(client, made.evaluation_id)
    lines = [each async for each in client.evaluation_lines(made.evaluation_id)]
    assert [each.scores["passed"] for each in lines] == [1, 0, 0], lines
    assert ["AssertionError" in lines[1].why, "took longer" in lines[2].why] == [True, True]
    made = await client.evaluate_model("fake", [{"prompt": "x"}], kind="judge", judge="fake")
    found = await ended(client, made.evaluation_id)
    assert figures(found)["rating"] in {1, 2, 3, 4, 5}


async def test_what_is_wrong_is_told_before_anything_runs(client: AsyncClient) -> None:
    """A wrong line is named with its number, and so is what a task lacks or has too much of; nothing is made of it."""
    before = [each async for each in client.list_evaluations()]
    wrong: list[tuple[Any, dict[str, Any], type[Exception], str]] = [
        (
            [*CHOICE[:2], {"prompt": "a", "choices": ["b", "c"], "answer": 5}],
            {},
            InvalidFieldError,
            "line 3: .*choices 0",
        ),
        ("\n\n{}\n", {}, InvalidFieldError, "line 3: .*"),
        ('{"prompt": "a"', {}, InvalidFieldError, "line 1 is no JSON"),
        (b"\xff", {}, InvalidFieldError, "byte 0 is 0xff"),
        ("\n\n", {}, InvalidFieldError, "has no lines"),
        (CHOICE * 6, {}, LimitExceededError, "36 lines and evaluate.lines is 30"),
        (CHOICE, {"kind": "judge"}, InvalidFieldError, "spec.judge is empty"),
        (CHOICE, {"judge": "fake"}, InvalidFieldError, "it is of JUDGE"),
        (CHOICE, {"kind": "classification", "class_labels": ["a", " a"]}, InvalidFieldError, "1 of them different"),
        (CHOICE, {"most_tokens": 9000}, InvalidFieldError, "from 1 to 8192"),
        (None, {"blob": "sha256:" + "0" * 64}, Exception, "blob"),
    ]
    for data, more, error, said in wrong:
        with pytest.raises(error, match=said):
            await client.evaluate_model("fake", data, **{"kind": "choice", **more})
    with pytest.raises(ModelNotFoundError):
        await client.evaluate_model("none", CHOICE, kind="choice")
    with pytest.raises(EvaluationNotFoundError):
        await client.get_evaluation("none")
    assert [each async for each in client.list_evaluations()] == before


async def test_evaluations_are_compared_line_by_line_and_told_on_a_page(client: AsyncClient) -> None:
    """Of the same data the differences of pairs are told, and a page that needs nothing from anywhere; else refused."""
    data = [{"prompt": "aaaa", "choices": ["<b>", "aaa"], "answer": 1}] * 5
    ids = []
    for separator in ("", "zzzz"):
        made = await client.evaluate_model("fake", data, kind="choice", separator=separator, title=f"by <{separator}>")
        ids.append((await ended(client, made.evaluation_id)).evaluation_id)
    told = await client.compare_evaluations(ids, page=True, resamples=200, seed=5)
    assert [each.evaluation_id for each in told.evaluations] == ids
    assert {each.name for each in told.differences} == {"accuracy", "accuracy_norm", "probability"}
    assert all(each.low <= each.value <= each.high and each.lines == 5 for each in told.differences)
    assert "by &lt;zzzz&gt;" in told.page
    assert "&lt;b&gt;" in told.page
    assert not any(word in told.page for word in ("http:", "https:", "<script", "src=", "@import", "url("))
    assert (await client.compare_evaluations(ids, page=True, resamples=200, seed=5)).page == told.page
    other = await client.evaluate_model("fake", CHOICE, kind="choice")
    await ended(client, other.evaluation_id)
    with pytest.raises(InvalidFieldError, match="only those of the same"):
        await client.compare_evaluations([ids[0], other.evaluation_id])
    with pytest.raises(InvalidFieldError, match="1 to 8"):
        await client.compare_evaluations([])


async def test_the_same_request_makes_one_evaluation_which_is_cancelled_and_deleted(client: AsyncClient) -> None:
    """A request that comes again finds the first one's evaluation; with other contents it is refused.

    One that goes on is cancelled before it can be deleted; its tasks end with it, and then nothing is known of it.
    """
    lines = [{"prompt": "a" * 300, "reference": "b"}] * 20
    options: Any = {"kind": "generation", "request_id": "again", "most_tokens": 1000}
    one = await client.evaluate_model("slow", lines, **options)
    assert (await client.evaluate_model("slow", lines, **options)).create_time == one.create_time
    with pytest.raises(RequestConflictError):
        await client.evaluate_model("slow", lines[:2], **options)
    with pytest.raises(InvalidFieldError, match="cancel it first"):
        await client.delete_evaluation(one.evaluation_id)
    cancelled = await client.cancel_evaluation(one.evaluation_id)
    assert cancelled.state == ep.EVALUATION_STATE_CANCELLED
    assert (await ended(client, one.evaluation_id)).done_lines < 20
    await client.delete_evaluation(one.evaluation_id)
    with pytest.raises(EvaluationNotFoundError):
        await client.get_evaluation(one.evaluation_id)


async def test_its_tasks_are_of_class_low_and_lists_leave_them_out(client: AsyncClient) -> None:
    """Tasks of an evaluation have its id as a label, and are told where those of trials are asked for."""
    made = await client.evaluate_model("fake", CHOICE[:1], kind="choice")
    await ended(client, made.evaluation_id)
    assert not [each async for each in client.list_tasks() if "inferd.evaluation" in each.labels]
    found = [each async for each in client.list_tasks(trials_too=True)]
    mine = [each for each in found if each.labels["inferd.evaluation"] == made.evaluation_id]
    assert {each.model for each in mine} == {"fake", "package@inferd_evaluation"}
    assert {each.priority for each in mine} == {1}


async def test_the_commands_do_what_the_client_does(client: AsyncClient, tmp_path: Path) -> None:
    """`evaluate` waits and tells figures, with labels of the file; `ls`, `show`, `report` and `rm` do the rest."""
    data = tmp_path / "labelled.jsonl"
    data.write_text('{"prompt": "x", "label": "bad"}\n\n{"prompt": "x", "label": "good"}\n', encoding="utf-8")

    async def run(*arguments: str) -> Any:
        given = [*arguments, "--address", client.address, "-o", "json"]
        result = await asyncio.to_thread(CliRunner().invoke, main.app, given)
        assert result.exit_code == 0, result.output
        return json.JSONDecoder().raw_decode(result.stdout, result.stdout.index("{\n"))[
            0
        ]  # lines of its log go there, too

    made = await run("evaluate", "fake", "--data", str(data), "--task", "classification", "--title", "mine")
    assert (made["state"], made["spec"]["labels"]) == ("EVALUATION_STATE_SUCCEEDED", ["bad", "good"])
    begin = made["evaluation_id"][:24]
    assert made["evaluation_id"] in [each["evaluation_id"] for each in (await run("evaluations", "ls"))["evaluations"]]
    shown = await run("evaluations", "show", begin, "--lines")
    assert [each["number"] for each in shown["line_results"]] == [1, 2]
    page = tmp_path / "page.html"
    compared = await run("evaluations", "report", begin, "--page", str(page))
    assert compared["evaluations"][0]["figures"] == made["figures"]
    assert "<title>mine: classification</title>" in page.read_text(encoding="utf-8")
    assert (await run("evaluations", "rm", begin)) == {"evaluation_id": made["evaluation_id"]}


async def test_an_evaluation_goes_on_with_the_kernel_that_follows(tmp_path: Path) -> None:
    """What was answered is kept and not asked again; the rest is, and all of it makes the figures."""
    store = {"url": f"sqlite:{tmp_path}/kept/store"}
    lines = [{"prompt": f"{number}", "reference": "a"} for number in range(4)]
    chosen: Any = {"functions": FUNCTIONS, "store": store, "evaluate": {"in_flight": 1}}
    async with kernel_here(tmp_path, **chosen) as kernel, AsyncClient(kernel.addresses[0]) as client:
        await client.create_model("slow", str(write_fake_model(tmp_path, "slow", step_s=0.05)))
        made = await client.evaluate_model("slow", lines, kind="generation", most_tokens=20, title="kept")
        async for told in client.watch_evaluation(made.evaluation_id):
            if told.done_lines >= 1:
                break
        before = told.done_lines
    async with kernel_here(tmp_path, **chosen) as kernel, AsyncClient(kernel.addresses[0]) as client:
        found = await ended(client, made.evaluation_id)
        assert (found.state, found.done_lines, found.spec.title) == (ep.EVALUATION_STATE_SUCCEEDED, 4, "kept")
        asked = [each async for each in client.list_tasks(trials_too=True) if each.model == "slow"]
        assert len(asked) <= 4 - before
        assert [each.number async for each in client.evaluation_lines(made.evaluation_id)] == [1, 2, 3, 4]
