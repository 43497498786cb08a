"""A conversation on a terminal, with a real one; and what a prompt is made of."""

import codecs
import json
import os
import pty
import re
import select
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from inferd.cli import history, main

WAIT_S = 60
ANSWER = "The capital of France is Paris 🗼."
READY = r"\x1b\[\?2004h>>> "

Commands = Callable[..., Result]


@pytest.fixture
def inferd(scripted: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Commands:
    """Runs commands against the scripted kernel, with something on stdin."""
    monkeypatch.setenv("INFERD_CONFIG", str(tmp_path / "none.toml"))
    monkeypatch.setenv("INFERD_DATA_DIR", str(tmp_path))

    def call(*arguments: str, stdin: str | bytes = "") -> Result:
        return CliRunner().invoke(main.app, [*arguments, "--address", scripted.address], input=stdin)

    return call


def said(request: Any) -> list[tuple[str, str]]:
    """Roles and contents of a conversation that was sent."""
    return [(message.role, message.content) for message in request.spec.chat.messages]


def test_stdin_and_files_stand_behind_the_prompt(scripted: Any, inferd: Commands, tmp_path: Path) -> None:
    """`git diff | inferd run MODEL "Summarize:"` asks both; files come between, in their order, blank ones are none."""
    for name, text in (("a", "\ufeffone"), ("b", "two"), ("c", " \n")):
        (tmp_path / name).write_text(text)
    files = [word for name in "abc" for word in ("-f", str(tmp_path / name))]
    inferd("run", "echo", "Summarize:", stdin="+ a\n- b\n")
    assert said(scripted.requests[-1]) == [("user", "Summarize:\n\n+ a\n- b\n")]
    inferd("run", "echo", "Summarize:", *files, stdin="three")
    assert said(scripted.requests[-1]) == [("user", "Summarize:\n\none\n\ntwo\n\nthree")]
    inferd("run", "echo", "--file", str(tmp_path / "a"))
    assert said(scripted.requests[-1]) == [("user", "one")]
    inferd("run", "echo", "--raw", "One", stdin=" \n")
    assert scripted.requests[-1].spec.prompt == "One"


def test_pictures_stand_before_the_prompt(scripted: Any, inferd: Commands, tmp_path: Path) -> None:
    """`--image FILE` sends the bytes of files as they are, in their order; what cannot be sent is a mistake of use."""
    one, two, none = (tmp_path / name for name in ("one.png", "two.jpg", "none"))
    for path, data in ((one, b"\x89PNG"), (two, b"\xff\xd8"), (none, b"")):
        path.write_bytes(data)
    inferd("run", "echo", "What?", "--image", str(one), "--image", str(two))
    (message,) = scripted.requests[-1].spec.chat.messages
    assert [part.image.data for part in message.parts[:2]] == [b"\x89PNG", b"\xff\xd8"]
    assert (message.parts[2].text, len(message.parts)) == ("What?", 3)
    for wrong in ([str(none)], [str(tmp_path / "missing")], [str(one), "--raw"]):
        done = inferd("run", "echo", "What?", "--image", *wrong)
        assert done.exit_code == 2
        assert "--image" in done.output


@pytest.mark.parametrize(
    ("arguments", "stdin", "message"),
    [
        (["run", "echo", "x", "-f", "/no/such"], b"", "/no/such cannot be read"),
        (["run", "echo", "x", "-f", "/"], b"", "Is a directory"),
        (["run", "echo", "x", "-f", "/dev/zero"], b"", "has more than 17 MB"),
        (["run", "echo", "x"], b"a\xffb", "byte 0xff at position 1"),
        (["tokenize", "echo"], b"\xff", "is no UTF-8 text"),
        (["run", "echo", "x", "--seed", str(2**64)], b"", "--seed"),
    ],
)
def test_what_is_no_text_is_misuse(inferd: Commands, arguments: list[str], stdin: bytes, message: str) -> None:
    """A file that cannot be read, one without an end, and bytes that are no UTF-8 are told before a model is asked."""
    done = inferd(*arguments, "-o", "json", stdin=stdin)
    error = json.loads(done.stdout)["error"]
    assert (done.exit_code, error["reason"]) == (2, "USAGE")
    assert message in error["message"]


class Terminal:
    """A terminal on which `inferd` runs."""

    def __init__(self, controller: int, process: "subprocess.Popen[bytes]") -> None:
        self.process = process
        self._controller = controller
        self._drawn = ""
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def until(self, what: str) -> str:
        """What is drawn up to the first match of `what`, behind what was read before."""
        deadline = time.monotonic() + WAIT_S
        while (found := re.search(what, self._drawn, re.DOTALL)) is None:
            assert select.select([self._controller], [], [], deadline - time.monotonic())[0], self._drawn
            self._drawn += self._decoder.decode(os.read(self._controller, 1 << 12))
        drawn, self._drawn = self._drawn[: found.end()], self._drawn[found.end() :]
        return drawn

    def type(self, text: str, what: str = READY) -> str:
        """Type, and read up to a match."""
        os.write(self._controller, text.encode("utf-8", "surrogateescape"))
        return self.until(what)

    def interrupt(self, what: str = READY) -> str:
        """Type Ctrl-C and read up to a match.

        One that comes while readline draws is noticed with the next key only: where nothing happens it is typed again.
        """
        deadline = time.monotonic() + WAIT_S
        while True:
            os.write(self._controller, b"\x03")
            if select.select([self._controller], [], [], 5)[0]:
                return self.until(what)
            assert time.monotonic() < deadline

    def end(self, text: str) -> int:
        """Type, read to the end, and give the exit code."""
        os.write(self._controller, text.encode())
        return self.ended()

    def ended(self) -> int:
        """Read to the end, and give the exit code."""
        with suppress(OSError):  # the other side is closed
            while True:
                os.read(self._controller, 1 << 12)
        return self.process.wait(WAIT_S)


@pytest.fixture
def chat(scripted: Any, tmp_path: Path) -> Callable[..., Any]:
    """Begins a conversation on a terminal and waits for its first prompt."""

    @contextmanager
    def begin(*arguments: str, model: str = "echo") -> Iterator[Terminal]:
        controller, terminal = pty.openpty()
        environment = {
            **os.environ,
            "INFERD_ADDRESS": scripted.address,
            "INFERD_CONFIG": str(tmp_path / "none.toml"),
            "INFERD_DATA_DIR": str(tmp_path / "data"),
            "INFERD_STATE_DIR": str(tmp_path / "state"),
            "INPUTRC": "/dev/null",
            "TERM": "xterm",
            "COLUMNS": "1000",
        }
        command = ["setsid", "--ctty", sys.executable, "-m", "inferd", "run", model, *arguments]
        streams = {"stdin": terminal, "stdout": terminal, "stderr": terminal}
        with subprocess.Popen(command, env=environment, cwd=tmp_path, **streams) as process:  # type: ignore[call-overload]
            os.close(terminal)
            begun = Terminal(controller, process)
            try:
                begun.until(READY)
                yield begun
            finally:
                with suppress(OSError):
                    os.close(controller)  # a command that goes on gets SIGHUP

    return begin


def test_pasted_and_quoted_lines_are_one_message(scripted: Any, chat: Callable[..., Any]) -> None:
    """A paste of several lines, also one that looks like a command, and lines between quotes are asked at once."""
    with chat("--system", "S") as terminal:
        terminal.type("\x1b[200~/* a\nb */\n\x1b[201~", "b")
        terminal.type("\r", rf"{ANSWER}.*{READY}")
        assert said(scripted.requests[-1])[1][1].rstrip("\n") == "/* a\nb */"
        terminal.type('"""c\r', r"\.\.\. ")
        terminal.type("\r", r"\.\.\. ")
        terminal.type(' d"""\r', rf"{ANSWER}.*{READY}")
        assert said(scripted.requests[-1])[-1] == ("user", "c\n\n d")
        assert [role for role, _ in said(scripted.requests[-1])] == ["system", "user", "assistant", "user"]
        terminal.type('"""one"""\r', rf"{ANSWER}.*{READY}")
        assert said(scripted.requests[-1])[-1] == ("user", "one")
        assert terminal.end("\x04") == 0


def test_commands_change_what_is_asked(scripted: Any, chat: Callable[..., Any]) -> None:
    """`/system`, `/set` and `/clear` are seen in the next message, wrong ones are told, and `//` begins a message."""
    with chat() as terminal:
        assert "/save" in terminal.type("/help\r")
        terminal.type("/system Be brief\r")
        terminal.type("/set temperature 0.25\r")
        terminal.type("/set var.enable_thinking=false\r")
        assert "stop=['END']" in terminal.type("/set stop END\r")
        terminal.type("//etc is?\r", rf"{ANSWER}.*{READY}")
        request = scripted.requests[-1].spec
        assert said(scripted.requests[-1]) == [("system", "Be brief"), ("user", "/etc is?")]
        assert (request.sampling.temperature, list(request.sampling.stop)) == (0.25, ["END"])
        assert request.chat.template_variables["enable_thinking"] is False
        assert "did you mean 'temperature'" in terminal.type("/set temprature 1\r")
        assert "is no value of top_k" in terminal.type("/set top_k -1\r")
        assert "did you mean /system" in terminal.type("/sistem x\r")
        terminal.type("/clear\r")
        terminal.type("/set temperature\r")
        terminal.type('/system ""\r')
        terminal.type("/usr/bin is?\r", rf"{ANSWER}.*{READY}")
        assert said(scripted.requests[-1]) == [("user", "/usr/bin is?")]
        assert not scripted.requests[-1].spec.sampling.HasField("temperature")
        assert terminal.end("/exit\r") == 0


def test_conversations_are_saved_and_loaded(scripted: Any, chat: Callable[..., Any], tmp_path: Path) -> None:
    """A conversation goes on where it was saved; files of others are neither overwritten nor taken for one."""
    (tmp_path / "other").write_text('{"messages": [{"role": "user", "content": 1}]}')
    with chat("--system", "S") as terminal:
        terminal.type("One?\r", rf"{ANSWER}.*{READY}")
        terminal.type("/save talk.json\r")
        assert "is there already" in terminal.type("/save other\r")
        assert "no conversation" in terminal.type("/load other\r")
        assert "No such file" in terminal.type("/load none\r")
        assert terminal.end("/bye\r") == 0
    saved = json.loads((tmp_path / "talk.json").read_text())
    assert [each["content"] for each in saved["messages"]] == ["S", "One?", ANSWER]
    assert stat.S_IMODE((tmp_path / "talk.json").stat().st_mode) == 0o600
    with chat() as terminal:
        assert "3 messages" in terminal.type("/load talk.json\r")
        terminal.type("Two?\r", rf"{ANSWER}.*{READY}")
        assert [content for _, content in said(scripted.requests[-1])] == ["S", "One?", ANSWER, "Two?"]
        assert "saved" in terminal.type("/save\r")
        assert terminal.end("\x04") == 0
    assert len(json.loads((tmp_path / "talk.json").read_text())["messages"]) == 5


def test_ctrl_c_ends_an_answer_and_not_the_conversation(scripted: Any, chat: Callable[..., Any]) -> None:
    """It cancels an answer and keeps what came of it, clears a line, and leaves when typed twice at an empty prompt."""
    with chat(model="endless") as terminal:
        terminal.type("Sing\r", "la la la ")
        assert "cancelled" in terminal.type("\x03")
        assert scripted.ended.wait(WAIT_S)
        terminal.type("half a li", "half a li")
        terminal.interrupt()
        terminal.type("again\r", "la la ")
        terminal.type("\x03")
        roles = said(scripted.requests[-1])
        assert [roles[0], roles[2]] == [("user", "Sing"), ("user", "again")]
        assert roles[1][1].startswith("la la ")
        assert "once more" in terminal.interrupt()
        terminal.interrupt("2004l")
        assert terminal.ended() == 0


def test_a_turn_that_fails_does_not_end_the_conversation(
    scripted: Any, chat: Callable[..., Any], tmp_path: Path
) -> None:
    """An error of the kernel, or of what was typed, is told and the next message asked; a file waits for an answer."""
    (tmp_path / "f").write_text("FILE")
    with chat("-f", "f", model="hostile-error") as terminal:
        assert "the worker died" in terminal.type("a\r", rf"died.*{READY}")
        assert scripted.requests[-1].spec.chat.messages[0].content == "a\n\nFILE"
        terminal.type("b\r", rf"died.*{READY}")
        assert said(scripted.requests[-1]) == [("user", "b\n\nFILE")]
        assert "cannot be read" in terminal.type("/file none\r")
        assert "UTF-8" in terminal.type("\udcff\r")
        assert terminal.end("\x04") == 0


def test_what_was_typed_is_there_in_the_next_session(chat: Callable[..., Any], tmp_path: Path) -> None:
    """The history outlives the session, messages of several lines as one, in a file for its owner alone."""
    with chat() as terminal:
        terminal.type("\x1b[200~first\nsecond\x1b[201~", "second")
        terminal.type("\r", rf"{ANSWER}.*{READY}")
        assert terminal.end("\x04") == 0
    file = tmp_path / "state" / "history.jsonl"
    assert json.loads(file.read_text()) == "first\nsecond"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    with chat() as terminal:
        assert "second" in terminal.type("\x1b[A", "second")
        terminal.type("\r", rf"{ANSWER}.*{READY}")
        assert terminal.end("\x04") == 0


def test_a_history_is_bounded_and_damage_is_left_out(tmp_path: Path) -> None:
    """Long entries are not kept, lines that are no entries are skipped, and a long file is cut."""
    kept = history.History(tmp_path / "deep" / "history.jsonl")
    assert kept.read() == []
    kept.add("x" * (history.MOST_CHARACTERS + 1))
    kept.add("\ud800")
    kept.add("a\nb")
    file = tmp_path / "deep" / "history.jsonl"
    file.write_text(file.read_text() + "no json\n[1]\n")
    assert kept.read()[-1] == "a\nb"
    file.write_text("".join(f'"{number}"\n' for number in range(3 * history.MOST_ENTRIES)))
    assert kept.read()[0] == str(2 * history.MOST_ENTRIES)
    assert len(file.read_text().splitlines()) == history.MOST_ENTRIES
