"""How families of models write calls of tools: a parser for each, as one generator from begin to end."""
