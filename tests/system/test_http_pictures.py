"""Pictures in chats over HTTP, in the words of three interfaces, to a tiny network of transformers that sees."""

from base64 import b64encode
from pathlib import Path
from typing import Any

import httpx
import pytest

pytest.importorskip("torch", reason="torch is not installed: pip install 'inferd[torch]'")
pytest.importorskip("PIL", reason="Pillow is not installed: pip install 'inferd[files]'")

import tiny_pictures as tiny
from test_http_gateway import gateway_at
from time_limits import LONG_S

from inferd.testing.kernel import kernel_process
from inferd_client import Client

pytestmark = [pytest.mark.e2e]
COUNT = 6


async def test_a_picture_by_each_interface(tmp_path: Path) -> None:
    """A picture of a chat, a response or Ollama's is seen: the text is that of transformers' tokens."""
    folder, file = tmp_path / "seeing", tiny.make_picture(40, 24, form="JPEG")
    network = tiny.write_folder("idefics3", folder)
    asked = [{"role": "user", "content": [{"type": "image", "image": file}, {"type": "text", "text": "What?"}]}]
    expected = tiny.answer("idefics3", network, folder, asked, count=COUNT)
    encoded = b64encode(file).decode()
    url, sampled = f"data:image/jpeg;base64,{encoded}", {"temperature": 0, "ignore_eos": True}
    patient = {"INFERD_WORKERS__LOAD_SILENCE_S": "600"}  # torch takes long to be imported
    with kernel_process(tmp_path / "kernel", environment=patient) as kernel, Client(kernel.address) as client:
        client.create_model("seeing", source=str(folder), backend="torch")
        told = client.generate("seeing", asked, max_tokens=COUNT, temperature=0.0, ignore_eos=True)
        assert list(told.token_ids) == expected
        key = client.create_key("web", roles=["user"]).credential
        headers = {"authorization": f"Bearer {key}"}
        async with gateway_at(kernel.address) as at, httpx.AsyncClient(base_url=at, headers=headers) as http:

            async def post(path: str, **body: Any) -> Any:
                response = await http.post(path, json={"model": "seeing", **body}, timeout=LONG_S)
                assert response.status_code == 200, response.text
                return response.json()

            parts: list[dict[str, Any]] = [
                {"type": "image_url", "image_url": {"url": url, "detail": "auto"}},
                {"type": "text", "text": "What?"},
            ]
            talk = [{"role": "user", "content": parts}]
            chat = await post("/v1/chat/completions", messages=talk, max_tokens=COUNT, **sampled)
            assert chat["choices"][0]["message"]["content"] == told.text
            assert chat["usage"]["prompt_tokens"] == told.usage.prompt_tokens
            items = [{"role": "user", "content": [{"type": "input_image", "image_url": url}, parts[1]]}]
            response = await post("/v1/responses", input=items, max_output_tokens=COUNT, **sampled)
            assert response["output"][0]["content"][0]["text"] == told.text
            options = {"num_predict": COUNT, **sampled}
            for image in (encoded, url):
                said = {"role": "user", "content": "What?", "images": [image]}
                ollama = await post("/api/chat", messages=[said], options=options, stream=False)
                assert ollama["prompt_eval_count"] == told.usage.prompt_tokens
            broken = {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{encoded[:40]}"}}
            refused = await http.post(
                "/v1/chat/completions",
                json={"model": "seeing", "messages": [{"role": "user", "content": [parts[1], broken]}]},
                timeout=LONG_S,
            )
            error = refused.json()["error"]
            assert (refused.status_code, error["param"]) == (400, "messages[0].parts[1]")
