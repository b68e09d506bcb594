"""The bundled base `banyan/seedling`: its recipe, its packaging, and the packaged files."""
