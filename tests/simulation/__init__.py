"""Both cores in one process, with virtual time, a seeded network that fails, and promises that are checked.

`python -m simulation SEED` (in tests/) tells one run step by step.
"""
