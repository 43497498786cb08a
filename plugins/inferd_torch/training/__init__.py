"""Training with torch: adapters and whole models of text, step by step, bit for bit the same after a kill.

How a training comes to run, file by file:

    loading.py      a request, checked -> a session; memory.py counts what its steps take, without taking it
    rows.py         the rows of a file, in the order of a seed; texts.py makes tokens of them
    decoder.py      the loss of a language model; lora.py puts adapters beside its layers and writes them
    schedule.py     the learning rate of each step
    session.py      steps, evaluations, checkpoints
"""
