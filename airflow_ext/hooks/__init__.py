"""Hooks: connections, credentials and URLs."""
