"""`make onnx-cases KERNEL=60`: so many cases of the `onnx` package through a kernel, "all" of them at a second each.

Those that a session of the backend computes are asked of a kernel, too, whose answers must be the same bit by bit.
"""

import json
import random
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path

import onnx_models as models
from onnx_cases import Case, disk_cases, node_cases, to_tensor, try_case

from inferd.plugin import ElementType, Tensor
from inferd.testing.kernel import kernel_process
from inferd_api.v1.tensor_pb2 import StringElements
from inferd_api.v1.tensor_pb2 import Tensor as Sent
from inferd_client import Client
from inferd_client.errors import InferdError, LimitExceededError
from inferd_client.tensors import to_array

PLUGIN = {"INFERD_PLUGIN_MODULES": json.dumps(["inferd_onnx.plugin"])}
SEED = 16


def to_message(tensor: Tensor) -> Sent:
    """A tensor as it is sent."""
    sent = Sent(element_type=int(tensor.element_type), shape=tensor.shape)
    if tensor.element_type is ElementType.STRING:
        sent.strings.CopyFrom(StringElements(values=tensor.array.flat))
    else:
        sent.data = tensor.array.tobytes()
    return sent


def ask_kernel(client: Client, case: Case, path: Path) -> str:
    """Why a kernel's answers to a case are not those of a session; "" where they are.

    Raises:
        LimitExceededError: The tensors are larger than one message.
    """
    path.write_bytes(case.model.SerializeToString())
    session = models.load(path, max_batch="1").session
    taken = [each.name for each in session.signature.inputs]
    given = [each.name for each in session.signature.outputs]
    client.create_model(path.stem, source=str(path), settings={"max_batch": "1"})
    try:
        for values, _ in case.sets:
            inputs = {name: to_tensor(each) for name, each in zip(taken, values, strict=False) if each is not None}
            expected = session.predict(inputs, given)
            found = client.infer(path.stem, {name: to_message(each) for name, each in inputs.items()})
            for name in given:
                own, other = to_array(to_message(expected[name])), found[name]
                if (own.dtype, own.shape, own.tolist()) != (other.dtype, other.shape, other.tolist()) and (
                    own.dtype == object or own.tobytes() != other.tobytes()  # not a number is not itself
                ):
                    return f"{name}: {other.dtype} {other.shape} for {own.dtype} {own.shape}, or other elements"
    except LimitExceededError:
        raise
    except InferdError as error:
        return str(error)
    finally:
        client.unload_model(path.stem)
    return ""


def compare(cases: Iterable[Case], folder: Path) -> tuple[int, int, list[str]]:
    """How many cases a kernel answers as a session does, how many are too large, and what is wrong with others."""
    same, large, wrong = 0, 0, []
    with kernel_process(folder / "kernel", environment=PLUGIN) as kernel, Client(kernel.address) as client:
        for number, case in enumerate(cases):
            if try_case(case, folder).kind not in ("passed", "differs"):
                continue
            try:
                why = ask_kernel(client, case, folder / f"case-{number}.onnx")
            except LimitExceededError:
                large += 1
                continue
            if why:
                wrong.append(f"{case.name}: {why}")
            else:
                same += 1
    return same, large, wrong


def main() -> None:
    """The command line: how many cases."""
    cases = [*node_cases(), *disk_cases()]
    if sys.argv[1] != "all":
        cases = random.Random(SEED).sample(cases, int(sys.argv[1]))
    with tempfile.TemporaryDirectory() as folder:
        same, large, wrong = compare(cases, Path(folder))
    for line in wrong:
        sys.stdout.write(f"failed   {line}\n")
    told = f"{same} answered as by a session, {large} larger than a message, {len(wrong)} failed"
    sys.stdout.write(f"through a kernel: {len(cases)} cases, {told}\n")
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
