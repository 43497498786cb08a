"""Files of weights, for every backend that reads them itself: GGUF and safetensors, mapped and not read.

    model_file.py   a model's tensors: where each lies, its bytes, its numbers
    gguf.py         a GGUF file, or several: read with cursor.py and metadata.py; byte_order.py for big-endian ones
    safetensors.py  files of that name
    quants.py       blocks of quantised numbers -> fp32, with quants_small.py and the tables of grids.py

Every number of a file is checked before it is used or memory is taken for it.
"""
