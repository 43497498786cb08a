"""Blocks of layers with a window in the engine: kept while they are seen, and found as long as they are there."""

from pathlib import Path

from beats import Engine, Task

from inferd.engine.token.limits import EngineLimits
from inferd.plugin import LoadedModel, LoadRequest, least_window_blocks
from inferd.sampling import Sampling
from inferd.testing.fake import FakeBackend
from inferd.testing.kernel import write_fake_model

BLOCK = 4
LONG = tuple(97 + place % 7 for place in range(60))


def load(folder: Path, *, window: int, rows: int = 2) -> LoadedModel:
    """A fake model with the smallest pool for windows; it fails where one has not what is seen."""
    blocks = least_window_blocks(window_tokens=window, block_tokens=BLOCK, sequences=rows, step_tokens=16)
    sizes = {"block_tokens": BLOCK, "blocks": 200, "max_sequences": rows, "max_step_tokens": 16}
    path = write_fake_model(folder, **sizes, window_tokens=window, window_blocks=blocks)
    return FakeBackend().load(LoadRequest(path=path, device="fake:0", capacity_bytes=1 << 30), lambda _: None)


def run(engine: Engine, handle: int, *prompt: int, n: int = 1, prefix_cache: bool = True) -> list[int]:
    sampling = Sampling(temperature=0, max_tokens=8, ignore_eos=True, n=n)
    engine.submit(handle, Task(prompt=prompt, sampling=sampling, prefix_cache=prefix_cache))
    engine.finish()
    assert engine.ended[handle].error is None
    return engine.outputs[handle, 0]


def test_a_prefix_is_found_with_what_is_seen_of_it(tmp_path: Path) -> None:
    """A text that goes on from another's begins behind it, though only the last blocks of its windows are kept."""
    engine = Engine(load(tmp_path, window=10))
    run(engine, 0, *LONG)
    run(engine, 1, *LONG, 120, 121)
    assert engine.cached[1] == len(LONG)


def test_a_prefix_whose_window_is_gone_is_computed_again(tmp_path: Path) -> None:
    """Where others have taken the blocks that its next token sees, a text is read anew, and goes on as it would."""
    engine = Engine(load(tmp_path, window=10))
    run(engine, 0, *LONG)
    run(engine, 1, *reversed(LONG), 99, *LONG[:20])  # through all blocks of windows; there are far more of the others
    output = run(engine, 2, *LONG, 120, 121)
    assert engine.cached[2] < len(LONG)
    alone = Engine(load(tmp_path, window=10))
    assert run(alone, 0, *LONG, 120, 121) == output


def test_samples_share_a_prompt(tmp_path: Path) -> None:
    """Samples take the rest of their prompt over from the first one, in both pools."""
    engine = Engine(load(tmp_path, window=10, rows=4))
    run(engine, 0, *LONG[:50], n=4)
    outputs = [engine.outputs[0, sample] for sample in range(4)]
    assert outputs == [outputs[0]] * 4
    assert sum(len(step.batch.token_ids) for step in engine.steps) < 2 * 50


def test_guesses_leave_no_window_full(tmp_path: Path) -> None:
    """A sequence that guessed right through several blocks gives back those out of its window in time."""
    sizes = {"block_tokens": 3, "max_sequences": 1, "max_step_tokens": 5}
    blocks = least_window_blocks(window_tokens=1, block_tokens=3, sequences=1, step_tokens=5)
    path = write_fake_model(tmp_path, **sizes, blocks=40, window_tokens=1, window_blocks=blocks)
    model = FakeBackend().load(LoadRequest(path=path, device="fake:0", capacity_bytes=1 << 30), lambda _: None)
    for length in range(2, 20):
        engine = Engine(model, EngineLimits(draft_tokens=5))  # it holds each step's windows against their bound
        sampling = Sampling(temperature=0, max_tokens=16, ignore_eos=True)
        engine.submit(0, Task(prompt=(97, 98) * length, sampling=sampling, prefix_cache=False))
        engine.finish()
        assert len(engine.outputs[0, 0]) == 16


def test_what_is_not_to_be_found_later_is_not(tmp_path: Path) -> None:
    """Without the prefix cache nothing of a text stays to be found, in no pool."""
    engine = Engine(load(tmp_path, window=10))
    run(engine, 0, *LONG, prefix_cache=False)
    assert engine.places.windows is not None
    assert engine.places.windows.pool.cached == engine.places.pool.cached == 0
