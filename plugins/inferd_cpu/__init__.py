"""The `cpu` backend: GGUF models on the processor, natively or with numpy.

How a model comes to run, file by file:

    plugin.py        what is offered, as inert data, with supported.py; loads no framework
    backend.py       probe the host, load a model
    source.py        the file or folder, which inferd_weights reads: metadata and tensors
    family.py        what a block can consist of; families.py: the architectures, described in these words
    architecture.py  metadata -> the shape of the network, shapes.py, with its rotations, rope.py
    vocabulary.py    metadata -> the vocabulary
    capacity.py      settings and free memory -> sizes of the KV pool; host.py reads the memory
    inventory.py     tensors -> parts of the model, checked
    plan.py          one batch, checked, and what all layers of the fp32 session need to know of it

In int8 by the compiled library (in bf16 with AMX), the default where it can:

    native.py          the library, found and described to ctypes; native/ holds its sources
    native_weights.py  parts -> packed weights
    expert_pages.py    a file for experts that are larger than memory
    native_session.py  one call for each step
    native_encoder.py  the layers of encoders, packed; encoder_session.py: steps of those that read texts

In fp32 with numpy, the reference that the library is compared with, and what runs where it cannot:

    weights.py       parts -> fp32 weights in the layouts that the session multiplies with
    session.py       the forward pass: mixing.py mixes tokens (attention.py over the paged KV pool), feeds.py is the
                     feed-forward part, norms.py what both need, in the arrays of workspace.py
"""
