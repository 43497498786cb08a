"""Conversations with sounds, through engine and torch backend, against what transformers answers."""

import json
import struct
from base64 import b64encode
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch", reason="torch is not installed: pip install 'inferd[torch]'")
pytest.importorskip("PIL", reason="Pillow is not installed: pip install 'inferd[files]'")

import tiny_sounds as tiny
import torch
from safetensors.torch import save_file
from tiny_engine import TinyEngine as Engine
from tiny_pictures import make_picture

from inferd.core.training import TrainingMethod
from inferd.engine.work import ChatInput, Message
from inferd.errors import InvalidFieldError, UnsupportedInputError
from inferd.http.messages import read_messages
from inferd.http.problems import Refusal
from inferd.plugin import TrainError, TrainingRecipe, TrainRequest
from inferd.services.chat_values import read_chat
from inferd_api.v1.task_pb2 import AudioPart, ChatMessage, ChatPrompt, ContentPart, TaskSpec
from inferd_client.prompts import write_prompt
from inferd_torch.backend import TorchBackend
from inferd_torch.vision.hearing import HEARING

COUNT = 8
FIRST, SECOND, LONG = tiny.make_sound(1.3), tiny.make_sound(0.41, seed=1), tiny.make_sound(3.1, seed=2)
PICTURE = make_picture(40, 25)
Content = list[str | bytes]
TALKS: list[Content] = [["one, two:", FIRST, "what?"], [FIRST, "and", SECOND, "what is it?"], ["no sound"]]


def chat_of(content: Content, *, sounds: bool = True) -> ChatInput:
    files = tuple(each for each in content if isinstance(each, bytes))
    places = tuple(n for n, each in enumerate(content) if isinstance(each, bytes))
    parts = tuple(each for each in content if isinstance(each, str))
    message = Message("user", "", parts=parts, images=places, sounds=places if sounds else ())
    return ChatInput((message,), files=files)


def messages_of(content: Content) -> list[dict[str, Any]]:
    parts = [
        {"type": "text", "text": each} if isinstance(each, str) else {"type": "audio", "audio": each}
        for each in content
    ]
    return [{"role": "user", "content": parts}]


@pytest.fixture(scope="module", params=list(tiny.CLASSES))
def heard(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[str, Engine, Any]]:
    """A kind, an engine of it, and what transformers answers to each of the talks."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp(request.param)
    network = tiny.write_folder(request.param, folder)
    engine = Engine(folder)
    yield (
        request.param,
        engine,
        lambda talk: tiny.answer(request.param, network, folder, messages_of(talk), count=COUNT),
    )
    engine.close()
    torch.set_num_threads(threads)


def test_sounds_are_heard_as_transformers_hears_them(heard: tuple[str, Engine, Any]) -> None:
    """Greedy tokens of each talk are transformers', and each sound is computed once; a longer one in its windows."""
    kind, engine, answer = heard
    tower = engine.model.session._tower
    expected = [answer(talk) for talk in TALKS]
    assert len({tuple(each) for each in expected}) == len(TALKS)
    assert [engine.ask_chat(chat_of(talk)) for talk in TALKS] == expected
    assert tower.computed == 2
    assert engine.ask_chat(chat_of(TALKS[0])) == expected[0]
    assert tower.computed == 2
    if kind == "voxtral":
        assert engine.ask_chat(chat_of([LONG, "what?"])) == answer([LONG, "what?"])
    else:
        with pytest.raises(InvalidFieldError, match=r"parts\[0\] lasts 3.1 s, and this model hears 2 s at most"):
            engine.ask_chat(chat_of([LONG, "what?"]))


HOURS = FIRST[:24] + (1).to_bytes(4, "little") + FIRST[28:]  # one sample a second
ENDLESS = FIRST[:40] + (0x7FFE0000).to_bytes(4, "little") + FIRST[44:]  # tells two gigabytes
MUTE = FIRST[:40] + bytes(4)
MUTE = MUTE[:4] + (36).to_bytes(4, "little") + MUTE[8:]


@pytest.mark.parametrize(
    ("file", "words"),
    [
        (FIRST[:2000], "is a WAV file that is cut off: its head tells 41600 bytes of samples, and 1956 are there"),
        (ENDLESS, "is a WAV file that is cut off"),
        (HOURS, "has 1 samples a second"),
        (MUTE, "is a sound without samples"),
        (FIRST[:30], "cut off|form"),
        (b"RIFF\xff\xff\xff\xffWAVEfmt \xff\xff\xff\xff", "form|cut off"),
        (b"hello", "is no sound that can be read"),
        (PICTURE, "is no sound that can be read"),
        (tiny.make_sound(0.001), "too few to be heard|"),
    ],
)
def test_what_is_no_sound_is_told(heard: tuple[str, Engine, Any], file: bytes, words: str) -> None:
    """A sound that is cut off, hostile, empty or none is an error with its place, and costs its own task only."""
    kind, engine, _ = heard
    if file == tiny.make_sound(0.001) and kind == "voxtral":  # it hears it, and silence behind it
        assert len(engine.ask_chat(chat_of([file, "what?"]))) == COUNT
        return
    with pytest.raises(InvalidFieldError, match=rf"spec.chat.messages\[0\].parts\[0\] .*({words})") as told:
        engine.ask_chat(chat_of([file, "what?"]))
    assert told.value.field == "spec.chat.messages[0].parts[0]"


def test_a_sound_that_is_too_loud_is_told(heard: tuple[str, Engine, Any]) -> None:
    """Samples whose spectrum is no finite number are an error of who sent them, and nothing is computed of them."""
    _, engine, _ = heard
    tower = engine.model.session._tower
    before = tower.computed
    samples = np.full(16_000, 1e30, "<f4")
    samples[::2] *= -1
    head = struct.pack("<4sI4s4sIHHIIHH4sI", b"RIFF", 36 + samples.nbytes, b"WAVE", b"fmt ", 16, 3, 1, tiny.RATE,
                       4 * tiny.RATE, 4, 32, b"data", samples.nbytes)  # fmt: skip
    with pytest.raises(InvalidFieldError, match=r"parts\[0\] has samples of up to 1e\+30, too large"):
        engine.ask_chat(chat_of([head + samples.tobytes(), "what?"]))
    assert tower.computed == before


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"sampling_rate": 0}, "sampling_rate is 0"),
        ({"sampling_rate": -16_000}, "sampling_rate is -16000"),
        ({"feature_size": 40}, "feature_size is 40, and config.json has 20 num_mel_bins"),
        ({"chunk_length": 100_000}, r"chunk_length \(100000\) has 1600000000 samples"),
        ({"chunk_length": 0}, r"chunk_length \(0\) has 0 samples"),
        ({"hop_length": 7}, r"two hop_lengths \(7\) each"),
    ],
)
@pytest.mark.parametrize("kind", list(tiny.CLASSES))
@pytest.mark.filterwarnings("ignore:At least one mel filter")
def test_a_folder_that_prepares_other_sounds_is_refused(
    kind: str, change: dict[str, Any], words: str, tmp_path: Path
) -> None:
    """Numbers with which its tower would fail, and the tasks of others with it, are told when it is loaded."""
    tiny.make_extractor().save_pretrained(tmp_path)
    path = tmp_path / "preprocessor_config.json"
    HEARING[kind].open(tmp_path, tiny.make_config(kind))
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(ValueError, match=words):
        HEARING[kind].open(tmp_path, tiny.make_config(kind))


def test_what_hears_is_not_trained(heard: tuple[str, Engine, Any], tmp_path: Path) -> None:
    """A model that takes sounds is refused before any of its weights is read."""
    kind, _, _ = heard
    tiny.make_config(kind).save_pretrained(tmp_path)
    tiny.write_tokenizer(tmp_path)
    recipe = TrainingRecipe(method=TrainingMethod.LORA, most_tokens=16)
    request = TrainRequest(
        path=tmp_path, rows=tmp_path, held=None, recipe=recipe, device="cpu:0", capacity_bytes=1 << 30, cores=1
    )
    save_file({"x": torch.zeros(1)}, tmp_path / "model.safetensors")
    with pytest.raises(TrainError, match=f"{kind} hears sounds; only models of texts alone are trained"):
        TorchBackend().measure_training(request)


def test_pictures_are_refused_by_who_hears(heard: tuple[str, Engine, Any]) -> None:
    """A model that takes sounds takes no pictures, and says so."""
    _, engine, _ = heard
    with pytest.raises(UnsupportedInputError, match=r"is an image, and this model takes sounds alone"):
        engine.ask_chat(chat_of([PICTURE, "what?"], sounds=False))


def test_a_sound_comes_by_each_way_it_is_said() -> None:
    """The Python client's part, OpenAI's `input_audio` and what the gateway makes of it are one file to a worker."""
    data = b64encode(FIRST).decode()
    openai = {"type": "input_audio", "input_audio": {"data": data, "format": "wav"}}
    (through,) = read_messages([{"role": "user", "content": [openai]}])
    for content in ([{"type": "audio", "audio": FIRST}], [openai], through["content"]):
        spec = TaskSpec()
        write_prompt(spec, [{"role": "user", "content": content}])
        read = read_chat(spec.chat, at="spec.chat")
        assert [picture.data for picture in read.pictures] == [FIRST]
        assert [*read.messages[0].images] == [*read.messages[0].sounds] == [0]
    with pytest.raises(Refusal, match=r"input_audio\.format"):
        read_messages([{"role": "user", "content": [{**openai, "input_audio": {"data": data, "format": "x;y"}}]}])
    empty = ChatMessage(role="user", parts=[ContentPart(audio=AudioPart())])
    with pytest.raises(InvalidFieldError, match=r"parts\[0\].audio is empty"):
        read_chat(ChatPrompt(messages=[empty]), at="spec.chat")
