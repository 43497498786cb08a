"""How many descriptors a process may have: files, connections, processes that it watches."""

import resource


def raise_limit() -> None:
    """Take as many as the system gives: the lower limit that shells set is for programs that use `select`."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
