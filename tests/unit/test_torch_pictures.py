"""Conversations with pictures, through engine and torch backend, against processors and `generate` of transformers."""

from collections.abc import Iterator
from typing import Any

import pytest

pytest.importorskip("torch", reason="torch is not installed: pip install 'inferd[torch]'")
pytest.importorskip("PIL", reason="Pillow is not installed: pip install 'inferd[files]'")

import tiny_pictures as tiny
import torch
from tiny_engine import TinyEngine

from inferd.core.vigil import Doing
from inferd.engine.activity import Activity
from inferd.engine.work import ChatInput, Message
from inferd_torch.vision.kinds import Idefics3

DEADLINE_S = 120
COUNT = 8
FIRST, SECOND = tiny.make_picture(40, 25), tiny.make_picture(20, 33, seed=1)
Content = list[str | bytes]
BEFORE = "one, two, 3:"  # so long that the first step of a prompt of Gemma would end within the picture
TALKS: list[Content] = [
    [BEFORE, FIRST, "what?"],
    [FIRST, "and", SECOND, "what is it?"],
    [SECOND, "what?"],
    ["no picture"],
]


class Engine(TinyEngine):
    def ask(self, content: Content, *, sent: list[Content] | None = None, **more: Any) -> list[int]:
        """The answer to a message, beside others that are `sent` with it."""
        return self.ask_chat(chat_of(content), sent=[chat_of(each) for each in sent or []], **more)


def chat_of(content: Content) -> ChatInput:
    files = tuple(each for each in content if isinstance(each, bytes))
    images = tuple(n for n, each in enumerate(content) if isinstance(each, bytes))
    parts = tuple(each for each in content if isinstance(each, str))
    return ChatInput((Message("user", "", parts=parts, images=images),), files=files)


def messages_of(content: Content) -> list[dict[str, Any]]:
    parts = [
        {"type": "text", "text": each} if isinstance(each, str) else {"type": "image", "image": each}
        for each in content
    ]
    return [{"role": "user", "content": parts}]


@pytest.fixture(scope="module", params=list(tiny.CLASSES))
def seen(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Engine, Any]]:
    """An engine of a kind, and what transformers answers to each of the talks."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp(request.param)
    network = tiny.write_folder(request.param, folder)
    engine = Engine(folder)
    yield engine, lambda talk: tiny.answer(request.param, network, folder, messages_of(talk), count=COUNT)
    engine.close()
    torch.set_num_threads(threads)


def test_pictures_are_seen_as_transformers_sees_them(seen: tuple[Engine, Any]) -> None:
    """Greedy tokens of each talk are transformers', each picture is computed once, and no prefix crosses pictures."""
    engine, answer = seen
    tower = engine.model.session._tower
    expected = [answer(talk) for talk in TALKS]
    assert len({tuple(each) for each in expected}) == len(TALKS)
    assert [engine.ask(talk) for talk in TALKS] == expected
    assert tower.computed == 2
    again = engine.ask(TALKS[0], sent=TALKS[1:])
    assert (again, tower.computed) == (expected[0], 2)
    usage = engine.ended[5].usage
    assert usage.cached_tokens >= usage.prompt_tokens - 2 * 4
    swapped: Content = [SECOND if each is FIRST else each for each in TALKS[0]]
    assert engine.ask(swapped) == answer(swapped)
    assert tower.computed == 2


def test_a_tower_tells_that_it_gets_on(seen: tuple[Engine, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """A step is a new turn with each layer of the tower, four tiles at a time: nobody takes it for one that hangs."""
    engine, _ = seen
    told: list[Doing] = []
    monkeypatch.setattr(Activity, "advance", lambda self: told.append(self.doing))
    engine.ask([tiny.make_picture(44, 28, seed=7), "what?"])
    kind, layers = engine.model.session._tower._kind, 2
    groups = 2 if isinstance(kind, Idefics3) else 1  # 3 x 2 tiles and the whole picture
    assert told == [Doing.STEP] * (2 + groups * layers)
    told.clear()
    engine.ask(["no picture"])
    assert not told


def test_another_tenant_computes_a_picture_anew(seen: tuple[Engine, Any]) -> None:
    """What one tenant has shown is not found by another, whose answer is the same: its time tells nothing."""
    engine, _ = seen
    mine = engine.ask(TALKS[0])
    before = engine.model.session._tower.computed
    assert engine.ask(TALKS[0], salt=b"another") == mine
    assert engine.model.session._tower.computed == before + 1


def test_a_step_tells_which_pictures_it_computed_and_which_were_kept(
    seen: tuple[Engine, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a tower computed and what it had kept is told with the steps, for whoever counts them."""
    engine, _ = seen
    told: list[tuple[int, int]] = []
    step = engine.model.session.step

    def watch(batch: Any) -> Any:
        result = step(batch)
        told.append((result.pictures_computed, result.pictures_kept))
        return result

    monkeypatch.setattr(engine.model.session, "step", watch)
    engine.ask(TALKS[0], salt=b"first")
    assert [sum(column) for column in zip(*told, strict=True)] == [1, 0]
    told.clear()
    engine.ask(["elsewhere", FIRST, "what?"], salt=b"first")
    assert [sum(column) for column in zip(*told, strict=True)] == [0, 1]
