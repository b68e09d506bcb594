"""What exists: paths, keys, signed documents, model cards, blobs and the database. Imports nothing else of ours."""
