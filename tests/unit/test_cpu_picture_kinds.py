"""Gemma 3 and Qwen2.5-VL as GGUF files with their projectors: greedy tokens against transformers, and wrong files."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from native_models import find_missing

pytest.importorskip("torch")
pytest.importorskip("transformers")
pytest.importorskip("PIL")
from tiny_pictures import make_picture
from tiny_projectors import write_decoder, write_projector
from tiny_seeing import COUNT, FIRST, SECOND, TALKS, Content, Engine, Files, files_of, make_request

from inferd.errors import InferdError
from inferd.plugin import LoadError, TokenBatch
from inferd.plugin.picture_rows import find_reach
from inferd.plugin.pictures import Picture, PlacedPicture
from inferd_cpu.backend import CpuBackend

KINDS = ("gemma3", "qwen2_5_vl")
MORE: list[Content] = [
    ["first", make_picture(60, 44, seed=4), "one"],  # of several windows, some of them cut
    [make_picture(9, 90, seed=5), make_picture(90, 9, seed=6), "long and narrow"],
]
needs_library = pytest.mark.skipif(bool(find_missing("auto")), reason="the native library is not built: make native")

of_grids = pytest.mark.parametrize("files", ["qwen2_5_vl"], indirect=True)


@pytest.fixture(scope="module", params=KINDS)
def files(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Files]:
    with files_of(request.param, tmp_path_factory.mktemp(request.param)) as made:
        yield made


def test_pictures_of_each_kind_are_seen_as_transformers_sees_them(files: Files) -> None:
    """In fp32 the greedy tokens are transformers', each picture is computed once, and no prefix crosses pictures."""
    engine = Engine(make_request(files, compute="exact"))
    tower = engine.model.session._tower
    expected = [files.answer(talk) for talk in TALKS + MORE]
    assert len({tuple(each) for each in expected}) == len(expected)
    assert [engine.ask(talk) for talk in TALKS + MORE] == expected
    assert tower.computed == 5
    assert [engine.ask(talk) for talk in TALKS + MORE] == expected
    swapped: Content = [SECOND if each is FIRST else each for each in TALKS[0]]
    assert engine.ask(swapped) == files.answer(swapped) != expected[0]
    assert tower.computed == 5
    engine.close()


def load(files: Files, **settings: str) -> Any:
    return CpuBackend().load(make_request(files, **settings), lambda _: None)


def look(model: Any, *, at: int) -> Any:
    """Logits of a picture at a place, and of what is behind it, of a prompt that is computed in one step."""
    reader, limits = model.pictures, model.session.limits
    outline = reader.outline(44, 60)
    values = reader.read(np.random.default_rng(3).integers(256, size=(44, 60, 3), dtype=np.uint8))
    places = np.arange(at, at + outline.tokens, dtype=np.int32)
    placed = PlacedPicture(picture=Picture(key=b"one", outline=outline, values=lambda: values), places=places)
    tokens = at + outline.tokens + 7
    blocks = np.arange(-(-tokens // limits.block_tokens), dtype=np.int32)[None]
    batch = TokenBatch(
        token_ids=65 + np.arange(tokens, dtype=np.int32) % 9,
        positions=np.arange(tokens, dtype=np.int32),
        starts=np.array([0, tokens], np.int32),
        lengths=np.array([tokens], np.int32),
        block_tables=blocks,
        window_tables=blocks if limits.window_blocks else None,
        logit_rows=np.arange(at, tokens, dtype=np.int32),
        pictures=[(placed,)],
    )
    logits = model.session.step(batch).logits
    assert logits is not None
    return logits.copy()


def find_cosines(ours: Any, theirs: Any) -> Any:
    return (ours * theirs).sum(axis=-1) / np.linalg.norm(ours, axis=-1) / np.linalg.norm(theirs, axis=-1)


@needs_library
@pytest.mark.parametrize("kv_format", ["f32", "i8"])
def test_the_library_sees_nearly_what_is_seen_in_fp32(files: Files, kv_format: str) -> None:
    """With 8 bits for each weight, in tower and decoder, logits of a picture and behind it point where fp32's do."""
    logits = []
    for settings in ({"compute": "exact"}, {"compute": "native", "kv_format": kv_format}):
        model = load(files, max_step_tokens="128", **settings)
        logits.append(look(model, at=5))
        model.session.close()
    assert find_cosines(*logits).min() > 0.99


@needs_library
@of_grids
def test_tokens_of_a_picture_see_each_other_over_tiles_and_segments(
    files: Files, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whichever rows a thread has, and however long a prompt is: natively what is behind a token is seen as in fp32.

    Small pictures of Gemma have four tokens: those of the other kind stand for larger ones here.
    """
    logits = []
    for compute in ("exact", "native"):
        model = load(files, max_step_tokens="512", compute=compute)
        for reach in (find_reach, lambda _: None):
            monkeypatch.setattr(model.session._tower, "reach", reach)
            logits.append(look(model, at=245))
        model.session.close()
    exact, blind, native, _ = logits
    assert find_cosines(exact, native).min() > 0.99
    assert find_cosines(exact, blind).min() < 0.9


@needs_library
def test_a_conversation_with_pictures_goes_on_natively(files: Files) -> None:
    """Prompts take several steps, no step ends in a picture whose tokens see each other, and each is computed once."""
    engine = Engine(make_request(files, compute="native"))
    assert [len(engine.ask(talk)) for talk in TALKS] == [COUNT] * len(TALKS)
    assert engine.model.session._tower.computed == 2
    assert engine.model.session.limits.whole_pictures == (files.kind == "gemma3")
    engine.close()


def test_a_file_of_an_older_converter_is_read_as_a_new_one(tmp_path: Path, files: Files) -> None:
    """What goes up and down in its blocks has the other's name there; its shapes tell."""
    write_projector(files.network, tmp_path / "older.gguf", swapped=True)
    logits = []
    for path in (files.projector, tmp_path / "older.gguf"):
        model = load(files, compute="exact", max_step_tokens="128", projector=str(path))
        logits.append(look(model, at=3))
        model.session.close()
    np.testing.assert_array_equal(*logits)


def test_weights_that_overflow_are_told_of(tmp_path: Path, files: Files) -> None:
    """Vectors that finite weights make infinite end the task with the projector's name, and the next one goes on."""
    write_projector(files.network, tmp_path / "large.gguf", scaled={"v.post_ln.weight": 3e38})
    engine = Engine(make_request(files, compute="exact", projector=str(tmp_path / "large.gguf")))
    for _ in range(2):
        with pytest.raises(InferdError, match=r"large\.gguf: gives vectors of a picture that are not finite numbers"):
            engine.ask(TALKS[0])
    assert engine.ask(["no picture"]) == files.answer(["no picture"])
    engine.close()


def test_a_projector_of_another_kind_is_told_which_it_is(tmp_path: Path, files: Files) -> None:
    """One of Gemma 3 is for its decoder alone, and one of Qwen2.5-VL as well."""
    with files_of("idefics3", tmp_path) as other, pytest.raises(LoadError) as caught:
        CpuBackend().measure(make_request(other, projector=str(files.projector)))
    needed = {"gemma3": "gemma3", "qwen2_5_vl": "qwen2vl"}[files.kind]
    assert f"for models of architecture '{needed}', and" in str(caught.value)
    assert "is of 'llama': it is the projector of another model" in str(caught.value)


WRONG: dict[str, list[tuple[dict[str, Any], str]]] = {
    "gemma3": [
        ({"without": "mm.soft_emb_norm.weight"}, "tensor 'mm.soft_emb_norm.weight' of shape [32] is missing"),
        ({"more": {"clip.vision.n_wa_pattern": 2}}, "'clip.vision.n_wa_pattern' is 2, which is not supported"),
    ],
    "qwen2_5_vl": [
        ({"without": "v.patch_embd.weight.1"}, "tensor 'v.patch_embd.weight.1' of shape [32, 3, 4, 4] is missing"),
        ({"more": {"clip.vision.window_size": 7}}, "'clip.vision.window_size' is 7, less than 2 patches of 4"),
        ({"more": {"clip.vision.wa_layers": 7}}, "'clip.vision.wa_layers' is 7, which is not supported"),
    ],
}


def test_a_wrong_projector_of_each_kind_is_told_what_it_is(tmp_path: Path, files: Files) -> None:
    """What it lacks, and what it says that is not supported, is named before anything is loaded."""
    for number, (file, told) in enumerate(WRONG[files.kind]):
        path = tmp_path / f"{number}.gguf"
        write_projector(files.network, path, **file)
        with pytest.raises(LoadError) as caught:
            CpuBackend().measure(make_request(files, projector=str(path)))
        assert told in str(caught.value)


@of_grids
def test_a_decoder_without_sections_is_refused(tmp_path: Path, files: Files) -> None:
    """Positions in pictures go by what a file of Qwen2.5-VL says of its pairs; without it they would be wrong."""
    write_decoder(files.network, files.folder, tmp_path / "tiny.gguf", without="rope.dimension_sections")
    bare = Files(tmp_path, files.network, files.kind)
    with pytest.raises(LoadError, match=r"'qwen2vl\.rope\.dimension_sections' is missing"):
        CpuBackend().measure(make_request(bare, projector=str(files.projector)))


@needs_library
@of_grids
def test_a_file_that_says_no_largest_picture_has_the_setting_say_it(tmp_path: Path, files: Files) -> None:
    """Pictures are then made so small that they have as many tokens as are allowed; blocks of others are not theirs."""
    write_projector(files.network, tmp_path / "bare.gguf", without="image_max_pixels")
    for projector, refused in ((files.projector, True), (tmp_path / "bare.gguf", False)):
        model = load(files, compute="native", picture_tokens="9", projector=str(projector))
        assert ("picture_tokens" in model.session.kv_layout.sizes) == refused
        if refused:
            with pytest.raises(ValueError, match="allows 9: send a smaller one"):
                model.pictures.outline(60, 44)
        else:
            outline = model.pictures.outline(60, 44)
            assert (outline.grid, outline.tokens) == ((3, 2), 6)
        model.session.close()


def test_a_tower_tells_that_it_gets_on_natively(files: Files) -> None:
    """With each block of it, so that nobody takes a worker for one that hangs, in fp32 and in the library alike."""
    for compute in ("exact", *(() if find_missing("auto") else ("native",))):
        model = load(files, compute=compute)
        told: list[int] = []
        values = model.pictures.read(np.zeros((20, 20, 3), np.uint8))
        outline = model.pictures.outline(20, 20)
        picture = Picture(key=b"one", outline=outline, values=lambda values=values: values)  # type: ignore[misc]
        model.session._tower.vectors(picture, 0, outline.tokens, lambda told=told: told.append(1))
        assert len(told) == 2
        model.session.close()
