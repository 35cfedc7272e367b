"""Benchmarks: the coordinator beside plain Celery and the usual recipe, measured in the same run.

``python -m benchmarks`` runs all of them, ``python -m benchmarks --help`` says what there is.
"""
