"""Why did the model answer so? SmolLM2 is asked, and each word of the question told by what it did for the answer.

inferd pull smollm2 && inferd serve &
python examples/explanations/why.py "The capital of France is a big city. Which one is it?" [INSTEAD]

With INSTEAD, an answer that was not given: why the one and not the other. A page is written to why.html.
"""

import sys
from pathlib import Path

from inferd_client import Client, InferdError
from inferd_client.explanation_pages import explanation_page

MODEL, PAGE = "smollm2", Path("why.html")


def main() -> None:
    """A line for each word, what it cost, and the page."""
    question, *instead = sys.argv[1:] or ["The capital of France is a big city. Which one is it?"]
    messages = [{"role": "user", "content": question}]
    options = {"method": "shapley", "samples": 8, "against": instead[0] if instead else None}
    with Client() as client:
        plan = client.plan_explanation(MODEL, messages, **options)
        print(f"{plan.cost.computed_tokens} of {plan.cost.tokens} tokens to compute at most, the answer being unknown")
        found = client.explain(MODEL, messages, **options)
    print(f"{found.answer!r}" + (f" and not {found.against!r}" if instead else ""))
    for each in found.spans:
        score = each.scores[0]
        print(f"{score.score:+8.3f} ± {score.standard_error:.3f} nats  {each.text.strip()}")
    better = sum(found.faithfulness.ranked.deletion_area < each.deletion_area for each in found.faithfulness.random)
    print(f"better than {better} of {len(found.faithfulness.random)} random orders by deletion")
    print(f"{found.cost.computed_tokens} tokens computed, {found.planned.computed_tokens} stated; see {PAGE}")
    PAGE.write_text(explanation_page(found), encoding="utf-8")


if __name__ == "__main__":
    try:
        main()
    except InferdError as error:
        sys.exit(f"{error.reason}: {error}")
