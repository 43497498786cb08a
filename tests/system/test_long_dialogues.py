"""Conversations of 200 turns with SmolLM2 in a context of 2,000 tokens: what was said in the third is still known."""

import logging
import os
import random
import re
from pathlib import Path

from inferd.testing.kernel import kernel_process
from inferd_client import Client

log = logging.getLogger(__name__)  # figures: pytest --log-cli-level=info
DIALOGUES = int(os.environ.get("DIALOGUES", "100"))
TURNS, FACT_TURN, CONTEXT = 200, 3, 2000
CUT_EVERY = 5  # of the dialogues as many are run with plain cutting, which reads all that fits each time
CITIES = ["Lisbon", "Oslo", "Madrid", "Vienna", "Dublin", "Prague", "Athens", "Warsaw", "Helsinki", "Brussels"]
NAMES = ["Rex", "Bella", "Max", "Luna", "Charlie", "Daisy", "Rocky", "Molly", "Buster", "Ruby"]
COLOURS = ["red", "blue", "green", "yellow", "purple", "orange", "black", "white", "brown", "pink"]
FOODS = ["pizza", "sushi", "curry", "pasta", "soup", "salad", "tacos", "steak", "bread", "cheese"]
JOBS = ["nurse", "teacher", "lawyer", "farmer", "pilot", "baker", "doctor", "plumber", "painter", "writer"]
FACTS = (
    ("By the way, my sister lives in {}.", "In which city does my sister live?", CITIES),
    ("My dog is called {}.", "What is the name of my dog?", NAMES),
    ("My favourite colour is {}.", "What is my favourite colour?", COLOURS),
    ("The food I like best is {}.", "Which food do I like best?", FOODS),
    ("My brother works as a {}.", "What does my brother work as?", JOBS),
    ("Please remember that I was born in {}.", "In which city was I born?", CITIES),
    ("My cat's name is {}.", "What is my cat's name?", NAMES),
    ("I have just painted my kitchen {}.", "Which colour did I paint my kitchen?", COLOURS),
    ("For my birthday dinner I want {}.", "What do I want for my birthday dinner?", FOODS),
    ("My neighbour is a {}.", "What is the job of my neighbour?", JOBS),
)


def sentences(folder: Path) -> list[str]:
    """Sentences of news."""
    texts = [file.read_text(encoding="latin1") for file in sorted(folder.glob("*/*.txt"))[::7]]
    found = [each for text in texts for each in re.split(r"(?<=[.])\s+", text.replace("\n", " "))]
    return [each for each in found if 30 < len(each) < 160]


def make(number: int, said: list[str]) -> tuple[list[dict[str, str]], str, list[str], str]:
    """All turns but the last of a dialogue, its question, and of which answers which is right."""
    draw = random.Random(number)
    fact, question, answers = FACTS[number % len(FACTS)]
    right, turns = draw.choice(answers), []
    for turn in range(1, TURNS):
        user = fact.format(right) if turn == FACT_TURN else draw.choice(said)
        reply = draw.choice(["I see.", "Thank you for telling me.", "That is interesting.", draw.choice(said)])
        turns += [{"role": "user", "content": user}, {"role": "assistant", "content": reply}]
    return turns, question, answers, right


def test_a_fact_is_kept_over_two_hundred_turns(tmp_path: Path, smollm2: Path, news_folder: Path) -> None:
    """Nine of ten facts of the third turn are told in the two hundredth, and far more than where turns are only cut."""
    said, right = sentences(news_folder), {"notes": [], "none": []}  # type: ignore[var-annotated] # lists of booleans
    environment = {"INFERD_FUNCTIONS__PACKAGES": '["language"]', "INFERD_PLUGIN_MODULES": '["inferd_cpu.plugin"]'}
    with kernel_process(tmp_path, environment=environment) as kernel, Client(kernel.address, timeout_s=600) as client:
        client.create_model("smollm2", str(smollm2))
        for number in range(DIALOGUES):
            turns, question, answers, wanted = make(number, said)
            for memory in ("notes", "none") if number % CUT_EVERY == 0 else ("notes",):
                session = f"{memory}-{number}"
                client.call("dialogue_add", {"session": session, "messages": turns})
                asked = {"session": session, "message": question, "model": "smollm2", "context_tokens": CONTEXT}
                reply = client.call("converse", {**asked, "most_tokens": 16, "memory": memory, "choice": answers})
                right[memory].append(reply["reply"].strip() == wanted)
                client.call("dialogue_forget", {"session": session})
    kept, cut = (sum(right[name]) / len(right[name]) for name in ("notes", "none"))
    log.info("%s", f"kept {kept:.2f} of {len(right['notes'])}; by plain cutting {cut:.2f} of {len(right['none'])}")
    assert kept >= 0.9 > cut
