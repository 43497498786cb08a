"""Networks that give texts labels: folders, scores, and what serves them; `training/classifier.py` makes some.

about.py      what a folder says beside its configuration
networks.py   a network with a last layer for labels: made, loaded, and what it scores
reading.py    texts to tokens, the same where it is trained and where it serves
serving.py    a session of it
"""
