"""The OpenAI API, as the clients of others speak it: chat, completions, embeddings, responses, models.

A field that would change the answer and is not supported here, or that nobody knows, is a 400 that names it. Fields
of the OpenAI documents that cannot change the tokens are taken and have no effect; each body's docstring lists them.
"""
