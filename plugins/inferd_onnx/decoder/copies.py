"""A trial of what no documentation says: whether the runtime still reads packed numbers that it was handed.

It brings them into an order of its own while loading where the processor has kernels for that, and then ours may go.
"""

import numpy as np
import onnxruntime as ort

from inferd_onnx.decoder.packing import BLOCK
from inferd_onnx.decoder.proto import CONTRIB, FLOAT, UINT8, Graph

SIZE = 64  # of the matrix
BY_BYTES = 4  # as in the graph


def copies_numbers(bits: int) -> bool:
    """Whether a product stays the same when the numbers of its matrix are overwritten after loading."""
    graph = Graph("trial")
    random = np.random.default_rng(0)
    numbers = random.integers(1, 255, (SIZE, SIZE // BLOCK, BLOCK * bits // 8), np.uint8)
    scales = np.ones(SIZE * SIZE // BLOCK, np.float32)
    graph.add_weight("numbers", UINT8, numbers.shape, numbers.nbytes)
    graph.add_weight("scales", FLOAT, scales.shape, scales.nbytes)
    graph.add_input("x", FLOAT, ("rows", SIZE))
    graph.add_output("y", FLOAT, ("rows", SIZE))
    attributes = {"K": SIZE, "N": SIZE, "bits": bits, "block_size": BLOCK, "accuracy_level": BY_BYTES}
    graph.add("MatMulNBits", ["x", "numbers", "scales"], ["y"], domain=CONTRIB, attributes=attributes)
    values = [ort.OrtValue.ortvalue_from_numpy(array) for array in (numbers, scales)]
    options = ort.SessionOptions()
    options.add_external_initializers(["numbers", "scales"], values)
    session = ort.InferenceSession(graph.write(), options, providers=["CPUExecutionProvider"])
    rows = random.normal(0, 1, (2, SIZE)).astype(np.float32)
    (before,) = session.run(None, {"x": rows})
    numbers[:] = 0
    (after,) = session.run(None, {"x": rows})
    return bool(np.array_equal(before, after))
