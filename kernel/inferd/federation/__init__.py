"""Federated rounds, pure: masks by which only the sum of updates is seen, what privacy costs, where a round is.

No I/O, no clock, and no randomness but what is passed in; bytes and whole numbers of Python, no numpy.
"""
