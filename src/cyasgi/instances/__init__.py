"""The slow paths of an instance's life: creation, eviction, closing, reports."""
