"""Structured output of the real model, through everything."""

import asyncio
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from json_schemas import make_schemas

from inferd.testing.kernel import KernelProcess, kernel_process
from inferd_api.v1.sampling_pb2 import Choice, Grammar
from inferd_client import AsyncClient, Client, Generation
from inferd_client.errors import InvalidFieldError

pytestmark = [pytest.mark.e2e, pytest.mark.model]

SCHEMAS = 10
AT_ONCE = 64
EXAMPLE = [{"role": "user", "content": "Give me an example of JSON."}]
STATEMENT = r"""
start: statement (" " statement)*
statement: NAME " = " sum ";"
sum: product (" + " product)*
product: atom (" * " atom)*
atom: NAME | NUMBER | "(" sum ")"
NAME: /[a-z]{1,3}/
NUMBER: /[0-9]{1,2}/
"""


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory, smollm2: Path) -> Iterator[KernelProcess]:
    """A kernel that knows SmolLM2."""
    with (
        kernel_process(tmp_path_factory.mktemp("kernel"), environment={"INFERD_BACKENDS": "cpu"}) as kernel,
        Client(kernel.address) as client,
    ):
        client.create_model("smollm2", source=str(smollm2))
        yield kernel


async def generate_all(address: str, options: list[dict[str, Any]]) -> list[Generation]:
    """What each of the options gives, many at once."""
    places = asyncio.Semaphore(AT_ONCE)

    async def generate(client: AsyncClient, more: dict[str, Any]) -> Generation:
        async with places:
            return await client.generate("smollm2", EXAMPLE, **more)

    async with AsyncClient(address) as client:
        return await asyncio.gather(*(generate(client, more) for more in options))


@pytest.mark.timeout(600)
def test_outputs_are_valid_against_their_schemas(served: KernelProcess) -> None:
    """Under schemas from single values to objects four levels deep every output parses and validates."""
    schemas = make_schemas(SCHEMAS)
    options = [
        {"grammar": Grammar(json_schema=json.dumps(schema)), "seed": seed, "temperature": 0.7, "max_tokens": 600}
        for seed, schema in enumerate(schemas)
    ]
    formats = jsonschema.FormatChecker(["ipv4", "uuid"])
    for schema, given in zip(schemas, asyncio.run(generate_all(served.address, options)), strict=True):
        assert given.finish_reason == "END_OF_TEXT", (schema, given.text)
        jsonschema.Draft202012Validator(schema, format_checker=formats).validate(json.loads(given.text))


@pytest.mark.timeout(300)
def test_outputs_match_their_regular_expression_and_grammar(served: KernelProcess) -> None:
    """Outputs under a regular expression, a Lark grammar and a choice are texts of these languages."""
    pattern = r"(Mr|Ms)\. [A-Z][a-z]{2,8}, \d{4}-\d{2}-\d{2}( \([a-z]{1,6}\))?"
    texts = ["Paris", "Rome", "Pa"]
    grammars = [Grammar(regex=pattern), Grammar(lark=STATEMENT), Grammar(choice=Choice(texts=texts))]
    options = [
        {"grammar": grammar, "seed": seed, "temperature": 1.0, "max_tokens": 120, "frequency_penalty": 0.5}
        for seed in range(6)
        for grammar in grammars
    ]
    answers = asyncio.run(generate_all(served.address, options))
    assert all(re.fullmatch(pattern, given.text) for given in answers[::3])
    assert any(given.finish_reason == "END_OF_TEXT" for given in answers[1::3])
    for given in answers[1::3]:
        if given.finish_reason == "END_OF_TEXT":
            check_statements(given.text)
    assert {given.text for given in answers[2::3]} <= set(texts)


def check_statements(text: str) -> None:
    """Assert that a text is of the language of `STATEMENT`: Python's own compiler reads it."""
    names = set(re.findall("[a-z]+", text))
    assert re.fullmatch(r"[a-z0-9 =+*();]+", text), text
    assert max(map(len, names)) <= 3
    for statement in text.removesuffix(";").split("; "):
        # Python has keywords and refuses leading zeros, which the grammar does not know.
        plain = re.sub(r"[a-z]+", "x", re.sub(r"\b0+(?=\d)", "", statement))
        compile(plain, text, "exec")


@pytest.mark.timeout(300)
def test_a_bad_schema_leaves_the_model_as_it_was(served: KernelProcess) -> None:
    """A schema that cannot be is refused with its field; the same worker goes on."""
    with Client(served.address) as client:
        client.load_model("smollm2")
        pid = client.get_model("smollm2").instances[0].pid
        schema = json.dumps({"type": "string", "minLength": 2, "maxLength": 1})
        with pytest.raises(InvalidFieldError, match="minLength"):
            client.generate("smollm2", EXAMPLE, grammar=Grammar(json_schema=schema))
        assert client.generate("smollm2", EXAMPLE, grammar=Grammar(regex="ok")).text == "ok"
        assert client.get_model("smollm2").instances[0].pid == pid
