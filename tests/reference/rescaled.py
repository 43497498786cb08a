"""A model that computes what another does with weights of other sizes: the worth of a matrix is moved into another."""

from pathlib import Path

import gguf
import k_quants
import numpy as np


def rescale_feed_forward(source: Path, out: Path, *, factor: float, layers: int) -> Path:
    """The model of `source` with each `ffn_down` divided by a power of two and each `ffn_up` multiplied with it.

    That is in so many layers, the first ones. A gate times up, times down, is the same then. `ffn_down` is stored in
    the k-quants, which take turns by layers (those of 2 and 3 bits once, so that the model is as clever as before), and
    `ffn_up` as F16.
    """
    reader = gguf.GGUFReader(source)
    architecture = bytes(reader.fields["general.architecture"].parts[-1]).decode()
    writer = gguf.GGUFWriter(out, architecture)
    for field in reader.fields.values():
        if not field.name.startswith("GGUF.") and field.name != "general.architecture":
            kind, *items = field.types
            writer.add_key_value(field.name, field.contents(), kind, sub_type=items[-1] if items else None)
    for tensor in reader.tensors:
        name, kind = tensor.name, tensor.tensor_type
        layer = int(name.split(".")[1]) if name.startswith("blk.") else layers
        if layer < layers and ".ffn_down.weight" in name:
            form = ("Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K")[layer if layer < 2 else 2 + layer % 3]
            rows = gguf.quants.dequantize(tensor.data, kind) / np.float32(factor)
            blocks = k_quants.MAKERS[form](rows).reshape(len(rows), -1)
            writer.add_tensor(name, blocks, raw_dtype=gguf.GGMLQuantizationType[form])
        elif layer < layers and ".ffn_up.weight" in name:
            rows = gguf.quants.dequantize(tensor.data, kind) * np.float32(factor)
            writer.add_tensor(name, rows.astype(np.float16))
        else:
            writer.add_tensor(name, tensor.data, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return out
