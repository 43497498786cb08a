"""A hook of mkdocs: links to files beside the documents, which are no pages, become the names of these files."""

import re
from pathlib import PurePosixPath
from typing import Any

LINK = re.compile(r"\[([^\]]*)\]\(((?!https?:|#|mailto:)[^)#\s]+)(#[^)\s]*)?\)")


def on_page_markdown(markdown: str, *, page: Any, **_: Any) -> str:
    """The text of a page with such links made so; a file outside is named from the root of the tree."""
    folder = PurePosixPath("docs", page.file.src_uri).parent

    def outside(found: re.Match[str]) -> str:
        steps: list[str] = []
        for step in (folder / found[2]).parts:
            if step == "..":
                steps.pop()
            else:
                steps.append(step)
        if steps[0] == "docs":
            return found[0]
        return found[1] if found[1].startswith("`") else f"{found[1]} (`{'/'.join(steps)}`)"

    return LINK.sub(outside, markdown)
