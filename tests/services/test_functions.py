"""Functions by the wire, with real workers: what they give, and what a client sees when they do not."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
from tokenizers import Tokenizer, models
from typer.testing import CliRunner

from inferd.cli import main
from inferd.testing.kernel import kernel_here
from inferd_api.v1 import task_pb2 as tp
from inferd_client import AsyncClient
from inferd_client.errors import (
    FunctionFailedError,
    FunctionNotFoundError,
    InvalidFieldError,
    LimitExceededError,
    UnsupportedInputError,
)

pytestmark = pytest.mark.asyncio(loop_scope="module")

MODULE = "inferd.testing.functions"
TEXTS = "inferd_functions.plugin"
PACKAGE = "package@inferd"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def client(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[AsyncClient]:
    """A client of a kernel with the functions of tests and no others."""
    folder = tmp_path_factory.mktemp("files")
    Tokenizer(models.WordLevel({"la": 7, "?": 0}, unk_token="?")).save(str(folder / "tokenizer.json"))  # noqa: S106
    files = {"words": folder / "tokenizer.json", "lost": folder / "none"}
    functions = {"modules": (MODULE, TEXTS), "packages": (), "calls": 2, "piece_bytes": 4096, "files": files}
    async with (
        kernel_here(tmp_path_factory.mktemp("served"), functions=functions) as kernel,
        AsyncClient(kernel.addresses[0]) as made,
    ):
        yield made


async def test_functions_are_listed_with_their_schemas(client: AsyncClient) -> None:
    """Each version of each function is told with what its annotations, its docstring and its limits say."""
    found = [each async for each in client.list_functions()]
    names = [(each.name, each.version) for each in found]
    assert names == sorted(names, key=lambda one: (one[0], -one[1]))
    assert names.count(("repeat", 2)) == names.count(("repeat", 1)) == 1
    old = await client.get_function("repeat", version=1)
    assert old.description == "Say a text several times."
    assert '"times":{"default":1,"maximum":1000,"minimum":1,' in old.input_schema
    assert '"required":["text"]' in old.input_schema
    assert old.package == PACKAGE
    hanging = await client.get_function("hang")
    assert hanging.timeout.ToTimedelta().total_seconds() == 0.5
    assert (await client.get_function("count")).streams


async def test_a_call_is_a_task(client: AsyncClient) -> None:
    """A call gives its value, and is listed as a task of its package with the name of its function."""
    assert await client.call("repeat", {"text": "la", "times": 2, "case": "upper"}, version=1) == "LA LA"
    assert await client.call("repeat", {"text": "la"}) == "la!"
    assert await client.call("words", {"texts": ["a b", "a"]}) == [{"word": "a", "count": 2}, {"word": "b", "count": 1}]
    newest = await anext(client.list_tasks())
    assert newest.model == PACKAGE
    assert newest.labels["inferd.function"] == "words@1"
    assert newest.state == tp.TaskState.TASK_STATE_SUCCEEDED
    assert newest.finished.receipt.backend == "functions"


async def test_a_function_reads_the_files_that_have_names(client: AsyncClient) -> None:
    """What `functions.files` names is read in the sandbox; a name that is none, or has no file, is refused in words."""
    assert await client.call("tokenise", {"text": "la", "tokenizer": "words"}) == [7]
    for name, why in {"other": "there are lost, words", "lost": "cannot be read: No such file"}.items():
        with pytest.raises(InvalidFieldError, match=why):
            await client.call("tokenise", {"text": "la", "tokenizer": name})


async def test_pieces_come_before_the_end(client: AsyncClient) -> None:
    """A generator's pieces are given as they come, also those before it fails; its words and its line are told."""
    pieces = []
    said = r"RuntimeError: three is one too many \(functions.py:\d+\)"
    with pytest.raises(FunctionFailedError, match=said):  # noqa: PT012 - it is to be seen how far it came
        async for piece in client.call_stream("count", {"upto": 5}):
            pieces.append(piece)  # noqa: PERF401 - as above
    assert pieces == [0, 1, 2]
    with pytest.raises(ValueError, match="several pieces"):
        await client.call("count", {"upto": 2})


async def test_an_input_is_held_against_its_schema(client: AsyncClient) -> None:
    """What does not fit is refused with the path of the parameter, before anything of the function runs."""
    wrong = {
        "spec.call.input.times": {"text": "la", "times": "2"},
        "spec.call.input.text": {},
        "spec.call.input.txet": {"text": "la", "txet": "la"},
    }
    for field, given in wrong.items():
        with pytest.raises(InvalidFieldError) as refused:
            await client.call("repeat", given, version=1)
        assert refused.value.field == field
        assert field in str(refused.value)
    assert "did you mean 'text'?" in str(refused.value)
    with pytest.raises(InvalidFieldError, match="refuses its input: not today") as refused:
        await client.call("refuse", {"why": "not today"})
    assert refused.value.field == "spec.call.input"


async def test_what_takes_too_long_or_too_much_is_ended_alone(client: AsyncClient) -> None:
    """A call that hangs, grows, dies or lies fails with its own error; the worker lives, and the next call succeeds."""
    before = (await client.get_model(PACKAGE)).instances[0].instance_id
    with pytest.raises(LimitExceededError) as late:
        await client.call("hang")
    assert late.value.metadata["bound"] == "functions.timeout_s"
    with pytest.raises(LimitExceededError) as large:
        await client.call("grow", {"bytes_": 1 << 30})
    assert large.value.metadata["limit"] == str(32 << 20)
    with pytest.raises(LimitExceededError) as long:
        await client.call("repeat", {"text": "long" * 10, "times": 1000}, version=1)
    assert long.value.metadata["bound"] == "functions.piece_bytes"
    many = {"text": "long" * 10, "times": 80}  # of which one is within that bound
    assert len([each async for each in client.call_each("repeat", [many] * 9, version=1)]) == 9
    with pytest.raises(FunctionFailedError, match="exit status 3"):
        await client.call("die")
    with pytest.raises(FunctionFailedError, match="not what it declares"):
        await client.call("lie")
    assert await client.call("grow", {"bytes_": 1 << 20}) == 1 << 20
    assert (await client.get_model(PACKAGE)).instances[0].instance_id == before


async def test_calls_share_nothing(client: AsyncClient, tmp_path: Path) -> None:
    """What a call changes in its module is seen by no other, and it reaches neither files of the host nor a network."""
    assert [await client.call("remember") for _ in range(3)] == [1, 1, 1]
    secret = tmp_path / "secret"
    secret.write_bytes(b"123")
    assert await client.call("reach", {"path": str(secret)}) == ["read: PermissionError", "socket: PermissionError"]


async def test_names_that_are_none(client: AsyncClient) -> None:
    """What is not there is named with what is near; a model is no function, and a function no model."""
    with pytest.raises(FunctionNotFoundError, match="did you mean 'repeat'"):
        await client.call("repaet", {"text": "la"})
    with pytest.raises(FunctionNotFoundError, match="no version 7; it has 1, 2"):
        await client.call("repeat", {"text": "la"}, version=7)
    with pytest.raises(InvalidFieldError, match="a function is called by both"):
        await client.generate("functions@repeat", "la")
    with pytest.raises(UnsupportedInputError, match="package of functions"):
        await client.generate(PACKAGE, "la")


async def test_functions_for_texts_come_with_inferd(client: AsyncClient) -> None:
    """Those that need libraries, and a model of languages, work in the sandbox of a worker as they do outside."""
    assert await client.call("clean", {"text": "sch\u00c3\u00b6n"}) == "schön"
    assert (await client.call("detect_language", {"text": "Alle Menschen sind frei geboren."}))["language"] == "de"
    assert await client.call("split", {"text": "One. Two."}) == ["One.", "Two."]
    found = await client.call("deduplicate", {"texts": ["a b", "c", "A  b"]})
    assert found == {"kept": [0, 1], "duplicates": [{"index": 2, "of": 0, "similarity": 1.0}]}
    assert await client.call("convert", {"content": "<p>a<p>b", "source": "html", "target": "text"}) == "a\nb"
    chunks = [piece async for piece in client.call_stream("chunk", {"text": "One two.", "size": 5})]
    assert [each["text"] for each in chunks] == ["One", "two."]
    with pytest.raises(InvalidFieldError, match="text is not converted to csv"):
        await client.call("convert", {"content": "", "source": "text", "target": "csv"})


async def test_the_command_line(client: AsyncClient, tmp_path: Path) -> None:
    """`ls`, `show` and `call` tell what there is and is given, for people and as JSON; a wrong input is refused."""
    file = tmp_path / "input.json"
    file.write_text('{"upto": 2}')

    async def said(*words: str, code: int = 0) -> str:
        done = await asyncio.to_thread(
            CliRunner().invoke, main.app, ["functions", *words, "--address", client.address], catch_exceptions=False
        )
        assert done.exit_code == code, done.output
        return done.output

    assert "repeat" in await said("ls")
    listed = json.loads(await said("ls", "-o", "json"))["functions"]
    assert next(each for each in listed if each["name"] == "count")["output_schema"] == {"type": "integer"}
    shown = await said("show", "repeat", "--version", "1")
    assert "repeat, version 1: Say a text several times." in shown
    assert json.loads(await said("show", "repeat", "-o", "json"))["version"] == 2
    assert await said("call", "repeat", "--input", '{"text": "ü"}') == '"ü!"\n'
    assert await said("call", "count", "--input", f"@{file}", "-o", "json") == '{"output": 0}\n{"output": 1}\n'
    task_id = (await said("call", "repeat", "--input", '{"text": "la"}', "--detach")).strip()
    assert (await client.get_task(task_id)).labels["inferd.function"] == "repeat@2"
    assert "did you mean 'text'?" in await said("call", "repeat", "--input", '{"txt": "la"}', code=1)
    assert "give an object" in await said("call", "repeat", "--input", "[]", code=2)
    assert "--input" in await said("call", "repeat", "--input", "@nowhere", code=2)
