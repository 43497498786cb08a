"""Completions over HTTP that begin with their prompt, and what a trace is to a batch."""

from pathlib import Path

from test_http_batches import kept, line, until_ended, upload
from test_http_gateway import web_of


async def test_an_echo_with_probabilities(tmp_path: Path) -> None:
    """What is echoed has log probabilities as what follows it, but for its first token, and each token its place.

    With no token to be produced, the prompt is all that is told.
    """
    async with web_of(tmp_path) as web:
        asked = {"model": "fake", "prompt": "aé b", "max_tokens": 3, "echo": True, "logprobs": 1}
        (choice,) = (await web.post("/v1/completions", **asked))["choices"]
        told = choice["logprobs"]
        assert choice["text"].startswith("aé b")
        assert len(told["tokens"]) == 5 + 3
        assert told["text_offset"][:6] == [0, 1, 1, 2, 3, 4]
        assert told["token_logprobs"][0] is None
        assert all(each < 0.1 for each in told["token_logprobs"][1:])
        assert told["top_logprobs"][0] is None
        chunks = [each["choices"][0] for each in await web.events("/v1/completions", **asked) if isinstance(each, dict)]
        streamed = [each["logprobs"] for each in chunks if each["logprobs"]]
        for name in ("tokens", "token_logprobs", "text_offset"):
            assert [one for each in streamed for one in each[name]] == told[name]
        only = {**asked, "max_tokens": 0}  # as evaluations of models ask for
        whole = await web.post("/v1/completions", **only)
        (choice,) = whole["choices"]
        assert (choice["text"], choice["finish_reason"]) == ("aé b", "length")
        assert choice["logprobs"]["token_logprobs"] == told["token_logprobs"][:5]
        assert whole["usage"]["completion_tokens"] == 0
        first, *_ = [each["choices"][0] for each in await web.events("/v1/completions", **only) if each != "DONE"]
        assert (first["text"], first["logprobs"]) == (choice["text"], choice["logprobs"])


async def test_a_batch_is_in_nobodys_trace(tmp_path: Path) -> None:
    """Tasks of a batch have no mark of who began it: gone on with by another, they are the same tasks."""
    async with web_of(tmp_path, kernel=kept(tmp_path)) as web:
        given = {"input_file_id": await upload(web, line(1, "one")), "endpoint": "/v1/chat/completions"}
        trace = {"traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"}
        begun = (await web.http.post("/v1/batches", json=given, headers=trace)).json()
        assert (await until_ended(web, begun["id"], 1))["status"] == "completed"
        (task,) = [task async for task in web.kernel.list_tasks()]
        assert "traceparent" not in task.labels
