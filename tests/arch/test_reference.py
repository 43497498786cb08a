"""The pages of docs/reference are what the code says, and every document is found."""

import re

from reference import FOLDER, differing
from stubs import ROOT


def test_the_reference_is_made_from_the_code() -> None:
    """Each page is what `make docs` writes now."""
    assert list(differing()) == [], "run: make docs"


def test_every_document_is_found() -> None:
    """The first page of the documents, and what is beside each page of the built ones, lead to all of them."""
    index, pages = ((ROOT / name).read_text() for name in ("docs/index.md", "mkdocs.yml"))
    names = {str(path.relative_to(FOLDER.parent)) for path in FOLDER.parent.rglob("*.md")} - {"index.md"}
    assert names - set(re.findall(r"\]\(([^)#]+)", index)) == set()
    assert names - set(re.findall(r"[\w/-]+\.md", pages)) == set()
