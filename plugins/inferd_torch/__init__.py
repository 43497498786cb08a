"""The `torch` backend: decoders of any architecture that Hugging Face transformers knows, on CUDA and the processor.

How a model comes to run, file by file:

    plugin.py           what is offered, as inert data; loads no framework
    backend.py          probe the host; loading.py loads a model, with signs of life from pulse.py
    devices.py          the devices
    folder.py, gguf.py  a model folder, or a GGUF file: checked, and read as an artifact.py with its vocabulary
    network.py          artifact -> the network of transformers, with our attention in it
    attention.py        what a layer calls in place of attention; scoring.py is what it asks for
    survey.py           one token through the network: the shapes of its keys and values
    tally.py            the largest step through the network, on no device: how many bytes it takes
    capacity.py         settings and the device's memory -> sizes of the KV pool, and what is needed
    pool.py             the KV blocks
    plan.py             one batch, checked, and what all layers need to know of it
    session.py          the forward pass; warming.py has the first of them, faults.py ends a process whose device fails
    split.py            attention of single rows over parts of their keys; paged_decode.py does the same on CUDA
    spans.py            attention of several rows of a sequence, in tiles; paged_prefill.py does the same on CUDA
    fused.py            a known network with its layers' small steps taken together; on CUDA by fused_kernels.py
    sampling.py         tokens that are chosen on the device, on CUDA by draw_kernels.py
    last_tokens.py      those of the last step, where the next one finds them; sending.py sends without waiting
    tensor_session.py   networks from tensors to tensors by the type of their folder; voice_activity.py is one
    decode_inputs.py    the inputs of a pure decode step at fixed addresses, for cuda_graphs.py; step_inputs.py those of
                        others; staging.py sends both
    training/           models that learn, see there

What was read and measured of CUDA is in docs/cuda.md.
"""
