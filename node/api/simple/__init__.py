"""The small interface of `node start`: /chat, /chat-sse, /complete and /embed, and what gRPC shares with them.

The bodies are a question and, beside it, any of the generation settings (`node.generation`) that shall differ.
"""
