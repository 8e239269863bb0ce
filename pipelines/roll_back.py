"""Give the previous champion its place back: `make rollback MODEL=B`; a second call undoes it.

The file in exports/ follows with the next `make promote` or `make pull`.
"""

from pathlib import Path

from agegender.registry import promotion, tracking, versions


def roll_back(*, model: str, generated: bool = False) -> None:
    """Roll one model back and say what its champion is."""
    name = versions.full_name(model, generated)
    tracking.connect(Path.cwd())
    champion, previous = promotion.roll_back(name)
    print(f"{name}: version {champion} is champion again, version {previous} is previous.")
