"""The `cpu` backend: GGUF models of the Llama family in fp32 with numpy, the reference of later kernels.

How a model comes to run, file by file:

    plugin.py        what is offered, as inert data; loads no framework
    backend.py       probe the host, load a model
    gguf.py          the file: metadata and tensor index, read with cursor.py and metadata.py
    architecture.py  metadata -> the shape of the network
    vocabulary.py    metadata -> the vocabulary
    capacity.py      settings and free memory -> sizes of the KV pool; host.py reads the memory
    quants.py        blocks of quantised weights -> fp32
    inventory.py     tensors -> parts of the model, checked
    weights.py       parts -> fp32 weights in the layouts that the session multiplies with
    plan.py          one batch, checked, and what all layers need to know of it
    session.py       the forward pass, with attention.py over the paged KV pool, in the arrays of workspace.py
"""
