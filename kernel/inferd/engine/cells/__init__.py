"""Where foreign code that works for one task runs: in child processes that can be given up at any time.

A worker has one `stem`, a process with a single thread that knows the model's vocabulary and works for nobody. Each
cell is forked from it, so that it is up in a few milliseconds and shares the tokenizer's memory. A cell has a bound on
its memory, dies with the worker, and is killed when it is late: that costs the task that it worked for, and no other.

In the worker are `cell` and, before anything foreign is imported, `starter`, which makes the process that
the stem is forked from; all other modules run in the children.
"""
