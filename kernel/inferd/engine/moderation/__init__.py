"""What a language model says, on its way from the engine to the link: held until it is decided, and cut by rules."""
