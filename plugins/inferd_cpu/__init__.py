"""The `cpu` backend: GGUF models of the Llama family on the processor, natively or with numpy.

How a model comes to run, file by file:

    plugin.py        what is offered, as inert data; loads no framework
    backend.py       probe the host, load a model
    gguf.py          the file: metadata and tensor index, read with cursor.py and metadata.py
    architecture.py  metadata -> the shape of the network
    vocabulary.py    metadata -> the vocabulary
    capacity.py      settings and free memory -> sizes of the KV pool; host.py reads the memory
    inventory.py     tensors -> parts of the model, checked
    plan.py          one batch, checked, and what all layers of the fp32 session need to know of it

In int8 by the compiled library (in bf16 with AMX), the default where it can:

    native.py          the library, found and described to ctypes; native/ holds its sources
    native_weights.py  parts -> packed weights
    native_session.py  one call for each step

In fp32 with numpy, the reference that the library is compared with, and what runs where it cannot:

    quants.py        blocks of quantised weights -> fp32
    weights.py       parts -> fp32 weights in the layouts that the session multiplies with
    session.py       the forward pass, with attention.py over the paged KV pool, in the arrays of workspace.py
"""
