"""Who may search indexes, have questions answered from them, and have models make their vectors."""

from collections.abc import Awaitable
from pathlib import Path
from typing import Any

import pytest
from guarded import guarded

from inferd.testing.kernel import write_fake_model
from inferd_api.v1 import policy_pb2 as pp
from inferd_api.v1.explanation_pb2 import ExampleSource
from inferd_client import AsyncClient
from inferd_client.errors import PermissionDeniedError
from inferd_client.indexes import document

FUNCTIONS = {"modules": ("inferd_retrieval.plugin",), "packages": (), "calls": 1}


async def denied(made: Awaitable[Any], words: str) -> None:
    with pytest.raises(PermissionDeniedError, match=words):
        await made


@pytest.mark.asyncio
async def test_indexes_give_nobody_what_the_rules_deny(tmp_path: Path) -> None:
    """Who may not run a model has no vectors made by it; who may not read indexes is told no passages of an answer."""
    store = {"url": f"sqlite:{tmp_path}/store"}
    async with guarded(tmp_path, functions=FUNCTIONS, store=store) as kernel:
        async with AsyncClient(kernel.kernel.addresses[0]) as owner:
            await owner.create_model("fake", str(write_fake_model(tmp_path, "fake")))
            await owner.create_model("secret", str(write_fake_model(tmp_path, "secret")), aliases=["open"])
            await owner.create_index("pay", embedding_model="secret")
            await owner.add_documents("pay", [document("anna", "The salary of Anna is 100.")])
        login = (await kernel.key()).credential
        async with AsyncClient(kernel.kernel.addresses[1], credential=login) as anna:

            async def answer() -> None:
                async for _ in anna.answer_question("pay", "What is the salary of Anna?", model="fake"):
                    pass

            await kernel.rule("role:user", models="secret", verbs=[pp.VERB_RUN])
            for name in ("secret", "open"):
                await denied(anna.create_index("own", embedding_model=name), "may not run")
            await denied(anna.add_documents("pay", [document("x", "oak")]), "may not run")
            await denied(anna.search_index("pay", "salary"), "may not run")
            await denied(answer(), "may not run")
            near: dict[str, Any] = {"answer": "x", "examples": ExampleSource(index="pay")}
            await denied(anna.plan_explanation("fake", "salary", **near), "may not run")
            await denied(anna.explain("fake", "salary", method="examples", **near), "may not run")
            assert [each.document_id for each in await anna.search_index("pay", "salary", mode="lexical")] == ["anna"]
            await kernel.rule("role:user", kinds=[pp.RESOURCE_KIND_INDEX])
            await denied(answer(), "may not read index")
