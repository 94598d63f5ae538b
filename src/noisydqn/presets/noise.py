"""Options of indexed noise that presets share."""

from typing import Any

INDEXED: dict[str, Any] = {
    "noise": "indexed",
    "noise_samples": 4,
    "matched_targets": True,
    "acting_noise": "episode",  # one wrong move may lose what it leads to
}
"""All but the scale of the prior, which depends on the rewards."""
