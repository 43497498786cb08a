"""Training with torch, bit for bit the same after a kill: adapters, models of text, models of embeddings.

How a training comes to run, file by file:

    loading.py      a request, checked -> a session; memory.py counts what its steps take, without taking it
    rows.py         the rows of a file, in the order of a seed; texts.py makes tokens of them
    decoder.py      the loss of a language model; lora.py puts adapters beside its layers and writes them
    student.py      that of a small one that learns to guess what a large one writes
    encoder.py      the loss of a model of embeddings; encoder_loading.py loads and writes one
    classifier.py   the loss of a classifier; classifier_loading.py loads and writes one; labels.py finds labels of rows
    objective.py    what a session knows of these
    schedule.py     the learning rate of each step
    session.py      steps, evaluations, checkpoints; computing.py the gradients of some rows
    gang.py         what workers of one training tell each other; following.py those that help the one that leads
"""
