"""Weights of few bits: they stay so on the device, and products make numbers of them as they read.

Those of 4 bits, as folders hold them:

    schemes.py    what a folder says of them, and whether that is served: GPTQ, AWQ, compressed-tensors
    layouts.py    how these put numbers into words, and how ours are put
    weights.py    a folder's weights by name, packed ones put as ours are when they are read
    linear.py     a linear module of packed weights; its product in torch, which states what the kernel does
    kernels.py    that product on CUDA

Those of 8 bits, to which weights are rounded when they are read (setting `weights`):

    rounded.py          a linear module of them; its products in torch
    rounded_kernels.py  these on CUDA

Nothing is ever unpacked as a whole: in torch some rows at a time, in the kernel a tile.
"""
