"""Log-mel spectrograms, held against those of transformers' WhisperFeatureExtractor."""

import tracemalloc

import numpy as np
import pytest

from inferd.engine.recipe.mels import Mels
from inferd.engine.recipe.room import Room
from inferd.engine.recipe.sounds import Sounds
from inferd.plugin import AudioInput

pytest.importorskip("torch", reason="torch is not installed: pip install 'inferd[torch]'")

import whisper_to_onnx as whisper

TIMES = np.arange(whisper.RATE, dtype=np.float64) / whisper.RATE
SOUNDS = {
    "noise": np.random.default_rng(1).normal(0, 0.1, whisper.RATE),
    "tone": 0.5 * np.sin(2 * np.pi * 440 * TIMES),
    "begin": np.where(TIMES < 0.2, np.sin(2 * np.pi * 3000 * TIMES), 0),
    "silence": TIMES * 0,
}


@pytest.mark.parametrize("bands", [80, 128])
@pytest.mark.parametrize("name", SOUNDS)
def test_as_transformers_has_it(name: str, bands: int) -> None:
    """Spectrograms of 80 and of 128 bands are those of transformers, to 1e-5."""
    sound = SOUNDS[name].astype(np.float32)
    extractor = whisper.make_extractor(feature_size=bands)
    expected = extractor._np_extract_fbank_features(sound[None], "cpu")
    found = Mels(bands=bands, fft=400, hop=160, rate=whisper.RATE).read(sound[None])
    assert found.shape == (1, bands, 100)
    np.testing.assert_allclose(found, expected, atol=1e-5, rtol=0)


def test_windows_of_a_long_sound() -> None:
    """A sound of two windows and a half becomes three, each like a sound of its own, filled up with silence."""
    sound = whisper.make_sound(3, 2.5)
    step = AudioInput(name="sound", gives="x", rate=whisper.RATE, window=whisper.RATE, mels=80)
    found = Sounds(step, most_s=10.0, room=Room(1 << 20)).read(whisper.wav(sound))
    extractor = whisper.make_extractor()
    for place, row in enumerate(found):
        part = sound[place * whisper.RATE : (place + 1) * whisper.RATE]
        whole = np.pad(part, (0, whisper.RATE - len(part)))
        expected = extractor._np_extract_fbank_features(whole[None], "cpu")[0]
        np.testing.assert_allclose(row, expected, atol=1e-5, rtol=0)
    assert len(found) == 3


def test_columns_that_overlap_take_no_memory_of_their_own() -> None:
    """A spectrogram whose columns overlap a thousandfold is made in parts: its memory is that of what it gives."""
    made = Mels(bands=8, fft=16384, hop=16, rate=whisper.RATE)
    sound = SOUNDS["noise"].astype(np.float32)[None]
    tracemalloc.start()
    try:
        found = made.read(sound)
        peak_bytes = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert found.shape == (1, 8, 1000)
    assert peak_bytes < 16 << 20  # columns of it are 131 MB
