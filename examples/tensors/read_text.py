"""What is written in this picture? Three models of rapidocr find lines, turn those that stand on their heads, and read.

pip install pillow onnx; pip download --no-deps rapidocr==3.10.0 && unzip rapidocr-*.whl '*.onnx'
inferd serve &
python examples/tensors/read_text.py rapidocr/models letter.png
"""

import sys
from pathlib import Path

import numpy as np
import onnx
from PIL import Image

from inferd_client import Client

FILES = {
    "ocr-find": "PP-OCRv6_det_small.onnx",
    "ocr-turn": "ch_ppocr_mobile_v2.0_cls_mobile.onnx",
    "ocr-read": "PP-OCRv6_rec_small.onnx",
}
SURE, GROWTH, GAP, HEIGHT, TURN_WIDTH = 0.3, 1.6, 20, 48, 192
MOST_WIDTH = 440  # of a line: longer ones are narrowed, because 75 kB come back for each 8 pixels, and 4 MiB are taken
Box = tuple[int, int, int, int]


def pixels(picture: Image.Image) -> np.ndarray:
    """A picture as the models take it: blue first, from -1 to 1, (1, 3, height, width)."""
    return (np.asarray(picture.convert("RGB"), np.float32)[None, :, :, ::-1] / 127.5 - 1).transpose(0, 3, 1, 2)


def spans(used: np.ndarray, gap: int) -> list[tuple[int, int]]:
    """Where something is, in one dimension: begin and end of each run without a gap."""
    places = np.flatnonzero(used)
    runs = np.split(places, np.flatnonzero(np.diff(places) > gap) + 1) if len(places) else []
    return [(int(run[0]), int(run[-1]) + 1) for run in runs]


def find_lines(client: Client, picture: Image.Image) -> list[Box]:
    """The boxes of level lines, from above; the model marks their middles, so they grow."""
    wide, high = (-(-size // 32) * 32 for size in picture.size)
    padded = Image.new("RGB", (wide, high), "white")
    padded.paste(picture)
    marks = client.infer("ocr-find", {"x": pixels(padded)})["fetch_name_0"][0, 0] > SURE
    boxes = []
    for top, bottom in spans(marks.any(1), 1):
        for left, right in spans(marks[top:bottom].any(0), GAP):
            more = int((bottom - top) * (right - left) * GROWTH / (2 * (bottom - top + right - left)))
            boxes.append((left - more, top - more, right + more, bottom + more))
    return boxes


def read_line(client: Client, alphabet: list[str], line: Image.Image) -> str:
    """The text of a line, whichever way up it is."""
    line = line.resize((min(max(8, round(HEIGHT * line.width / line.height)), MOST_WIDTH), HEIGHT))
    front = np.zeros((1, 3, HEIGHT, TURN_WIDTH), np.float32)
    front[:, :, :, : line.width] = pixels(line)[:, :, :, :TURN_WIDTH]
    _, turned = client.infer("ocr-turn", {"x": front})["save_infer_model/scale_0.tmp_1"][0]
    if turned > 0.9:  # noqa: PLR2004 - as rapidocr has it
        line = line.rotate(180)
    best = client.infer("ocr-read", {"x": pixels(line)})["fetch_name_0"][0].argmax(1)
    changes = np.flatnonzero(np.diff(best, prepend=-1))  # what is said twice in a row is meant once; 0 is nothing
    return "".join(alphabet[number] for number in best[changes])


def read_alphabet(path: Path) -> list[str]:
    """The characters that the numbers of the reading model mean, from its file."""
    (text,) = (each.value for each in onnx.load(path).metadata_props if each.key == "character")
    return ["", *text.split("\n"), " "]


def main() -> None:
    """A line for each line."""
    folder, picture = Path(sys.argv[1]).absolute(), Image.open(sys.argv[2]).convert("RGB")
    alphabet = read_alphabet(folder / FILES["ocr-read"])
    with Client() as client:
        for name, file in FILES.items():
            client.create_model(name, source=str(folder / file))
        for box in find_lines(client, picture):
            print(read_line(client, alphabet, picture.crop(box)))


if __name__ == "__main__":
    main()
