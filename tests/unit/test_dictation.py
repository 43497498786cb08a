"""Texts that a decoder writes of sounds, in an engine without a kernel: beside each other, again, and with failures."""

import json
import queue
import shutil
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("onnxruntime", reason="onnxruntime is not installed: pip install 'inferd[onnx]'")
pytest.importorskip("torch", reason="torch is not installed: pip install 'inferd[torch]'")

import whisper_to_onnx as whisper

from inferd.core.ids import Tenant
from inferd.engine.recipe.dictation import Dictation
from inferd.engine.recipe.limits import RecipeLimits
from inferd.engine.recipe.preparation import Preparation
from inferd.engine.recipe.segments import Segment, Segments
from inferd.engine.tensor.request import Request, SequenceStep, TensorResult
from inferd.engine.token.limits import EngineLimits
from inferd.errors import BackendFailedError, InferdError, InvalidFieldError, UnsupportedInputError
from inferd.plugin import ElementType, LoadedModel, LoadError, LoadRequest, Tensor, TimeTokens
from inferd.plugin.backend import read_settings
from inferd_onnx.backend import OnnxBackend
from inferd_onnx.plugin import SPEC

DEADLINE_S = 60.0


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One with two graphs of a decoder."""
    return whisper.write_folder(tmp_path_factory.mktemp("whisper"))


@pytest.fixture(scope="module")
def merged(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One with one graph of a decoder, and two branches in it."""
    return whisper.write_folder(tmp_path_factory.mktemp("merged"), merged=True)


def load(folder: Path, **settings: str) -> LoadedModel:
    request = LoadRequest(path=folder, device="cpu:0", settings=read_settings(SPEC, settings), capacity_bytes=1 << 32)
    model = OnnxBackend().load(request, lambda _: None)
    assert isinstance(model, LoadedModel)
    return model


class Told:
    """What an engine delivered."""

    def __init__(self, model: LoadedModel) -> None:
        self._results: queue.SimpleQueue[TensorResult] = queue.SimpleQueue()
        self.tokens: dict[int, list[int]] = {}
        self.texts: dict[int, list[str]] = {}
        self.sets: dict[int, list[Mapping[str, Tensor]]] = {}
        self.ended: dict[int, InferdError | None] = {}
        self.alone: list[int] = []
        assert model.recipe is not None
        self.engine = Dictation(model, model.recipe, EngineLimits(), self._results.put)

    @contextmanager
    def running(self) -> Iterator["Told"]:
        thread = threading.Thread(target=self.engine.run)
        thread.start()
        try:
            yield self
        finally:
            self.engine.stop()
            thread.join(DEADLINE_S)
            assert not thread.is_alive()

    def next(self) -> None:
        """Take in what is delivered next."""
        result = self._results.get(timeout=DEADLINE_S)
        self.alone += [] if result.alone is None else [result.alone]
        for handle, outputs in result.outputs:
            self.sets.setdefault(handle, []).append(outputs)
            self.tokens.setdefault(handle, []).extend(outputs["text_tokens"].array.tolist())
            self.texts.setdefault(handle, []).append(str(outputs["text"].array[0]))
        self.ended |= {each.handle: each.error for each in result.ended}

    def wait(self, *handles: int) -> None:
        """Wait until these have ended."""
        while not self.ended.keys() >= set(handles):
            self.next()


def text(value: str) -> Tensor:
    return Tensor(element_type=ElementType.STRING, shape=(1,), array=np.array([value], object))


def make_request(handle: int, seed: int, *, language: str = "en", task: str = "", **more: Any) -> Request:
    if "inputs" in more:
        return Request(handle=handle, **more)
    sound = whisper.make_sound(seed)
    rows = whisper.make_extractor()(sound, sampling_rate=whisper.RATE, return_tensors="np").input_features
    inputs = {"input_features": Tensor(element_type=ElementType.FLOAT, shape=rows.shape, array=rows)}
    inputs |= {name: text(value) for name, value in (("language", language), ("task", task)) if value}
    return Request(handle=handle, inputs=inputs, **more)


@pytest.mark.parametrize("layout", ["folder", "merged"])
def test_as_transformers_writes_it(layout: str, request: pytest.FixtureRequest) -> None:
    """Of several sounds at once, in both languages and tasks, the tokens are those of transformers' greedy search."""
    asked = [(0, "en", "transcribe"), (1, "de", "transcribe"), (2, "en", "translate"), (3, "en", "transcribe")]
    with Told(load(request.getfixturevalue(layout))).running() as told:
        for handle, (seed, language, task) in enumerate(asked, start=1):
            told.engine.submit(make_request(handle, seed, language=language, task=task))
        told.wait(1, 2, 3, 4)
    for handle, each in enumerate(asked, start=1):
        assert told.ended[handle] is None
        assert told.tokens[handle] == whisper.write(*each)
        assert not {*told.tokens[handle]} & {*whisper.SUPPRESS}


def test_an_unknown_language_is_heard(merged: Path) -> None:
    """Without a language the decoder's likeliest one is taken, as transformers detects it; then come task and text."""
    seeds = (1, 3)
    with Told(load(merged)).running() as told:
        for handle, seed in enumerate(seeds, start=1):
            told.engine.submit(make_request(handle, seed, language=""))
        told.wait(1, 2)
    for handle, seed in enumerate(seeds, start=1):
        language, *begin = told.tokens[handle][:3]
        assert begin == [whisper.TRANSCRIBE, whisper.SILENT]
        extractor, sound = whisper.make_extractor(), whisper.make_sound(seed)
        features = extractor(sound, sampling_rate=whisper.RATE, return_tensors="pt").input_features
        detected = whisper.make_network().detect_language(features, num_segment_frames=2 * whisper.POSITIONS)
        assert language == int(detected[0])
        assert told.tokens[handle][3:] == whisper.write(seed, {whisper.ENGLISH: "en", whisper.GERMAN: "de"}[language])


def test_gone_on_with(folder: Path) -> None:
    """A task that has told five pieces elsewhere tells what is behind them; of one that ends nothing is kept."""
    model = load(folder)
    with Told(model).running() as told:
        told.engine.submit(make_request(1, 2))
        told.wait(1)
        told.engine.submit(make_request(2, 2, told=5))
        told.engine.submit(make_request(3, 2))
        told.engine.cancel(3)
        told.engine.submit(make_request(4, 2, alone=True))
        told.wait(2, 4)
    assert told.tokens[2] == told.tokens[1][5:]
    assert told.tokens[4] == told.tokens[1]
    assert 3 not in told.ended
    assert told.alone == [4]
    session: Any = model.session
    assert not session._sources


def test_fewer_places_than_sounds(folder: Path) -> None:
    """Where two sequences have a place at once, four sounds are written all the same."""
    model = load(folder, max_sequences="2", block_tokens="4")
    with Told(model).running() as told:
        for handle in range(4):
            told.engine.submit(make_request(handle + 1, handle))
        told.wait(1, 2, 3, 4)
    assert [told.tokens[handle + 1] for handle in range(4)] == [whisper.write(seed, "en") for seed in range(4)]


@pytest.mark.parametrize(
    ("file", "values", "words"),
    [
        ("config.json", {"vocab_size": 300}, r"'logits' is of shape .*264\]; .*\(vocab_size\) .* \[any, any, 300\]"),
        ("generation_config.json", {"max_length": 4}, "begins with 4 tokens, and the model has room for 4: nothing"),
        ("generation_config.json", {"max_length": 1}, "begins with 4 tokens, and the model has room for 1: nothing"),
        (
            "generation_config.json",
            {"suppress_tokens": list(range(100)), "begin_suppress_tokens": list(range(100, whisper.VOCABULARY))},
            "suppresses each of the model's 264 tokens",
        ),
    ],
)
def test_models_that_could_never_answer(
    folder: Path, tmp_path: Path, file: str, values: dict[str, Any], words: str
) -> None:
    """A folder whose texts have no room, no token left or other logits than it says is refused when it is loaded."""
    wrong = shutil.copytree(folder, tmp_path / "wrong")
    (wrong / file).write_text(json.dumps(json.loads((wrong / file).read_text()) | values))
    with pytest.raises(LoadError, match=words):
        Told(load(wrong))


def test_what_cannot_be_written(folder: Path) -> None:
    """An unknown language, an encoder that fails and a sequence cost their own task; the one beside them is written."""
    model = load(folder)
    session: Any = model.session
    read = session.read

    def fail(number: int, array: Any) -> None:
        if not array.any():
            raise RuntimeError("the encoder is out of order")
        read(number, array)

    session.read = fail
    rows = np.zeros((1, whisper.MELS, 2 * whisper.POSITIONS), np.float32)
    silence = Tensor(element_type=ElementType.FLOAT, shape=rows.shape, array=rows)
    with Told(model).running() as told:
        told.engine.submit(make_request(1, 0))
        told.engine.submit(Request(handle=2, inputs={"input_features": silence}))
        told.engine.submit(make_request(3, 0, language="dee"))
        told.engine.submit(make_request(4, 0, sequence=SequenceStep(tenant=Tenant("t"), name="s")))
        told.wait(1, 2, 3, 4)
    assert told.tokens[1] == whisper.write(0, "en")
    assert isinstance(told.ended[2], BackendFailedError)
    assert "out of order" in str(told.ended[2])
    assert isinstance(told.ended[3], InvalidFieldError)
    assert "did you mean 'de'?" in str(told.ended[3])
    assert isinstance(told.ended[4], UnsupportedInputError)


TIMES = TimeTokens(first=100, step_s=0.5, row_s=10, silent=99, text_end=90)


@pytest.fixture(scope="module")
def timed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One of a network with tokens of time."""
    return whisper.write_folder(tmp_path_factory.mktemp("timed"), timed=True)


def test_segments_of_rows() -> None:
    """A time behind words ends them, the next begins others; what is open at a row's end goes on up to it."""
    segments = Segments(TIMES, length_s=17.5)
    told = [segments.add([100], ""), segments.add([5, 6], " one"), segments.add([103], ""), segments.add([104], "")]
    assert told == [[], [], [Segment(" one", 0, 1.5)], []]
    assert segments.add([7], " two") == []
    assert segments.end_row() == [Segment(" two", 2, 10)]
    assert segments.add([8], " three") == []
    assert segments.end_row() == [Segment(" three", 10, 17.5)]
    assert segments.end_row() == []


def test_times_as_transformers_writes_them(timed: Path) -> None:
    """Asked for times, the tokens are those that transformers' rules for them give; the others are as before."""
    told = Told(load(timed))
    with told.running():
        for handle in (1, 2, 3):
            request = make_request(handle, handle)
            request = replace(request, inputs={**request.inputs, "times": text("segments")})
            told.engine.submit(request)
        told.wait(1, 2, 3)
    for handle in (1, 2, 3):
        assert told.ended[handle] is None
        assert told.tokens[handle] == whisper.write_times(handle)
        assert "<|" not in "".join(told.texts[handle])


def test_what_is_told_of_times(timed: Path) -> None:
    """With times, segments cover the text, with the language and the length of the sound once; without, nothing new."""
    model = load(timed)
    assert model.recipe is not None
    told = Told(model)
    preparation = Preparation(model.recipe, told.engine.signature, RecipeLimits())
    names = [info.name for info in preparation.signature.inputs]
    assert "times" in names
    assert "seconds" not in names
    sound = np.frombuffer(whisper.as_file(whisper.make_sound(1, 1.4)), np.uint8)
    given = {
        "audio": Tensor(element_type=ElementType.UINT8, shape=sound.shape, array=sound),
        "language": text("en"),
        "times": text("segments"),
    }
    ready = preparation.prepare(given, carried=False)
    with told.running():
        told.engine.submit(make_request(1, 0, inputs=ready))
        told.wait(1)
    sets = told.sets[1]

    def all_of(name: str) -> list[object]:
        return [each for one in sets for each in one[name].array.tolist()]

    assert "".join(map(str, all_of("text_segments"))).split() == "".join(told.texts[1]).split()
    begins, ends = all_of("text_begins"), all_of("text_ends")
    assert all(begin <= end <= 1.4 + 1e-6 for begin, end in zip(begins, ends, strict=True))  # type: ignore[operator]
    assert max(ends) > 1  # type: ignore[type-var, operator]
    assert all_of("text_language") == ["en"]
    assert all_of("text_length") == [pytest.approx(1.4)]


def test_times_that_are_not_told(timed: Path) -> None:
    """Other times than those of segments, and what is told with times alone, are refused by their field."""
    told = Told(load(timed))
    with told.running():
        words = make_request(1, 0)
        words = replace(words, inputs={**words.inputs, "times": text("words")})
        told.engine.submit(words)
        told.engine.submit(make_request(2, 0, outputs=("text_begins",)))
        told.wait(1, 2)
    for handle, named in ((1, "the times of segments alone"), (2, "give the input 'times' 'segments'")):
        assert isinstance(told.ended[handle], InvalidFieldError)
        assert named in str(told.ended[handle])
