"""Language models behind `TokenSession`: our own graph for the Llama family, made when a model is loaded.

How a model comes to run, file by file:

    shape.py       what a network is: sizes, rotation, parts
    gguf_model.py  a GGUF file -> shape, vocabulary, weights by what they are
    hf_folder.py   a Hugging Face folder -> the same
    model.py       all of that together, checked
    sources.py     weights as they lie on disk, by inferd_weights, read in slabs
    packing.py     weights -> blocks of 8 or 4 bits, as MatMulNBits takes them
    proto.py       an ONNX model as bytes
    graph.py       a shape -> the graph
    capacity.py    how much fits, and what it takes
    copies.py      whether the runtime reads packed weights again, which nothing says
    counts.py      whether attention takes prompts side by side, by the runtime's version
    unread.py      settings that nothing reads of a language model, which are refused
    loading.py     from a request to a session
    area.py        keys and values of sequences, each at one place, where GroupQueryAttention writes them
    slots.py       which sequence is at which place, and what is there already
    plan.py        a batch, checked, and split into runs
    session.py     the forward pass

Folders with the graph of a decoder, as ONNX Runtime GenAI and Optimum write them:

    genai.py           a folder -> shape, names of inputs and outputs, vocabulary
    folder_loading.py  from a request to its session
    folder_session.py  its forward pass

Keys and values are kept twice. The pool holds them in the engine's blocks and is what counts. Attention wants those of
a sequence in one piece, sequences of a run side by side: that is the area, a cache of the pool, whose places are filled
from it when a sequence is first seen and then written to by the graph itself.
"""
