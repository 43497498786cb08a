"""Files of pictures and sounds in base64, as encoders break its lines: over HTTP, by the client and in the kernel."""

from base64 import encodebytes
from contextlib import suppress
from time import process_time
from typing import Any

import pytest

from inferd.errors import InvalidFieldError
from inferd.http.messages import read_messages
from inferd.services.chat_values import read_chat
from inferd_api.v1.task_pb2 import AudioPart, ChatMessage, ChatPrompt, ContentPart, TaskSpec
from inferd_client.prompts import write_prompt

FILE = bytes(range(256)) * 2
CODED = encodebytes(FILE).decode()  # lines of 76 characters
URL = f"data:audio/wav;base64,{CODED}"
PARTS: list[Any] = [
    {"type": "input_audio", "input_audio": {"data": CODED, "format": "wav"}},
    {"type": "input_audio", "input_audio": {"data": CODED.replace("\n", "\r\n"), "format": "wav"}},
    {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{CODED}"}},
]


@pytest.mark.parametrize("part", PARTS, ids=["a sound", "a sound of other line feeds", "an image"])
@pytest.mark.parametrize("gateway", [True, False])
def test_base64_may_have_lines(part: Any, gateway: bool) -> None:  # noqa: FBT001 - a parameter of the test
    """Line feeds that encoders put into base64 change nothing of a file, through the gateway and by the client."""
    messages: Any = [{"role": "user", "content": [part]}]
    spec = TaskSpec()
    write_prompt(spec, read_messages(messages) if gateway else messages)
    assert [each.data for each in read_chat(spec.chat, at="spec.chat").pictures] == [FILE]


def test_a_data_url_may_have_lines() -> None:
    """One that a client of another language sends as it is, is read by the kernel; what is no base64 is told."""
    for url, sound in ((URL, True), (URL.replace("A", "!"), False)):
        chat = ChatPrompt(messages=[ChatMessage(role="user", parts=[ContentPart(audio=AudioPart(url=url))])])
        if sound:
            assert [each.data for each in read_chat(chat, at="spec.chat").pictures] == [FILE]
            continue
        with pytest.raises(InvalidFieldError, match="is no base64"):
            read_chat(chat, at="spec.chat")


def test_letters_of_no_base64_are_refused_at_once() -> None:
    """A long data URL of other letters costs the kernel no more than one that is read, whose blanks go as quickly."""
    seconds = []
    for letter in ("A", "é"):
        part = ContentPart(audio=AudioPart(url="data:audio/wav;base64," + letter * (1 << 22)))
        chat = ChatPrompt(messages=[ChatMessage(role="user", parts=[part])])
        taken = []
        for _ in range(3):
            began = process_time()
            with suppress(InvalidFieldError):
                read_chat(chat, at="spec.chat")
            taken.append(process_time() - began)
        seconds.append(min(taken))
    assert seconds[1] < 3 * seconds[0]
