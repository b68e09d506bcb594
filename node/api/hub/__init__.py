"""The HTTP interface of the Hugging Face Hub over what this node has, so that its clients work with `HF_ENDPOINT` set.

A path is a repository whose revisions are its releases; a base is a repository of one revision. What is answered
follows PROTOCOL.md; nothing here ever mentions Xet, since its clients would then ask elsewhere for the files.
"""
