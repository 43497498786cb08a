"""How well a model answers thirty questions, and whether it helps to ask them as a conversation.

    inferd serve &
    inferd pull smollm2
    python examples/evaluation/evaluate.py smollm2 page.html

Each question is asked twice: as a text that goes on with one of four answers, and as what a user says. How likely each
answer is decides; the second way is compared with the first, question by question, and a page tells both.
"""

import json
import sys
from pathlib import Path

from inferd_client import Client

QUESTIONS = Path(__file__).with_name("questions.jsonl")


def main(model: str, page: str) -> None:
    """Evaluate a model both ways, and write what was found."""
    lines = [json.loads(line) for line in QUESTIONS.read_text(encoding="utf-8").splitlines()]
    with Client() as client:
        ids = []
        for title, data, chat in (("as a text", lines, False), ("as a conversation", lines, True)):
            made = client.evaluate_model(model, data, kind="choice", chat=chat, title=title)
            for told in client.watch_evaluation(made.evaluation_id):
                print(f"\r{title}: {told.done_lines} of {told.lines}", end="", flush=True)
            if told.HasField("error"):
                sys.exit(f"\n{told.error.message}")
            figures = ", ".join(
                f"{each.name} {each.value:.3f} ({each.low:.3f} to {each.high:.3f})" for each in told.figures
            )
            print(f"\r{title}: {figures}")
            ids.append(made.evaluation_id)
        compared = client.compare_evaluations(ids, page=True)
    for each in compared.differences:
        print(f"{each.name}: {each.value:+.3f} ({each.low:+.3f} to {each.high:+.3f}), p {each.p_value:.3f}")
    Path(page).write_text(compared.page, encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:3])
