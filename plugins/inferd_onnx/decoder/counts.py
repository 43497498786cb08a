"""A trial of what the runtime's version decides: whether attention takes prompts of different lengths side by side.

GroupQueryAttention has an input with the tokens of each, `query_seqlens`, in version 1.32; no kernel has to read it.
"""

from functools import cache

import numpy as np
import onnxruntime as ort

from inferd_onnx.decoder.proto import CONTRIB, FLOAT, INT32, Graph

WIDTH, PLACES, COUNTS_AT = 16, 4, 16  # of the trial; place of the input
FATAL = 4


@cache
def takes_counts() -> bool:
    """Whether two prompts, one of them behind another token, are computed together, and written where they belong."""
    graph = Graph("trial")
    past = ("b", 1, "places", WIDTH)
    graph.add_input("qkv", FLOAT, ("b", "s", 3 * WIDTH))
    graph.add_input("past_key", FLOAT, past)
    graph.add_input("past_value", FLOAT, past)
    for name, sizes in (("last", ("b",)), ("total", ()), ("counts", ("b",))):
        graph.add_input(name, INT32, sizes)
    for name in ("mixed", "key", "value"):
        graph.add_output(name, FLOAT, ("b", "s", WIDTH) if name == "mixed" else past)
    inputs = ["qkv", "", "", "past_key", "past_value", "last", "total"]
    inputs += [""] * (COUNTS_AT - len(inputs)) + ["counts"]
    attributes = {"num_heads": 1, "kv_num_heads": 1}
    outputs = ["mixed", "key", "value"]
    graph.add("GroupQueryAttention", inputs, outputs, domain=CONTRIB, attributes=attributes)
    given = np.random.default_rng(0).normal(0, 1, (2, 2, 3 * WIDTH)).astype(np.float32)
    nothing = np.zeros((2, 1, PLACES, WIDTH), np.float32)
    counts, ends = np.array([2, 1], np.int32), np.array([2, 2], np.int32)
    feeds = {"qkv": given, "past_key": nothing, "past_value": nothing, "last": ends - 1, "counts": counts}
    options = ort.SessionOptions()
    options.log_severity_level = FATAL
    options.intra_op_num_threads = 1
    run = ort.RunOptions()
    run.log_severity_level = FATAL
    try:
        session = ort.InferenceSession(graph.write(), options, providers=["CPUExecutionProvider"])
        _, keys, _ = session.run(outputs, {**feeds, "total": np.array(PLACES, np.int32)}, run)
    except Exception:  # noqa: BLE001 - whatever an older version raises, it does not take them
        return False
    new = given[:, :, WIDTH : 2 * WIDTH]
    return bool(np.array_equal(keys[0, 0, :2], new[0]) and np.array_equal(keys[1, 0, 1], new[1, 0]))
