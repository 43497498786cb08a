"""Texts that come with scikit-learn: kept, mended in batches, freed of what stands twice, split, and exported.

    pip install "inferd[data,functions]" scikit-learn
    inferd serve &
    python examples/datasets/descriptions.py

Run it again while it runs, or after it was interrupted: what is done is not done again.
"""

from importlib.resources import as_file, files

from inferd_client import Client, data


def main() -> None:
    """What the descriptions of scikit-learn's data say, line by line."""
    with as_file(files("sklearn.datasets") / "descr") as folder, Client() as client:
        lines = data.add(client, "descriptions", *sorted(folder.glob("*.rst")), form="text")
        print(f"{lines.name}@{lines.version}: {lines.rows} lines, {lines.digest[:19]}")

        mended = data.map_column(client, "descriptions", "clean", column="text", into="mended", result="text")
        once = data.deduplicate(client, "mended", column="text", into="once")
        print(f"{once.rows} of them differ; made by {once.lineage.operation} of {once.lineage.sources[0].name}")
        given = {"among": ["de", "en", "fr"]}
        told = data.map_column(
            client, "once", "detect_language", column="text", into="told", given=given, skip_failed=True
        )
        print(f"{mended.dataset.rows} mended, {told.dataset.rows} looked at, {told.failed} without a language")

        shares = data.split(client, "told", {"train": 0.9, "test": 0.1}, seed=7)
        for name, share in shares.items():
            print(f"{name}: {share.rows} rows, {share.digest[:19]}")
        for row in data.rows(client, "told.test", most=3):
            print(row["detect_language"]["language"], row["text"])
        print(data.export(client, "told.train", "train.parquet"), "rows in train.parquet")


if __name__ == "__main__":
    main()
