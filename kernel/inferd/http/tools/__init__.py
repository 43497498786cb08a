"""Calls of tools and reasoning in what models write: parsers, grammars that enforce calls, and template variables.

Pure: no I/O, no transport, and nothing of the kernel.
"""
