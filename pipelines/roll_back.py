"""Bring back the previous champion: `make rollback MODEL=B`; a second call undoes it.

The next `make promote` updates the file in exports/.
"""

from pathlib import Path

from agegender.registry import promotion, tracking, versions


def roll_back(*, model: str, generated: bool = False) -> None:
    """Roll one model back and print its champion."""
    name = versions.full_name(model, generated)
    tracking.connect(Path.cwd())
    champion, previous = promotion.roll_back(name)
    print(f"{name}: version {champion} is champion again, version {previous} is previous.")
