"""Functions that ask language models, by models that a test plays: what they ask, and what they make of it."""

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from inferd.engine.function.offered import collect
from inferd.plugin.asking import AskError, offer_asking
from inferd_language.choices import classify, sentiment
from inferd_language.extraction import extract
from inferd_language.moderation import moderate
from inferd_language.ranking import rank
from inferd_language.recommending import Taken, recommend
from inferd_language.summaries import summarise
from inferd_language.translation import translate

LARGE, SMALL = 7_000_000_000, 135_000_000
NEWS = (
    "The minister resigned on Monday. Critics of the minister had asked for that. The weather was fine. "
    "The minister said that he was tired of politics, and that critics were right."
)


class Played:
    """A model whose answers are made by a function of what is asked; counts tokens as words."""

    def __init__(self) -> None:
        self.asked: list[dict[str, Any]] = []
        self.parameters = LARGE
        self.write: Callable[[str], str] = lambda _: "said"
        self.likes: Callable[[str, str], float] = lambda *_: 0.0
        self.vector: Callable[[str], list[float]] = lambda _: [1.0]

    def answer(self, asked: list[dict[str, Any]]) -> list[dict[str, Any]]:
        self.asked += asked
        return [self._one(each) for each in asked]

    def _one(self, asked: dict[str, Any]) -> dict[str, Any]:
        task = asked["task"]
        if task["model"] == "none":
            return {"error": {"reason": "MODEL_NOT_FOUND", "message": "no model 'none'", "metadata": {}}}
        given = task.get("prompt") or " ".join(each["content"] for each in task.get("chat", {}).get("messages", ()))
        match asked["do"]:
            case "count":
                counts = [len(each.split()) for each in asked["texts"]]
                return {"counts": counts, "context_tokens": 600, "parameters": self.parameters}
            case "score":
                return {"logprobs": [self.likes(given, ending) for ending in asked["endings"]]}
            case "embed":
                return {"embedding": self.vector(given)}
            case "label":
                return {"labels": {"toxic": 0.9, "fine": None}}
        return {"text": self.write(given), "finish": "end"}


@pytest.fixture
def played() -> Iterator[Played]:
    """A model, asked by the functions that the test calls."""
    made = Played()
    offer_asking(made.answer)
    yield made
    offer_asking(None)


def test_all_are_offered_with_schemas() -> None:
    """Each function has schemas of its input and output, and says whether it asks models."""
    offered = {name: each for (name, _), each in collect("inferd_language.plugin").items()}
    expected = {"classify", "extract", "moderate", "rank", "recommend", "sentiment", "summarise", "translate"}
    assert expected <= {*offered}
    for name, each in offered.items():
        assert json.loads(each.shape.input_schema)["type"] == "object"
        assert json.loads(each.shape.output_schema)["type"] in ("object", "array", "integer", "boolean"), name
        assert each.mark.description


def test_a_class_is_that_which_the_text_makes_likelier(played: Played) -> None:
    """What a model likes whatever it reads is taken off; the scores are 1 together."""
    played.likes = lambda given, ending: (
        {" sports": -5.0, " tech": -1.0}[ending] + (4.5 if "goal" in given and "sports" in ending else 0)
    )
    found = classify("A late goal", ["tech", "sports"], "m")
    assert found.label == "sports"
    assert sum(found.scores.values()) == pytest.approx(1)
    assert classify("x", ["tech", "sports"], "m").margin == 0
    for wrong in (
        lambda: classify(" ", ["a", "b"], "m"),
        lambda: classify("x", ["a", "a"], "m"),
    ):
        with pytest.raises(ValueError, match=r"two labels|nothing to classify"):
            wrong()


def test_a_mood_is_neutral_where_neither_is_clear(played: Played) -> None:
    """The score is what speaks for good words less what speaks for bad ones."""
    played.likes = lambda given, ending: 3.0 if ("fun" in given) == (ending in (" good", " great")) else 0.0
    assert sentiment("It was fun", "m").label == "positive"
    assert sentiment("It was dull", "m", neutral_below=0.5).label == "neutral"
    with pytest.raises(ValueError, match="no mood"):
        sentiment(" ", "m")


def test_values_are_asked_for_one_by_one(played: Played) -> None:
    """Texts are words of the text by a grammar, all else JSON of its schema; those that stand in the text are named."""
    played.write = lambda given: (
        "1999 " if given.endswith("year: ") else "2030" if given.endswith("until: ") else " Ann Lee"
    )
    schema = {"properties": {"name": {"type": "string"}, "year": {"type": "integer"}, "until": {"type": "integer"}}}
    examples = [{"text": "By Bo, 1990", "value": {"name": "Bo", "year": 1990}}]
    found = extract(
        text="Ann Lee, 1999", schema=schema, model="m", examples=[type("E", (), each)() for each in examples]
    )  # type: ignore[misc] # as pydantic reads it
    assert found.value == {"name": "Ann Lee", "year": 1999, "until": 2030}
    assert found.found == ["name", "year"]
    grammars = [each["task"]["sampling"]["grammar"] for each in played.asked]
    assert "substring_words" in grammars[0]["lark"]
    assert json.loads(grammars[1]["json_schema"]) == {"type": "integer"}
    assert "Text: By Bo, 1990\nname: Bo" in played.asked[0]["task"]["prompt"]
    with pytest.raises(ValueError, match="no schema of an object"):
        extract(text="x", schema={"type": "array"}, model="m")
    with pytest.raises(AskError, match="no model"):
        extract(text="x", schema=schema, model="none")


def test_a_long_text_is_summarised_part_by_part(played: Played) -> None:
    """Parts fit into the context; what came of them is summarised, until one is left. Small models pick sentences."""
    played.write = lambda given: f"short {len(given.split()) % 7}"
    found = summarise(
        text=". ".join(f"Sentence {n} has words in it" for n in range(300)) + ".", model="m", most_tokens=32
    )
    assert (found.method, found.capable, found.summary[:5]) == ("written", True, "short")
    assert found.parts > 2
    written = [each for each in played.asked if each["do"] == "write"]
    assert len(written) == found.parts + 1
    assert all(len(each["task"]["chat"]["messages"][0]["content"].split()) < 600 for each in written)
    played.parameters = SMALL
    picked = summarise(text=NEWS, model="m", most_tokens=16)
    assert (picked.method, picked.capable) == ("picked", False)
    assert "135 million" in picked.needs
    assert "1 billion" in picked.needs
    assert picked.summary in NEWS
    assert "weather" not in picked.summary


def test_a_model_that_is_too_small_does_not_translate(played: Played) -> None:
    """It is no error: the answer says which size is needed; with force it tries all the same."""
    assert translate(text="Good day.", into="French", model="m").translation == "said"
    played.parameters = SMALL
    found = translate(text="Good day.", into="French", model="m")
    assert (found.translation, found.capable) == ("", False)
    assert "3 billion" in found.needs
    assert translate(text="Good day.", into="French", model="m", force=True).translation == "said"


@pytest.mark.usefixtures("played")
def test_a_text_is_moderated_by_rules_and_models() -> None:
    """Words are found however they are written; a classifier and a language model say how likely it is."""
    found = moderate(text="you BL0CKHEÁD", words=["blockhead"], patterns=["y[aou]{1,4}"])
    assert [(each.start, each.end, each.rule) for each in found.matches] == [
        (0, 3, "y[aou]{1,4}"),
        (4, 13, "blockhead"),
    ]
    assert not found.allowed
    assert moderate(text="fine", words=["blockhead"]).allowed
    assert moderate(text="x", model="m", labels=["toxic"]).label == "toxic"
    assert not moderate(text="x", model="m", labels=["toxic"]).allowed
    with pytest.raises(ValueError, match="nothing to go by"):
        moderate(text="x")
    with pytest.raises(ValueError, match="words"):
        moderate(text="x", words=[""])


def test_texts_are_ranked_by_words_vectors_and_pairs(played: Played) -> None:
    """The best comes first, whichever way."""
    texts = ["cats sleep all day", "the stock market fell", "dogs bark at cats"]
    assert rank("market falls", texts)[0].index == 1
    played.vector = lambda given: [1.0, 0.0] if "dog" in given else [0.0, 1.0]
    assert rank("dog", texts, by="vectors", model="m", limit=1)[0].index == 2
    played.vector = lambda given: [float("stock" in given)]
    assert rank("money", texts, by="pairs", model="m")[0].index == 1
    with pytest.raises(ValueError, match="words needs none"):
        rank("x", texts, model="m")


@pytest.mark.parametrize("by", ["factors", "neighbours", "content"])
def test_what_somebody_may_like_is_like_what_they_took(by: Any) -> None:
    """Of two items that nobody hid, the one comes first that the same people took, or whose text is like it."""
    taken = [Taken(user=u, item=i) for u, i in ("ax", "ay", "bx", "by", "bz", "cw", "cv", "dw", "dv", "ew")]
    items = {"x": "a book of cats", "y": "cats at home", "z": "cats and books", "w": "stocks", "v": "money"}
    found = recommend(user="a", taken=taken, by=by, items=items if by == "content" else None)
    assert found[0].item == "z"
    assert not {"x", "y"} & {each.item for each in found}
    assert recommend(user="new", taken=taken, by=by, items=items)[0].item == "w"  # which most took
