"""SmolLM2 over HTTP through everything: `inferd serve --http`, its key, and a raw socket."""

import json
import os
import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import jsonschema
import pytest

from inferd.testing.kernel import kernel_process
from inferd_client import Client

pytestmark = [pytest.mark.e2e, pytest.mark.model]


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory, smollm2: Path) -> Iterator[tuple[int, str, Client]]:
    """The port of a gateway before a kernel that has SmolLM2, the key that it has made, and a client of the kernel."""
    folder = tmp_path_factory.mktemp("http")
    with kernel_process(folder, environment={"INFERD_BACKENDS": "cpu"}) as kernel, Client(kernel.address) as client:
        client.create_model("smollm2", source=str(smollm2))
        process = subprocess.Popen(
            [
                *(sys.executable, "-m", "inferd", "http", "--address", kernel.address, "-o", "json"),
                *("--listen", "127.0.0.1:0"),
            ],
            env={
                **os.environ,
                "INFERD_STATE_DIR": str(folder / "state"),
                "INFERD_HTTP__TOOL_FORMATS": '{"smollm2": "hermes"}',
            },
            stdout=subprocess.PIPE,
            text=True,
        )
        try:
            assert process.stdout is not None
            told = json.loads(process.stdout.readline())
            assert re.fullmatch(r"http://127\.0\.0\.1:\d+", told["url"])
            file = Path(told["key_file"])
            assert file.stat().st_mode & 0o077 == 0
            yield int(told["url"].rpartition(":")[2]), file.read_text().strip(), client
        finally:
            process.terminate()
            assert process.wait(60) == 0
            process.stdout.close()


def test_a_chat_by_a_raw_socket(served: tuple[int, str, Client]) -> None:
    """With the key that the gateway made, the real model streams what it says by gRPC, ended by usage and [DONE]."""
    port, key, client = served
    asked = [{"role": "user", "content": "What is the capital of France?"}]
    expected = client.generate("smollm2", asked, temperature=0, max_tokens=16)
    body = json.dumps(
        {
            "model": "smollm2", "stream": True, "stream_options": {"include_usage": True}, "temperature": 0,
            "messages": asked, "max_tokens": 16,
        }
    ).encode()  # fmt: skip
    head = (
        f"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost:{port}\r\nAuthorization: Bearer {key}\r\n"
        f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    )
    with socket.create_connection(("127.0.0.1", port), 60) as plug:
        plug.sendall(head.encode() + body)
        answer = b"".join(iter(lambda: plug.recv(65536), b"")).decode()
    assert answer.startswith("HTTP/1.1 200 ")
    lines = [line[6:] for line in answer.splitlines() if line.startswith("data: ")]
    assert lines[-1] == "[DONE]"
    chunks = [json.loads(line) for line in lines[:-1]]
    text = "".join(choice["delta"].get("content", "") for chunk in chunks for choice in chunk["choices"])
    assert text == expected.text
    assert chunks[-1]["usage"]["completion_tokens"] == expected.usage.output_tokens
    assert chunks[-2]["choices"][0]["finish_reason"] == "length"


WEATHER = {
    "type": "object",
    "properties": {"city": {"type": "string", "maxLength": 20}, "unit": {"enum": ["celsius", "fahrenheit"]}},
    "required": ["city", "unit"],
    "additionalProperties": False,
}


def test_a_call_is_enforced(served: tuple[int, str, Client]) -> None:
    """With a tool that must be called, the real model's tokens are a call of it with valid arguments, streamed too."""
    port, key, _ = served
    body = {
        "model": "smollm2", "temperature": 1, "max_tokens": 80, "tool_choice": "required", "parallel_tool_calls": False,
        "messages": [{"role": "user", "content": "Is it warm in Rome?"}],
        "tools": [{"type": "function", "function": {"name": "get_weather", "parameters": WEATHER}}],
    }  # fmt: skip
    with httpx.Client(
        base_url=f"http://localhost:{port}", headers={"authorization": f"Bearer {key}"}, timeout=60
    ) as web:
        for seed in range(2):
            answer = web.post("/v1/chat/completions", json={**body, "seed": seed})
            assert answer.status_code == 200, answer.text
            [choice] = answer.json()["choices"]
            [call] = choice["message"]["tool_calls"]
            assert (call["function"]["name"], choice["finish_reason"]) == ("get_weather", "tool_calls")
            jsonschema.validate(json.loads(call["function"]["arguments"]), WEATHER)
            streamed = web.post("/v1/chat/completions", json={**body, "seed": seed, "stream": True}).text
            chunks = [json.loads(line[6:]) for line in streamed.splitlines() if line.startswith("data: {")]
            deltas = [part for c in chunks for each in c["choices"] for part in each["delta"].get("tool_calls", [])]
            assert "".join(part["function"]["arguments"] for part in deltas) == call["function"]["arguments"]
