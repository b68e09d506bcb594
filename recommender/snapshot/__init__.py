"""Evidence that others measured, as a new node gets it: made by `build` from their tables, kept and read by `files`."""
