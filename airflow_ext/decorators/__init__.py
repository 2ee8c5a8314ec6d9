"""Task decorators, registered through the provider info."""
