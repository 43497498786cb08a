"""Sounds of conversations, from samples to what a model hears by: within memory of a size."""

import io
import threading
import wave
from collections.abc import Mapping
from typing import Any

import numpy as np

from inferd.engine.pictures.limits import PictureLimits
from inferd.engine.pictures.sources import Hearing
from inferd.plugin.pictures import Outline

RATE, SECONDS, WAIT_S = 48_000, 0.25, 60.0


class Meeting:
    """Reads sounds, and counts how many are read at once: each waits a moment for another one."""

    placeholder, token_id, rate = "<sound>", 1, RATE

    def __init__(self) -> None:
        self.met = 0
        self._both = threading.Barrier(2)

    def hear(self, samples: int) -> Outline:
        return Outline(text=self.placeholder, tokens=1, pixels=samples)

    def read(self, sound: Any) -> Mapping[str, Any]:
        try:
            self._both.wait(0.5)
            self.met += 1
        except threading.BrokenBarrierError:
            self._both.reset()
        return {"features": sound}


def test_sounds_are_read_within_the_memory_of_the_longest_one() -> None:
    """Two that are as long as may be are made into what a model hears by one after the other."""
    file = io.BytesIO()
    with wave.open(file, "wb") as written:
        written.setnchannels(1)
        written.setsampwidth(2)
        written.setframerate(RATE)
        written.writeframes(np.ones(int(RATE * SECONDS), np.int16).tobytes())
    reader, content = Meeting(), file.getvalue()
    source = Hearing(reader, PictureLimits(audio_s=SECONDS))
    outline, found = source.outline(content), []
    threads = [
        threading.Thread(target=lambda: found.append(source.values(content, outline, waits=True)), daemon=True)
        for _ in range(2)
    ]
    for each in threads:
        each.start()
    for each in threads:
        each.join(WAIT_S)
    assert len(found) == 2
    assert not reader.met
