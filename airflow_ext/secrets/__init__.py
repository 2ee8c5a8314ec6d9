"""Secrets backends."""
