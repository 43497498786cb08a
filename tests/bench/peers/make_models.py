"""The model in the forms that peers take: `python make_models.py FORM SOURCE OUT`, in an environment that can make it.

gguf8 and gguf4 are made of our own file, with the types that llama.cpp's own tool chooses for it; hf, a folder in bf16,
of our file, too; openvino8 and openvino4 of that folder.
"""

import sys
from pathlib import Path


def make_gguf(source: Path, out: Path, *, bits: int) -> None:
    """Q8_0, or Q4_0 with the embedding, which is the head too, in Q8_0; what has one dimension stays fp32."""
    import gguf  # noqa: PLC0415 - forms are made in different environments

    reader = gguf.GGUFReader(source)
    quants = {4: gguf.GGMLQuantizationType.Q4_0, 8: gguf.GGMLQuantizationType.Q8_0}
    writer = gguf.GGUFWriter(out, reader.fields["general.architecture"].contents())
    for field in reader.fields.values():
        if field.name.startswith("GGUF.") or field.name in {"general.architecture", "general.file_type"}:
            continue
        kind = field.types[0]
        inner = field.types[-1] if kind == gguf.GGUFValueType.ARRAY else None
        writer.add_key_value(field.name, field.contents(), kind, sub_type=inner)
    for tensor in reader.tensors:
        numbers = gguf.quants.dequantize(tensor.data, tensor.tensor_type)
        kind = gguf.GGMLQuantizationType.F32
        if len(tensor.shape) > 1:
            kind = quants[8 if tensor.name == "token_embd.weight" else bits]
            numbers = gguf.quants.quantize(numbers, kind)
        writer.add_tensor(tensor.name, numbers, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def make_folder(source: Path, out: Path) -> None:
    """A Hugging Face folder in bf16."""
    import torch  # noqa: PLC0415 - as above
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig  # noqa: PLC0415 - as above

    file = {"gguf_file": source.name}
    how = GgufConfig(dequantize=True)
    AutoTokenizer.from_pretrained(source.parent, **file).save_pretrained(out)
    model = AutoModelForCausalLM.from_pretrained(source.parent, dtype=torch.bfloat16, quantization_config=how, **file)
    model.save_pretrained(out)


def make_openvino(source: Path, out: Path, *, bits: int) -> None:
    """OpenVINO's own form with weights of so many bits, the tokenizer beside it."""
    import openvino  # noqa: PLC0415 - as above
    from openvino_tokenizers import convert_tokenizer  # noqa: PLC0415 - as above
    from optimum.intel import OVModelForCausalLM, OVWeightQuantizationConfig  # noqa: PLC0415 - as above
    from transformers import AutoTokenizer  # noqa: PLC0415 - as above

    tokenizer = AutoTokenizer.from_pretrained(source)
    narrow = OVWeightQuantizationConfig(bits=4, sym=True, group_size=32, ratio=1.0)
    how = {"load_in_8bit": True} if bits == 8 else {"quantization_config": narrow}
    OVModelForCausalLM.from_pretrained(source, export=True, compile=False, **how).save_pretrained(out)
    tokenizer.save_pretrained(out)
    both = convert_tokenizer(tokenizer, with_detokenizer=True)
    for name, model in zip(("tokenizer", "detokenizer"), both, strict=True):
        openvino.save_model(model, out / f"openvino_{name}.xml")


def main() -> None:
    """Make one form."""
    form, source, out = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3])
    if form.startswith("gguf"):
        make_gguf(source, out, bits=int(form[-1]))
    elif form.startswith("openvino"):
        make_openvino(source, out, bits=int(form[-1]))
    else:
        make_folder(source, out)


if __name__ == "__main__":
    main()
