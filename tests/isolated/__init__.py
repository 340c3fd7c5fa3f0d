"""Checks that load another runtime beside PyTorch; each file runs in a process of its own, from test_isolated.py."""
