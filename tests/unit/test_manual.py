"""The manual and completions: made from the commands, with each of them in it."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from inferd.cli import manual
from inferd.cli.completion import Shell

PAGES = manual.pages()
INFERD = [sys.executable, "-m", "inferd"]


def test_each_command_and_option_is_on_its_page() -> None:
    """Every verb has a page, or a part of its noun's with all that may be given to it; the first page names all."""
    root = manual.program()
    assert set(PAGES) == {"inferd.1", *(f"inferd-{each.path[-1]}.1" for each in root.below)}
    for verb in list(root.all())[1:]:
        page = PAGES[f"inferd-{verb.path[1]}.1"].replace("\\-", "-")
        assert verb.name in page
        for word in verb.words:
            for name in word.names if word.is_option else ():
                assert f"\\fB{name}\\fR" in page, f"{verb.name} {name}"
        if len(verb.path) == 2:
            assert verb.name in PAGES["inferd.1"].replace("\\-", "-")
        assert verb.name in manual.document()


def test_texts_are_no_commands_to_roff() -> None:
    """A line of a page that begins with a dot is one of ours, whatever helps say."""
    ours = re.compile(r"\.(TH|SH|SS|TP)\b")
    for name, page in PAGES.items():
        for line in page.splitlines():
            assert not line.startswith("'"), name
            assert not line.startswith(".") or ours.match(line), line


@pytest.mark.skipif(not shutil.which("man"), reason="man is not here: pages are not formatted")
def test_man_takes_the_pages(tmp_path: Path) -> None:
    """The longest page is formatted without a warning."""
    manual.write(tmp_path)
    longest = max((tmp_path / "man/man1").iterdir(), key=lambda file: file.stat().st_size)
    command = [shutil.which("man") or "", "--warnings", "-E", "UTF-8", "-P", "cat", "-l", str(longest)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env={**os.environ, "MANWIDTH": "100"})
    assert done.stderr == ""
    assert "SYNOPSIS" in done.stdout


def test_a_shell_is_told_what_may_come_next() -> None:
    """What bash asks is answered by nouns, verbs, options and what an option may be."""

    def answers(words: str) -> set[str]:
        place = str(len(words.split(" ")) - 1)
        asked = {"COMP_WORDS": words, "COMP_CWORD": place, "_INFERD_COMPLETE": "complete_bash"}
        done = subprocess.run(INFERD, env={**os.environ, **asked}, capture_output=True, text=True, check=False)
        return set(done.stdout.split())

    assert {"evaluate", "evaluations"} <= answers("inferd eva")
    assert "compare" in answers("inferd evaluations co")
    assert "--watch" in answers("inferd tasks --w")
    assert {"queued", "running"} <= answers("inferd tasks --state ")


@pytest.mark.parametrize("shell", list(Shell))
def test_each_shell_reads_its_script(shell: Shell, tmp_path: Path) -> None:
    """What is printed is what a shell takes, where it is installed; as JSON it is the same."""
    text = subprocess.run([*INFERD, "completion", shell.value], capture_output=True, text=True, check=True).stdout
    told = subprocess.run([*INFERD, "completion", shell.value, "-o", "json"], capture_output=True, check=True).stdout
    assert json.loads(told) == {"shell": shell.value, "script": text.removesuffix("\n")}
    assert "_INFERD_COMPLETE=complete_" in text
    program = shutil.which(shell.value)
    if program is None:
        return
    (script := tmp_path / "script").write_text(text)
    subprocess.run([program, "-n", str(script)], check=True)
