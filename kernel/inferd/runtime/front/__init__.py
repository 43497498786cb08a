"""What a client may ask of the kernel, in values: the use cases that every transport translates to.

Nothing here knows gRPC or the wire API; what a call means is written here once.
"""
