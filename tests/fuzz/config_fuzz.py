"""Damaged `config.pbtxt` of a model repository, read as a kernel reads them.

    python tests/fuzz/config_fuzz.py CONFIGS [FIRST]

Each is served or refused with a typed error that names a field, soon, and is never larger than what it was made of.
Prints how many ended how; the number of one that did not ends the run, and makes the same configuration again.
"""

import re
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from config_wounds import wounded

from inferd.errors import InvalidFieldError
from inferd.repository.config_text import parse_json, parse_text
from inferd.repository.folders import look
from inferd.repository.served import served_of
from inferd_api.inference import model_config_pb2 as cp

MOST_S = 5.0
"""Of one, on a machine that does other things."""
MOST_WORDS = 4096


class FoundError(AssertionError):
    """A configuration that did not end as it must."""


def fuzz(folder: Path, numbers: range) -> Counter[str]:
    """Read the configurations of these numbers; how many ended how.

    Raises:
        FoundError: One ended otherwise than it must.
    """
    for version in (1, 2, 3):
        (folder / "m" / str(version)).mkdir(parents=True)
        for file in ("model.onnx", "model.py", "model.fake"):
            (folder / "m" / str(version) / file).write_text("")
    model = look(folder.resolve(), "m")
    found: Counter[str] = Counter()
    for number in numbers:
        begun = time.process_time()
        try:
            config = parse_text(wounded(number))
            served = served_of(model, config, most_versions=16, programs=("*",))
            found["served" if served.ensemble is not None or served.versions else "nothing"] += 1
        except InvalidFieldError as error:
            found[_kind(error, number)] += 1
        except BaseException as error:
            raise FoundError(f"configuration {number}: {type(error).__name__}: {error}") from error
        if (seconds := time.process_time() - begun) > MOST_S:
            raise FoundError(f"configuration {number} took {seconds:.1f} s of the processor")
        _read_json(number)
    if found["nothing"]:
        raise FoundError(f"{found['nothing']} serve nothing, and are not refused")
    return found


def _read_json(number: int) -> None:
    try:
        parse_json("{" + wounded(number) + "}", most_bytes=1 << 18)
    except InvalidFieldError:
        return
    except BaseException as error:
        raise FoundError(f"configuration {number} as JSON: {type(error).__name__}: {error}") from error


def _kind(error: InvalidFieldError, number: int) -> str:
    if not error.field or len(error.message) > MOST_WORDS:
        raise FoundError(f"configuration {number}: field {error.field!r}, {len(error.message)} characters")
    return re.sub(r"\[\d+\].*", "", error.field)


def main(count: int, first: int) -> None:
    """Read so many, and print what came of it."""
    assert cp.ModelConfig.DESCRIPTOR.full_name == "inference.ModelConfig"
    with tempfile.TemporaryDirectory() as folder:
        found = fuzz(Path(folder), range(first, first + count))
    print({"configurations": count, **dict(found.most_common())})  # noqa: T201 - its result


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 0)
