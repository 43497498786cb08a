"""The walls around processes that hold models: what of the system they reach, and what this machine grants of that.

    enter     first, while the process has one thread: an empty network, no capabilities, Landlock, a filter of calls
    seal      once the framework is imported: no more processes, bounds of memory

Each wall that cannot be built is a reason in the `State`; nothing here is silent, and nothing can be taken back.
Linux alone, the standard library alone: it runs before anything else is imported.
"""
