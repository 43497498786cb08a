"""Wire messages between a kernel and the agents of its other hosts."""
