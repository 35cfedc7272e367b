"""The pages, and what writes those of them that are made from the code: ``python -m docs.generate``."""
