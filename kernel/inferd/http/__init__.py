"""The HTTP gateway: what programs ask in OpenAI's or Ollama's words, said to a kernel by `inferd_client`.

It is a process of its own with no rights of its own: each request's key is the kernel's, and is passed on.
"""
