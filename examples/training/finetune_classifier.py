"""A network of texts becomes a classifier: trained with torch, judged by label, compared with words alone, and asked.

    pip install 'inferd[torch]'
    inferd serve &
    python examples/training/finetune_classifier.py ENCODER rows.jsonl [FIELD=VALUE …]

ENCODER is a folder of a BERT or of another network that transformers knows, or the name of a model; each row is an
object with a `text` and a `label`. FIELD=VALUE are fields of the recipe: `tune=lora` trains matrices beside the layers
instead of all weights, `tune=head` the last layer alone, which takes the least time.
"""

import json
import sys
from pathlib import Path

from inferd_client import Client

RECIPE = {"method": "classify", "epochs": 1, "most_tokens": 128, "held": 0.2}


def train(client: Client, name: str, data: str, **options: object) -> None:
    """Train a classifier, and tell how well it finds each label in rows that were held back."""
    made = client.train(name, blob=data, replace=True, **options)
    for told in client.watch_training(made.training_id):
        print(f"\r{name}: step {told.step} of {told.steps}, loss {told.loss:.3f}, {told.left_s:.0f} s left ", end="")
    if told.HasField("error"):
        sys.exit(f"\n{told.error.message}")
    judged = told.judgements[-1]
    print(f"\r{name}: accuracy {judged.figures['accuracy']:.4f}, macro F1 {judged.figures['macro_f1']:.4f}{' ' * 30}")
    for label, found in zip(judged.labels, judged.confusion, strict=True):
        print(f"  {label.label:14} F1 {label.f1:.3f}, found as {list(found.rows)}")


def read(value: str) -> object:
    """A number where it is one, else a text."""
    return json.loads(value) if value.replace(".", "").replace("e-", "").isdecimal() else value


def main(encoder: str, file: str, *fields: str) -> None:
    """All of it."""
    rows = Path(file).read_bytes()
    recipe = RECIPE | {name: read(value) for name, _, value in (field.partition("=") for field in fields)}
    with Client() as client:
        if Path(encoder).exists():
            client.create_model("encoder", str(Path(encoder).resolve()))
            encoder = "encoder"
        data = client.put_blob(rows).digest
        train(client, "by-words", data, recipe={"method": "classify", "epochs": 2, "held": 0.2}, backend="heads")
        train(client, "by-network", data, recipe=recipe, model=encoder)
        texts = [json.loads(line)["text"] for line in rows.splitlines()[:3]]
        for name in ("by-words", "by-network"):  # both are asked alike
            found = client.infer(name, {"text": texts})
            told = zip(found["label"], found["label_score"], strict=True)
            print(name, ", ".join(f"{labels[0]} {scores[0]:.2f}" for labels, scores in told))


if __name__ == "__main__":
    main(*sys.argv[1:]) if len(sys.argv) > 2 else sys.exit(__doc__)  # noqa: PLR2004 - both
