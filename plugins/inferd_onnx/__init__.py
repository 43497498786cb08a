"""The `onnx` backend: graphs that ONNX Runtime computes, on the processor and on CUDA.

How a model comes to run, file by file:

    plugin.py      what is offered, as inert data; loads no framework
    backend.py     probe the host, measure a model, load it
    devices.py     the devices, found without the runtime
    wire.py        the fields of a protobuf message
    model_file.py  a file -> its weights and types, checked before the runtime sees it
    external.py    weights in other files: inside the model's folder, or refused
    capacity.py    what is needed
    providers.py   what computes: chosen, and held against what the runtime says
    misplaced.py   settings of language models, which others are not given
    loading.py     a checked file -> a session, with signs of life from pulse.py
    signature.py   what a graph takes and gives; whether it batches; its states
    trial.py       whether rows are computed each for itself, and filled up without harm, which no file says
    values.py      tensors of the interface <-> values of the runtime
    texts.py       texts as values of the runtime
    session.py     one call
    encoder.py     a folder with a tokenizer -> an encoder of texts, which embeddings and scores are made with
    encoder_session.py  its session: texts of a step, padded to each other

Language models of the Llama family have a graph of their own, and a package: `decoder`. Speech to text has `speech`.
"""
