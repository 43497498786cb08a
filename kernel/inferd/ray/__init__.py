"""A process beside the kernel that keeps an agent on each node of a Ray cluster. Nothing of the kernel imports it."""
