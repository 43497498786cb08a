"""A network over several processes: each computes a part of every layer, and what they find is summed.

    share.py      which part each rank holds: a smaller network of the same architecture
    parts.py      that part of the files, and no more; gguf_parts.py of a GGUF file, decoded
    group.py      the sum over all ranks, twice a layer
    messages.py   what rank 0 tells the others, as arrays
    gathering.py  rank 0 has all of them load
    session.py    the session of rank 0: what it is told, it tells the others
    member.py     what the others do

The vocabulary is not divided: each rank has the whole embedding, and rank 0 alone makes logits.
"""
