"""Functions that ask language models: classes, moods, values, summaries, orders, advice, translations and dialogues."""
