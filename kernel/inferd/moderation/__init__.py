"""Rules about what models are told and say: how texts are folded, searched and cut. No I/O, no transport."""
