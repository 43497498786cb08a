"""GGUF models that see by a projector's file: greedy tokens against transformers, and what a wrong file is told."""

import weakref
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from native_models import find_missing

pytest.importorskip("torch")
pytest.importorskip("transformers")
pytest.importorskip("PIL")
from tiny_projectors import write_projector
from tiny_seeing import COUNT, FIRST, SECOND, TALKS, Content, Engine, Files, files_of, make_request

from inferd.errors import UnsupportedInputError
from inferd.plugin import LoadError, LoadRequest
from inferd.plugin.pictures import Picture, PlacedPicture
from inferd_cpu.backend import CpuBackend
from inferd_cpu.vision.projector import Projector

needs_library = pytest.mark.skipif(bool(find_missing("auto")), reason="the native library is not built: make native")


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Files]:
    with files_of("idefics3", tmp_path_factory.mktemp("seeing")) as made:
        yield made


def test_pictures_are_seen_as_transformers_sees_them(files: Files) -> None:
    """In fp32 the greedy tokens are transformers', each picture is computed once, and no prefix crosses pictures."""
    engine = Engine(make_request(files, compute="exact"))
    tower = engine.model.session._tower
    expected = [files.answer(talk) for talk in TALKS]
    assert [engine.ask(talk) for talk in TALKS] == expected
    assert tower.computed == 2
    swapped: Content = [SECOND if each is FIRST else each for each in TALKS[0]]
    assert engine.ask(swapped) == files.answer(swapped) != expected[0]
    assert tower.computed == 2
    assert engine.ask(TALKS[0], salt=b"another") == expected[0]
    assert tower.computed == 3
    engine.close()


@needs_library
def test_the_library_sees_nearly_the_same(files: Files) -> None:
    """Vectors of a picture in 8 bits point where those of fp32 do, and a conversation is answered with them."""
    exact, native = (Engine(make_request(files, compute=compute)) for compute in ("exact", "native"))
    seen = []
    for engine in (exact, native):
        assert len(engine.ask(TALKS[0])) == COUNT
        (kept,) = engine.model.session._tower._kept.values()
        assert kept.known.all()
        seen.append(kept.vectors)
        engine.close()
    ours, theirs = seen
    cosines = (ours * theirs).sum(axis=-1) / np.linalg.norm(ours, axis=-1) / np.linalg.norm(theirs, axis=-1)
    assert cosines.min() > 0.99


@needs_library
def test_what_it_sees_with_is_in_the_plan(files: Files) -> None:
    """Weights of the tower and vectors that are kept count, natively and in fp32; more kept ones more."""
    for compute in ("exact", "native"):
        blind = CpuBackend().measure(make_request(files, compute=compute, projector=""))
        seeing = CpuBackend().measure(make_request(files, compute=compute))
        keeping = CpuBackend().measure(make_request(files, compute=compute, picture_cache_tokens="20000"))
        assert seeing.weights_bytes > blind.weights_bytes
        assert keeping.workspace_bytes - seeing.workspace_bytes == 4 * 64 * (20000 - 16384)


def test_a_step_computes_the_tiles_of_its_own_rows(files: Files) -> None:
    """A picture whose tokens take several steps keeps each of them for few tiles, and each tile is computed once."""
    model: Any = CpuBackend().load(make_request(files, compute="exact"), lambda _: None)
    tower, reader = model.session._tower, model.pictures
    pixels = np.random.default_rng(3).integers(256, size=(40, 60, 3), dtype=np.uint8)
    outline, read = reader.outline(40, 60), reader.read(pixels)
    each, tokens = tower._shape.tile_tokens, outline.tokens
    encoded: list[int] = []
    layers = tower._eye._layers
    encode = layers.encode
    layers.encode = lambda *given: (encoded.append(1), encode(*given))[1]
    asked: list[int] = []
    picture = Picture(key=b"one", outline=outline, values=lambda: (asked.append(1), read)[1])
    placed = PlacedPicture(picture=picture, places=np.arange(2, 2 + tokens, dtype=np.int32))
    counts, pieces, size = [], [], each + 1
    for begin in range(0, tokens + 2, size):
        count = min(size, tokens + 2 - begin)
        rows = np.arange(begin, begin + count, dtype=np.int32)
        batch: Any = SimpleNamespace(
            pictures=[(placed,)], starts=np.array([0, count]), positions=rows, advance=lambda: None
        )
        before, asked_before = len(encoded), len(asked)
        pieces.append(tower.find(batch)[1])
        counts.append(len(encoded) - before)
        assert len(asked) - asked_before <= 1
    assert tokens // each > 3
    assert max(counts) <= 2
    assert sum(counts) == tokens // each
    assert tower.computed == 1
    again = Picture(key=b"two", outline=outline, values=lambda: read)
    np.testing.assert_array_equal(np.concatenate(pieces), tower.vectors(again, 0, tokens, lambda: None))
    model.session.close()


@needs_library
def test_of_a_tower_one_matrix_is_read_at_a_time(files: Files, monkeypatch: pytest.MonkeyPatch) -> None:
    """Beside what is packed there is never more than one matrix of a block in fp32, which the plan does not count."""
    seen: list[weakref.ref[Any]] = []
    most = 0
    read = Projector.read

    def watch(projector: Projector, name: str) -> Any:
        nonlocal most
        numbers = read(projector, name).copy()
        if name.startswith("v.blk.") and numbers.ndim > 1:
            seen.append(weakref.ref(numbers))
            most = max(most, sum(each() is not None for each in seen))
        return numbers

    monkeypatch.setattr(Projector, "read", watch)
    model = CpuBackend().load(make_request(files, compute="native"), lambda _: None)
    model.session.close()
    assert most == 1


def test_a_model_without_its_projector_says_what_it_lacks(files: Files) -> None:
    """A picture for a model whose projector is not named is refused with the name of the setting."""
    engine = Engine(make_request(files, compute="exact", projector=""))
    with pytest.raises(UnsupportedInputError, match="'projector' names no file"):
        engine.ask(TALKS[0])
    engine.close()


@pytest.mark.parametrize(
    ("file", "told"),
    [
        ({"architecture": "llama"}, "names a file of the type 'mmproj'; it wants what the model sees with"),
        ({"more": {"clip.projector_type": "resampler"}}, "is 'resampler'; projectors that are known: idefics3, gemma3"),
        ({"more": {"clip.vision.window_size": 8}}, "'clip.vision.window_size' is 8, which is not supported"),
        ({"without": "v.post_ln.bias"}, "tensor 'v.post_ln.bias' of shape [32] is missing"),
        ({"deviation": [0.5, 1e-40, 0.5]}, "they must be three numbers each, these at least 0.001"),
    ],
    ids=["another file", "another kind", "a key that is not known", "a missing tensor", "a colour beyond all numbers"],
)
def test_a_wrong_projector_is_told_what_it_is(tmp_path: Path, files: Files, file: Any, told: str) -> None:
    """What a file says that is not supported, and what it lacks, is named before anything is loaded."""
    write_projector(files.network, tmp_path / "wrong.gguf", **file)
    with pytest.raises(LoadError) as caught:
        CpuBackend().measure(make_request(files, projector=str(tmp_path / "wrong.gguf")))
    assert told in str(caught.value)


def test_a_projector_is_no_model_and_a_model_no_projector(files: Files) -> None:
    """Each given as the other is told what it is, and what to do with it."""
    request = make_request(files, projector="")
    swapped = LoadRequest(path=files.projector, device="cpu:0", settings=request.settings, capacity_bytes=4 << 30)
    with pytest.raises(LoadError, match="no model; load the model that it was made for with --set projector="):
        CpuBackend().measure(swapped)
    with pytest.raises(LoadError, match="names a file a model of architecture 'llama'"):
        CpuBackend().measure(make_request(files, projector=str(files.decoder)))
