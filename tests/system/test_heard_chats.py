"""Sounds in chats through a whole kernel and over HTTP, to tiny networks of transformers that hear."""

from base64 import b64encode, encodebytes
from pathlib import Path
from typing import Any

import httpx
import pytest

pytest.importorskip("torch", reason="torch is not installed: pip install 'inferd[torch]'")

import tiny_sounds as tiny
from test_http_gateway import gateway_at
from time_limits import LONG_S

from inferd.testing.kernel import kernel_process
from inferd_client import Client

pytestmark = [pytest.mark.e2e]
COUNT = 6


async def test_a_sound_through_a_kernel_and_over_http(tmp_path: Path) -> None:
    """Each kind hears a sound: tokens are transformers', over HTTP the text is theirs, however its base64 is broken.

    A sound that is cut off is refused by its place, and the next one is heard.
    """
    file = tiny.make_sound(1.3)
    asked = [{"role": "user", "content": [{"type": "audio", "audio": file}, {"type": "text", "text": "What?"}]}]
    expected = {}
    for kind in tiny.CLASSES:
        network = tiny.write_folder(kind, tmp_path / kind)
        expected[kind] = tiny.answer(kind, network, tmp_path / kind, asked, count=COUNT)
    patient = {"INFERD_WORKERS__LOAD_SILENCE_S": "600"}  # torch takes long to be imported
    with kernel_process(tmp_path / "kernel", environment=patient) as kernel, Client(kernel.address) as client:
        told = {}
        for kind in tiny.CLASSES:
            client.create_model(kind, source=str(tmp_path / kind), backend="torch")
            told[kind] = client.generate(kind, asked, max_tokens=COUNT, temperature=0.0, ignore_eos=True)
            assert list(told[kind].token_ids) == expected[kind]
        key = client.create_key("web", roles=["user"]).credential
        headers = {"authorization": f"Bearer {key}"}
        async with gateway_at(kernel.address) as at, httpx.AsyncClient(base_url=at, headers=headers) as http:

            async def post(kind: str, data: str) -> Any:
                part = {"type": "input_audio", "input_audio": {"data": data, "format": "wav"}}
                said = [{"role": "user", "content": [part, {"type": "text", "text": "What?"}]}]
                sampled = {"max_tokens": COUNT, "temperature": 0, "ignore_eos": True}
                body = {"model": kind, "messages": said, **sampled}
                return await http.post("/v1/chat/completions", json=body, timeout=LONG_S)

            for kind in tiny.CLASSES:
                for data in (b64encode(file).decode(), encodebytes(file).decode()):
                    response = await post(kind, data)
                    assert response.status_code == 200, response.text
                    chat = response.json()
                    assert chat["choices"][0]["message"]["content"] == told[kind].text
                    assert chat["usage"]["prompt_tokens"] == told[kind].usage.prompt_tokens
                refused = await post(kind, b64encode(file[:30]).decode())
                assert (refused.status_code, refused.json()["error"]["param"]) == (400, "messages[0].parts[0]")
