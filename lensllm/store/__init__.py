"""Content-addressed artefacts on disk, and the schemas of the tables in them."""

from lensllm.store.artifacts import Recipe, Ref, Store, write_table

__all__ = ["Recipe", "Ref", "Store", "write_table"]
