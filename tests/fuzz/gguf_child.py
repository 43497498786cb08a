"""The process that loads damaged files, folders and adapters, one after the other.

    python gguf_child.py FOLDER SEED FIRST [MODEL]

MODEL is a real file: its head is damaged now and then, in front of weights that are all zero.
It says `case N` before each, so that whoever started it knows which one killed it, and `loaded` or `refused` behind it.
Anything but success or a LoadError ends it with the exception. Its memory is limited: a file of some kilobytes is no
reason to ask for a gigabyte.
"""

import os
import resource
import sys
import warnings
from contextlib import suppress
from pathlib import Path
from typing import cast

import numpy as np
import psutil
from folder_seeds import damage_folder, write_folder
from gguf_seeds import read_sound, write_seeds
from gguf_wounds import damaged
from other_seeds import Case, Others

from inferd.engine.text.tokenizer import Tokenizer
from inferd.errors import ModelLoadError
from inferd.plugin import LoadedModel, LoadError, LoadRequest, TokenBatch, TokenSession
from inferd.plugin.backend import read_settings
from inferd.plugin.pictures import Picture, PictureReader, PlacedPicture
from inferd_cpu.backend import CpuBackend
from inferd_cpu.native import Native, NativeMissing
from inferd_cpu.plugin import SPEC

SETTINGS = {"kv_tokens": "64", "max_step_tokens": "16", "max_sequences": "2", "threads": "1"}
MEMORY_BYTES = 1 << 30
REAL_EVERY = 50
FOLDER_EVERY = 5  # cases are of Hugging Face folders; as many of models of several files and of adapters


def main() -> None:
    """Go on until killed."""
    folder, seed, case = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    small = [read_sound(path) for path in write_seeds(folder)]
    whole, others = write_folder(folder / "whole"), Others(folder)
    real = [read_sound(Path(path)) for path in sys.argv[4:]]
    sets = find_sets()
    warnings.simplefilter("ignore")  # weights of random bits overflow
    if "LD_PRELOAD" not in os.environ:  # a sanitizer, which maps terabytes
        limit_bytes = psutil.Process().memory_info().vms + MEMORY_BYTES
        resource.setrlimit(resource.RLIMIT_AS, (limit_bytes, limit_bytes))
    while True:
        rng = np.random.default_rng([seed, case])
        sound = real[0] if real and case % REAL_EVERY == 0 else small[case % len(small)]
        tried = Case(folder / "case.gguf")
        tried.path.write_bytes(damaged(sound, rng))
        if case % FOLDER_EVERY == FOLDER_EVERY - 1:
            tried = Case(damage_folder(whole, folder / "case", rng))
        elif case % FOLDER_EVERY == FOLDER_EVERY - 2:
            tried = others.damage(rng)
        if sound.size_bytes > len(sound.content):
            os.truncate(folder / "case.gguf", sound.size_bytes)
        sys.stdout.write(f"case {case}\n")
        sys.stdout.flush()
        sys.stdout.write("loaded\n" if load(*tried, isa=str(rng.choice(sets))) else "refused\n")
        sys.stdout.flush()
        case += 1


def find_sets() -> list[str]:
    """The instruction sets that run here, and "auto", which alone does not insist on the native engine."""
    runs = ["auto"]
    for isa in ("plain", "avx2", "avx512", "amx", "neon"):
        with suppress(NativeMissing):
            runs.append(Native(isa).isa)
    return runs


def load(path: Path, adapter: Path | None = None, projector: Path | None = None, *, isa: str = "auto") -> bool:
    """Whether the file loads; a model that does takes a text, sees a picture if it can, and computes a step."""
    given = {**SETTINGS, "isa": isa} | ({"adapter": str(adapter)} if adapter else {})
    if projector:
        given["projector"] = str(projector)
    settings = read_settings(SPEC, given)
    request = LoadRequest(path=path, device="cpu:0", settings=settings, capacity_bytes=4 << 30)
    try:
        model = CpuBackend().load(request, lambda _: None)
    except LoadError:
        return False
    try:
        with suppress(ModelLoadError):
            Tokenizer(model.vocabulary, size=model.session.limits.vocabulary_size).encode("A text, of 2 parts.")
        if not isinstance(model.pictures, str):
            see(model)
        compute(model.session)
    finally:
        model.session.close()
    return True


def see(model: LoadedModel) -> None:
    """The vectors of a small picture, where the model takes one of its size; computed in a step."""
    reader, session = cast("PictureReader", model.pictures), model.session
    pixels = np.arange(12 * 20 * 3, dtype=np.uint8).reshape(12, 20, 3)
    try:
        outline = reader.outline(*pixels.shape[:2])
    except ValueError:
        return
    values = reader.read(pixels)
    picture = Picture(key=b"", outline=outline, values=lambda: values)
    places = np.arange(outline.tokens, dtype=np.int32)
    placed = PlacedPicture(picture=picture, places=places)
    try:
        compute(session, placed, least=outline.tokens if session.limits.whole_pictures else 0)
    except ValueError as error:
        if "not finite numbers" not in str(error):  # weights that are too large end their own task
            raise


def compute(session: TokenSession, placed: PlacedPicture | None = None, *, least: int = 0) -> None:
    """A step of one sequence with as many tokens as fit, at most three; none where `least` do not."""
    limits = session.limits
    most = min(limits.context_tokens, limits.max_step_tokens, limits.block_tokens * limits.blocks)
    tokens = max(min(3, most), least)
    if tokens > most:
        return
    batch = TokenBatch(
        token_ids=np.arange(tokens, dtype=np.int32) % limits.vocabulary_size,
        positions=np.arange(tokens, dtype=np.int32),
        starts=np.array([0, tokens], np.int32),
        lengths=np.array([tokens], np.int32),
        block_tables=np.arange(-(-tokens // limits.block_tokens), dtype=np.int32)[None],
        logit_rows=np.array([tokens - 1], np.int32),
        pictures=[(placed,)] if placed else None,
        window_tables=np.zeros((1, -(-tokens // limits.block_tokens)), np.int32) if limits.window_blocks else None,
    )
    logits = session.step(batch).logits
    assert logits is not None
    assert logits.shape == (1, limits.vocabulary_size)


if __name__ == "__main__":
    main()
