"""The folders of trainings: what of them is the model or the adapter that came of one, and what stays."""

from pathlib import Path

import pytest

from inferd.runtime.training_files import TrainingFiles


def names_in(folder: Path) -> list[str]:
    return sorted(str(each.relative_to(folder)) for each in folder.rglob("*"))


@pytest.mark.parametrize(
    ("names", "source"),
    [
        (("config.json", "model.safetensors"), "result"),
        (("adapter_config.json", "adapter_model.safetensors"), "result"),
        (("model.gguf", "notes.md", "state.json"), "result/model.gguf"),
        (("a.bin", "b.bin"), "result"),
    ],
)
async def test_what_came_of_a_training_is_a_folder_or_its_only_model(
    tmp_path: Path, names: tuple[str, ...], source: str
) -> None:
    """A folder of a model or of an adapter is taken as it is; of any other the one file that is no word about it."""
    result = tmp_path / "one" / "result"
    result.mkdir(parents=True)
    for name in names:
        (result / name).write_text("{}", encoding="utf-8")
    files = TrainingFiles(tmp_path, data_bytes=1024)
    assert await files.source("one") == tmp_path / "one" / source


async def test_what_nobody_knows_is_swept_but_for_results(tmp_path: Path) -> None:
    """Rows and checkpoints of trainings that are not known any more go; what came of them stays."""
    for name in ("known", "left", "made"):
        (tmp_path / name / "checkpoints").mkdir(parents=True)
        (tmp_path / name / "rows.jsonl").write_text("{}", encoding="utf-8")
    (tmp_path / "made" / "result").mkdir()
    await TrainingFiles(tmp_path, data_bytes=1024).sweep({"known"})
    assert names_in(tmp_path) == ["known", "known/checkpoints", "known/rows.jsonl", "made", "made/result"]
