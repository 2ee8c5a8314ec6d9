"""Callbacks and notifiers."""
