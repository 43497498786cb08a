"""Conversations that are kept: what a model is given of them, by a model and a place to keep them that a test plays."""

import json
from collections.abc import Iterator
from typing import Any

import pytest

from inferd.plugin.asking import AskError, offer_asking
from inferd_language.dialogue import Said, converse, dialogue_add, dialogue_forget, dialogue_list, dialogue_show
from inferd_language.memory import MOST_CHARACTERS, Memory, Turn


class Kept:
    """Keeps what functions remember, and plays a model that answers with how many messages it was given."""

    def __init__(self) -> None:
        self.memos: dict[str, tuple[int, str]] = {}
        self.given: list[dict[str, Any]] = []
        self.own = False
        self.parameters = 135_000_000

    def answer(self, asked: list[dict[str, Any]]) -> list[dict[str, Any]]:
        return [self._one(each) for each in asked]

    def _one(self, asked: dict[str, Any]) -> dict[str, Any]:  # noqa: PLR0911 - a table: one row for each kind
        match asked["do"]:
            case "recall":
                version, kept = self.memos.get(asked["name"], (0, "null"))
                return {"version": version, "kept": kept, "own": self.own}
            case "remember":
                version = self.memos.get(asked["name"], (0, ""))[0]
                if version != asked["after"]:
                    return {"error": {"reason": "REQUEST_CONFLICT", "message": "other", "metadata": {}}}
                self.memos[asked["name"]] = version + 1, asked["kept"]
                return {"version": version + 1}
            case "forget":
                return {"version": int(self.memos.pop(asked["name"], None) is not None)}
            case "memos":
                return {"names": sorted(self.memos)}
            case "count":
                letters = asked["task"]["model"] == "letters"
                counts = [len(each if letters else each.split()) for each in asked["texts"]]
                return {"counts": counts, "context_tokens": 2000, "parameters": self.parameters}
            case "score":
                known = "Oslo" if "Oslo" in asked["task"]["prompt"].partition("Question")[0] else ""
                return {"logprobs": [0.0 if known and known in each else -3.0 for each in asked["endings"]]}
        self.given = asked["task"]["chat"]["messages"]
        return {"text": f"{len(self.given)} messages", "finish": "end"}


@pytest.fixture
def kept() -> Iterator[Kept]:
    """A place to keep things, asked by the functions that the test calls."""
    made = Kept()
    offer_asking(made.answer)
    yield made
    offer_asking(None)


def long_talk(session: str, *, fact: str = "My sister lives in Oslo.") -> None:
    """Two hundred turns, of which the third states a fact."""
    said = [
        Said(role="user", content=fact if n == 3 else f"Word {n} of many words about the weather.")
        for n in range(1, 200)
    ]
    dialogue_add(
        session, [each for one in said for each in (one, Said(role="assistant", content=f"I see, {one.content[:8]}"))]
    )


def test_a_conversation_goes_on(kept: Kept) -> None:
    """Each turn is given the ones before, is kept, and the conversation can be read, listed and forgotten."""
    assert converse(session="a", message="Hello there.", model="m").reply == "1 messages"
    second = converse(session="a", message="And again.", model="m", system="Be kind.")
    assert (second.reply, second.turn, second.in_context) == ("4 messages", 2, 3)
    assert kept.given[0] == {"role": "system", "content": "Be kind."}
    assert [each.content for each in dialogue_show("a").messages] == [
        "Hello there.",
        "1 messages",
        "And again.",
        "4 messages",
    ]
    assert dialogue_list() == ["a"]
    assert dialogue_forget("a")
    assert not dialogue_forget("a")
    with pytest.raises(ValueError, match="no conversation 'a'"):
        dialogue_show("a")


def test_what_no_longer_fits_is_told_again_where_it_is_asked_for(kept: Kept) -> None:
    """Of two hundred turns in a short context the line is told again that a question is about; else the last are."""
    long_talk("a")
    found = converse(session="a", message="Where does my sister live?", model="m", context_tokens=800, most_tokens=16)
    assert found.recalled == ["My sister lives in Oslo."]
    assert found.summarised > 100
    assert "My sister lives in Oslo." in kept.given[-1]["content"]
    long_talk("b")
    cut = converse(session="b", message="Where does my sister live?", model="m", context_tokens=800, memory="none")
    assert cut.recalled == []
    assert cut.in_context > 20
    assert not any("Oslo" in each["content"] for each in kept.given)
    kept.parameters = 7_000_000_000
    long_talk("c")
    large = converse(session="c", message="Where does my sister live?", model="m", context_tokens=800, most_tokens=16)
    assert large.in_context > 10
    assert kept.given[0]["content"] == "What was said before, in short: 1 messages"


@pytest.mark.usefixtures("kept")
def test_of_some_answers_that_is_given_which_was_said() -> None:
    """With a choice the text is given that what was said before makes likelier."""
    long_talk("a")
    asked = {"session": "a", "message": "Where does my sister live?", "model": "m", "context_tokens": 800}
    assert converse(**asked, choice=["Rome", "Oslo", "Bern"]).reply == "Oslo"  # type: ignore[arg-type] # of several types


def test_a_turn_is_made_once(kept: Kept) -> None:
    """A call that runs again after it has kept its turn gives that again; two at once do not overwrite each other."""
    first = converse(session="a", message="Hello.", model="m")
    kept.own = True
    assert converse(session="a", message="Hello.", model="m").reply == first.reply
    assert len(dialogue_show("a").messages) == 2
    kept.own = False
    before = kept.memos["dialogue a"]
    answer = kept.answer

    def meanwhile(asked: list[dict[str, Any]]) -> list[dict[str, Any]]:
        if asked[0]["do"] == "remember":
            kept.memos["dialogue a"] = before[0] + 1, before[1]
        return answer(asked)

    offer_asking(meanwhile)
    with pytest.raises(AskError, match="other"):
        converse(session="a", message="Hello again.", model="m")


def test_a_conversation_fits_the_model_that_goes_on_with_it(kept: Kept) -> None:
    """Tokens of messages are those of the model that is given them, though another one counted its own before."""
    for number in range(40):
        converse(
            session="a", message=f"My sister number {number} lives in the town of Oslo.", model="m", most_tokens=99
        )
    assert converse(session="a", message="Where does she live?", model="letters", most_tokens=99).in_context < 80
    assert sum(len(each["content"]) for each in kept.given) <= 2000 - 99


def test_letters_beyond_ascii_are_bounded_by_what_is_kept_of_them() -> None:
    """A conversation goes on for ever in any script: it is bounded by its bytes as well."""
    memory = Memory()
    for number in range(10):
        memory.add(Turn("user", f"{number} " + "\u6811\u6728" * 9990), Turn("assistant", "\U0001f333"))
    assert len(json.dumps(memory.write(), ensure_ascii=False, separators=(",", ":")).encode()) < 256 << 10
    assert memory.turns[-2].text.startswith("9 ")
    assert len(memory.turns) > 6


def test_what_is_kept_of_a_conversation_is_bounded() -> None:
    """The oldest messages go first that state nothing; what says something of somebody stays longest."""
    memory = Memory()
    memory.add(Turn("user", "My sister lives in Oslo."), Turn("assistant", "I see."))
    for number in range(400):
        memory.add(Turn("user", f"{number} " + "word " * 200))
    assert memory.turns[0].text == "My sister lives in Oslo."
    assert memory.turns[1].text.split()[0] != "0"
    assert sum(len(each.text) for each in memory.turns) <= MOST_CHARACTERS
    assert memory.number == 401
    assert Memory.read(json.loads(json.dumps(memory.write()))) == memory


@pytest.mark.usefixtures("kept")
def test_too_little_room_is_refused() -> None:
    """A message that leaves no room for the conversation is refused with how much there is."""
    with pytest.raises(ValueError, match=r"leave -?[0-9]+ tokens of the context"):
        converse(session="a", message="word " * 300, model="m", context_tokens=400, most_tokens=100)
