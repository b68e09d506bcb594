"""The HTTP interface of a node, one noun per file."""
