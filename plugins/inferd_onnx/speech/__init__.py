"""Speech to text: folders with an encoder and a decoder, as Optimum writes them of Whisper.

    folder.py   a folder -> its graphs, sizes, vocabulary, and the recipe by which sounds enter and text leaves
    loading.py  from a request to a session
    session.py  the encoder, once for each sound, and the decoder's forward pass

Keys and values of what has been written are kept as those of other decoders (`inferd_onnx.decoder`). Those of what the
encoder gave are beside them, one set for each sound that is written of.
"""
