"""What is written in this picture? Three models of rapidocr find lines, turn those that stand on their heads, and read.

pip install pillow onnx; pip download --no-deps rapidocr==3.10.0 && unzip rapidocr-*.whl '*.onnx'
inferd serve &
python examples/tensors/read_text.py rapidocr/models letter.png
"""

import io
import shutil
import sys
from pathlib import Path

import numpy as np
import onnx
from PIL import Image

from inferd_client import Client, InferdError

FILES = {
    "ocr-find": "PP-OCRv6_det_small.onnx",
    "ocr-turn": "ch_ppocr_mobile_v2.0_cls_mobile.onnx",
    "ocr-read": "PP-OCRv6_rec_small.onnx",
}
SURE, GROWTH, GAP = 0.3, 1.6, 20
Box = tuple[int, int, int, int]


def infer(client: Client, model: str, picture: Image.Image, output: str) -> np.ndarray:
    """An output for a picture, which the model's recipe arranges."""
    file = io.BytesIO()
    picture.save(file, "PNG")
    return client.infer(model, {"image": bytearray(file.getvalue())}, outputs=[output])[output]


def spans(used: np.ndarray, gap: int) -> list[tuple[int, int]]:
    """Where something is, in one dimension: begin and end of each run without a gap."""
    places = np.flatnonzero(used)
    runs = np.split(places, np.flatnonzero(np.diff(places) > gap) + 1) if len(places) else []
    return [(int(run[0]), int(run[-1]) + 1) for run in runs]


def find_lines(marks: np.ndarray) -> list[Box]:
    """The boxes of level lines, from above; the model marks their middles, so they grow."""
    boxes = []
    for top, bottom in spans(marks.any(1), 1):
        for left, right in spans(marks[top:bottom].any(0), GAP):
            more = int((bottom - top) * (right - left) * GROWTH / (2 * (bottom - top + right - left)))
            boxes.append((left - more, top - more, right + more, bottom + more))
    return boxes


def prepare(folder: Path) -> None:
    """Put the recipes beside the models, and the alphabet that the reading model has in its metadata."""
    for name, file in FILES.items():
        shutil.copy(Path(__file__).parent / "recipes" / f"{name}.toml", folder / Path(file).with_suffix(".recipe.toml"))
    properties = {each.key: each.value for each in onnx.load(folder / FILES["ocr-read"]).metadata_props}
    (folder / "alphabet.txt").write_text("\n" + properties["character"] + "\n ", encoding="utf-8")


def main() -> None:
    """A line for each line."""
    folder, picture = Path(sys.argv[1]).absolute(), Image.open(sys.argv[2]).convert("RGB")
    prepare(folder)
    with Client() as client:
        for name, file in FILES.items():
            client.create_model(name, source=str(folder / file))
        boxes = find_lines(infer(client, "ocr-find", picture, "marks")[0, 0] > SURE)
        if not boxes:
            print(f"nothing is written in {sys.argv[2]}")
        for box in boxes:
            line = picture.crop(box)
            if infer(client, "ocr-turn", line, "degrees")[0, 0] == "180":
                line = line.rotate(180)
            print(infer(client, "ocr-read", line, "text")[0])


if __name__ == "__main__":
    try:
        main()
    except (OSError, InferdError) as error:  # a file that is missing or none of that kind; what the kernel says
        raise SystemExit(f"{Path(sys.argv[0]).name}: {error}") from None
