"""What reaches a terminal, a pipe and a closed stream, whatever a model or a kernel says."""

import json
import os
import pty
import select
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from inferd.cli.output import Format, Output, table_of
from inferd.cli.visible import VisibleStream, visible, visible_json
from inferd_api.v1.model_pb2 import Model

WAIT_S = 60
HOSTILE = "\x1b[31mred \x9b2J \x1b]52;c;cm0gLXJm\x07 \u202edetrevni\u202c \x7f\x08 tab\tline\r\nend\r"
SHOWN = r"\x1b[31mred \x9b2J \x1b]52;c;cm0gLXJm\x07 \u202edetrevni\u202c \x7f\x08 tab" "\tline\nend" r"\x0d"
OBEYED = "\x00\x07\x08\x0b\x0c\x0d\x1a\x1b\x7f\x80\x85\x90\x9b\x9c\x9d\x9f\u202a\u202e\u2066\u2069\ud800\udcff"

Run = Callable[..., "subprocess.CompletedProcess[bytes]"]


@pytest.fixture
def run(scripted: Any, tmp_path: Path) -> Run:
    """Runs a shell line with `$inferd` in it against the scripted kernel."""

    def run(line: str, **more: str) -> "subprocess.CompletedProcess[bytes]":
        environment = environment_of(scripted.address, tmp_path) | more
        shell = ["bash", "-c", line]
        return subprocess.run(
            shell, env=environment, stdin=subprocess.DEVNULL, capture_output=True, timeout=WAIT_S, check=False
        )

    return run


def environment_of(address: str, folder: Path) -> dict[str, str]:
    return {
        **os.environ,
        "inferd": f"{sys.executable} -m inferd",
        "INFERD_ADDRESS": address,
        "INFERD_CONFIG": str(folder / "none.toml"),
        "INFERD_DATA_DIR": str(folder / "data"),
        "TERM": "xterm-256color",
    }


@pytest.fixture
def on_terminal(scripted: Any, tmp_path: Path) -> Callable[..., bytes]:
    """Runs `inferd` with all streams on a terminal and gives what it drew."""

    def draw(*arguments: str) -> bytes:
        controller, terminal = pty.openpty()
        streams = {"stdin": terminal, "stdout": terminal, "stderr": terminal}
        command = [sys.executable, "-m", "inferd", *arguments]
        process = subprocess.Popen(command, env=environment_of(scripted.address, tmp_path), **streams)
        os.close(terminal)
        drawn, deadline = b"", time.monotonic() + WAIT_S
        while True:
            assert select.select([controller], [], [], deadline - time.monotonic())[0], drawn
            try:
                chunk = os.read(controller, 1 << 12)
            except OSError:  # the other side is closed
                break
            drawn += chunk
        os.close(controller)
        process.wait(WAIT_S)
        return drawn

    return draw


def assert_obeys_nothing(drawn: bytes) -> None:
    """Of what was said nothing is left that a terminal obeys; what rich draws itself is known."""
    text = drawn.decode()
    for forbidden in ("\x1b[31mred", "\x9b", "\x1b]", "\x07", "\u202e", "\x7f", "\x08"):
        assert forbidden not in text, repr(text)


@pytest.mark.parametrize("character", OBEYED)
def test_no_character_that_a_terminal_obeys_is_shown(character: str) -> None:
    """C0, DEL, C1, marks of direction and surrogates become a visible escape; JSON says the same text with them."""
    shown = visible(f"a{character}b")
    assert shown.isascii()
    assert shown.isprintable()
    assert shown.startswith("a\\")
    as_json = visible_json(json.dumps(f"a{character}b", ensure_ascii=False))
    assert json.loads(as_json) == f"a{character}b"
    assert as_json.isprintable()


def test_text_is_left_as_it_is() -> None:
    """Letters of any script, emoji, tabs and newlines are no matter of a terminal's."""
    text = "Ünïcödé 漢字 שלום 🗼\tx\n\u200d\u00a0"
    assert visible(text) == text


def test_a_line_may_end_between_two_pieces() -> None:
    """Carriage return and newline are a newline even where they come apart; a lone return is shown."""
    stream = VisibleStream()
    assert [stream.feed("a\r"), stream.feed("\nb\r"), stream.feed("c\r"), stream.end()] == [
        "a",
        "\nb",
        r"\x0dc",
        r"\x0d",
    ]


def test_output_on_a_terminal_is_visible(on_terminal: Callable[..., bytes]) -> None:
    """A model's escape sequences are shown, not obeyed, though they come piece by piece."""
    drawn = on_terminal("run", "hostile", "x")
    assert SHOWN.replace("\n", "\r\n").encode() in drawn
    assert_obeys_nothing(drawn)
    assert_obeys_nothing(on_terminal("run", "hostile", "x", "-o", "json"))


def test_output_into_a_file_keeps_its_bytes(run: Run, tmp_path: Path) -> None:
    """Piped or sent to a file the output is what the model said."""
    assert run(f"$inferd run hostile x > {tmp_path}/out").returncode == 0
    assert (tmp_path / "out").read_bytes() == f"{HOSTILE}\n".encode()
    assert run("$inferd run hostile x | cat").stdout == f"{HOSTILE}\n".encode()


def test_errors_and_names_are_visible_too(scripted: Any, on_terminal: Callable[..., bytes], run: Run) -> None:
    """A kernel's messages and names of models are shown as they are: no escapes, no markup, no emoji by name."""
    drawn = on_terminal("run", "hostile-error", "x")
    assert_obeys_nothing(drawn)
    assert b"[red]:cat:[/red]" in drawn
    assert b"\\x1b[31mred" in run("$inferd run hostile-error x").stderr
    scripted.models["evil"] = Model(name="[red]:cat:\x1b]0;\x07\\", source="\x9b")
    drawn = on_terminal("models")
    assert_obeys_nothing(drawn)
    assert b"[red]:cat:\\x1b]0;\\x07\\" in drawn


def test_tables_take_no_markup() -> None:
    """Brackets and colons in cells are text."""
    (column,) = table_of(["A"], [["[bold]:cat:[/bold]\n\\"]]).columns
    (cell,) = column.cells
    assert str(cell) == "[bold]:cat:[/bold] \\"


@pytest.mark.parametrize(
    "environment", [{"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}, {"PYTHONIOENCODING": "ascii"}]
)
def test_no_encoding_breaks_a_command(run: Run, environment: dict[str, str]) -> None:
    """On a terminal that is not UTF-8 what it cannot show is escaped; nothing fails, and JSON says the same."""
    done = run("$inferd run echo x", **environment)
    assert (done.returncode, b"Traceback" in done.stderr) == (0, False)
    assert done.stdout.decode() == "The capital of France is Paris \\U0001f5fc.\n"
    done = run("$inferd run echo x -o json", **environment)
    assert json.loads(done.stdout.splitlines()[-1])["summary"]["text"].endswith("🗼.")
    done = run(r"$inferd run echo $'a\xff'", **environment)
    assert done.returncode == 2
    assert b"is no text in UTF-8" in done.stderr
    assert b"Traceback" not in done.stderr


@pytest.mark.parametrize("command", ["models", "models -o json", "run endless x", "run echo x"])
def test_the_reader_of_stdout_may_go_at_any_time(run: Run, command: str) -> None:
    """Behind a pipe that nobody reads a command ends in silence, as a program that got SIGPIPE."""
    done = run(f"(sleep 0.01; $inferd {command}; echo $? >&2) | true")
    *said, code = done.stderr.decode().splitlines()
    assert int(code) == 141
    assert not any(line.startswith(("Traceback", "Exception", "error")) for line in said)


def test_closed_streams(run: Run) -> None:
    """Without stdin or stderr a command works, and no connection gets their numbers; an answer needs a stdout."""
    done = run("$inferd run echo x >&-")
    assert (done.returncode, b"stdout is closed" in done.stderr) == (1, True)
    assert run("$inferd run echo x 2>&-").returncode == 0
    done = run("$inferd run echo x <&-")
    assert (done.returncode, done.stdout) == (0, "The capital of France is Paris 🗼.\n".encode())
    assert run("$inferd models <&- >&- 2>&-").returncode == 0


def test_a_full_disk_is_told(run: Run) -> None:
    """Where stdout cannot be written the error is one line and the exit code 1."""
    done = run("$inferd models > /dev/full")
    assert done.returncode == 1
    assert done.stderr.decode().splitlines()[-1] == "error: No space left on device"


def test_notes_are_visible(capsys: pytest.CaptureFixture[str]) -> None:
    """What is told on stderr, and lines for people, obey nothing either."""
    output = Output(Format.TABLE)
    output.note("\x1b[31m:cat:")
    output.text("\x1b[31m")
    told = capsys.readouterr()
    assert told.err.endswith("\\x1b[31m:cat:\n")
    assert told.out == "\\x1b[31m\n"


@pytest.mark.parametrize(("module", "name"), [("typer", ""), ("inferd.cli.main", "narrowed")])
def test_ctrl_c_while_the_commands_are_loaded(module: str, name: str) -> None:
    """Ctrl-C while the program imports, or makes its commands, ends it with 130, and nothing is said."""
    code = f"""
import os, runpy, signal, sys
class Interrupt:
    def find_spec(self, name, path=None, target=None):
        if name == {module!r} and not {name!r}:
            os.kill(os.getpid(), signal.SIGINT)
sys.meta_path.insert(0, Interrupt())
if {name!r}:
    import inferd.cli.main
    setattr(inferd.cli.main, {name!r}, lambda _: os.kill(os.getpid(), signal.SIGINT))
sys.argv = ["inferd", "--version"]
runpy.run_module("inferd", run_name="__main__")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=False, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (130, b"", b"")
