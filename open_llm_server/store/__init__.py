"""Weights on this machine: imported once, checked, and kept in BentoML's model store.

`importing` is the way in, `catalog` the way out; everything else serves one of them.
"""
