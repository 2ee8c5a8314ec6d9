"""Where things are in the checkout."""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).parents[1]
"""The checkout."""

WORK = ROOT / ".test"
"""What tests leave to look at; not under version control."""
