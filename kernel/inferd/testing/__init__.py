"""For tests of the kernel and of backends: a backend without a model, and the suite that every backend must pass.

Nothing is imported here: the parts need packages that not every user of one of them has.
"""
