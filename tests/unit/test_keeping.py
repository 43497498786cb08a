"""The prefix cache of an engine that ends, and one that begins with it."""

from dataclasses import dataclass, field
from pathlib import Path

import pytest
from beats import Engine, Task, greedy, make_engine

from inferd.engine.token.keeping import Kept
from inferd.shared import Memory

KEY, OTHER = b"k" * 32, b"o" * 32
WORDS = tuple(97 + n % 23 for n in range(256))
PROMPT = greedy((*WORDS, 97, 98), max_tokens=5, salt=b"t")
PLENTY = 1 << 30


@dataclass
class Told:
    """What was told of taking in."""

    kept: list[Kept] = field(default_factory=list)


def keep(engine: Engine, *, most_bytes: int = PLENTY) -> Kept:
    """What is kept of an engine that has ended its tasks."""
    return engine.loop.keeping.export(KEY, most_bytes=most_bytes, most_s=60.0)


def adopt(engine: Engine, memory: Memory | None, key: bytes = KEY) -> Kept:
    """What an engine finds again."""
    assert memory is not None
    told: list[Kept] = []
    engine.loop.see_to_prefixes(lambda keeping: keeping.take_in(memory, key, told.append))
    while engine.step():
        pass
    (kept,) = told
    return kept


def ran(tmp_path: Path, *tasks: Task, **model: int) -> Engine:
    """An engine that has run tasks, one after the other."""
    engine = make_engine(tmp_path, context_tokens=280, **model)
    for handle, task in enumerate(tasks, start=1):
        engine.submit(handle, task)
        engine.finish()
    return engine


@pytest.mark.parametrize("windows", [{}, {"window_tokens": 40, "window_blocks": 400}])
def test_a_prefix_is_found_again_by_its_tenant(tmp_path: Path, windows: dict[str, int]) -> None:
    """In another session 2 of 258 tokens are computed, and the same tokens come; for another tenant all are."""
    before = ran(tmp_path, PROMPT, **windows)
    kept = keep(before)
    after = ran(tmp_path, **windows)
    assert adopt(after, kept.memory) == Kept(tokens=kept.tokens)
    for handle, salt in ((1, b"t"), (2, b"u")):
        after.submit(handle, greedy(PROMPT.prompt, max_tokens=5, salt=salt))
        after.finish()
    assert [after.ended[handle].usage.cached_tokens for handle in (1, 2)] == [256, 0]
    assert after.outputs[1, 0] == after.outputs[2, 0] == before.outputs[1, 0]


@pytest.mark.parametrize("bound", [0, 5_000])
def test_the_beginning_is_kept_within_the_bound(tmp_path: Path, bound: int) -> None:
    """Of what was used last its first blocks are kept, as many as fit, and what is left out is told."""
    kept = keep(ran(tmp_path, greedy(WORDS[::-1], max_tokens=1), PROMPT), most_bytes=bound)
    assert kept.why_not
    if bound == 0:
        assert kept.memory is None
        return
    assert kept.memory is not None
    assert kept.memory.size_bytes <= bound
    after = ran(tmp_path)
    adopt(after, kept.memory)
    after.submit(1, PROMPT)
    after.finish()
    assert after.ended[1].usage.cached_tokens == kept.tokens > 0


def test_what_is_not_to_be_shared_is_not_kept(tmp_path: Path) -> None:
    """Nothing of a task without the prefix cache is kept, and nothing that a running task holds."""
    engine = ran(tmp_path, Task(prompt=WORDS, sampling=PROMPT.sampling, prefix_cache=False))
    assert keep(engine).memory is None
    engine.submit(2, PROMPT)
    engine.step()
    assert keep(engine).memory is None


@pytest.mark.parametrize("damage", ["key", "magic", "block", "short", "none"])
def test_what_is_not_what_was_written_is_left_out(tmp_path: Path, damage: str) -> None:
    """A memory of another key, or one that is damaged, is told of, and the prompt is computed to the same tokens."""
    before = ran(tmp_path, PROMPT)
    memory = keep(before).memory
    assert memory is not None
    data = bytearray(memory.read(0, memory.size_bytes))
    if damage == "magic":
        data[0] ^= 1
    elif damage == "block":
        data[-1] ^= 1  # of what is of least use, and is read first
    elif damage == "short":
        del data[-100:]
    elif damage == "none":
        del data[10:]
    after = ran(tmp_path)
    told = adopt(after, Memory.of(bytes(data)), OTHER if damage == "key" else KEY)
    assert told.why_not
    assert told.tokens == 0
    after.submit(1, PROMPT)
    after.finish()
    assert after.ended[1].usage.cached_tokens == 0
    assert after.outputs[1, 0] == before.outputs[1, 0]


def test_what_is_there_stays(tmp_path: Path) -> None:
    """What an engine has computed itself is not given up for what it is given, and takes no room twice."""
    kept = keep(ran(tmp_path, PROMPT))
    after = ran(tmp_path, PROMPT, blocks=18)
    cached = after.places.pool.cached
    assert adopt(after, kept.memory).tokens == 0
    assert after.places.pool.cached == cached


def test_tasks_go_on_while_it_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Beside tasks that run it is read in parts, one between two steps."""
    monkeypatch.setattr("inferd.engine.token.keeping.BESIDE_BYTES", 1)
    kept = keep(ran(tmp_path, PROMPT))
    after = make_engine(tmp_path, context_tokens=280)
    after.submit(1, greedy(WORDS[:7], max_tokens=20))
    after.step()
    told: list[Kept] = []
    assert kept.memory is not None
    memory = kept.memory
    after.loop.see_to_prefixes(lambda keeping: keeping.take_in(memory, KEY, told.append))
    after.step()
    assert after.places.pool.cached == 1
    after.finish()
    assert told == [Kept(tokens=kept.tokens)]


def test_a_failure_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A backend that raises when a block is put in or taken out loses the cache, and nothing else."""
    before = ran(tmp_path, PROMPT)
    kept = keep(before)

    def fail(*_: object) -> bytes:
        raise RuntimeError("no")

    after = ran(tmp_path)
    monkeypatch.setattr(after.model.session, "import_block", fail)
    assert "no" in adopt(after, kept.memory).why_not
    after.submit(1, PROMPT)
    after.finish()
    assert after.outputs[1, 0] == before.outputs[1, 0]
    monkeypatch.setattr(before.model.session, "export_block", fail)
    assert "no" in keep(before).why_not
