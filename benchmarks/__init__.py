"""Ours beside what people use today: ``python -m benchmarks.NAME [--quick]``."""
