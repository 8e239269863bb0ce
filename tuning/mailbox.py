"""Where the trials of a cluster leave word: a module of its own, for it needs no network.

The process that serves it imports what its module imports: here nothing.
"""

import collections


class Mailbox:
    """What the trials say, until the driver asks for it; an actor on the driver's node."""

    def __init__(self):
        self.lines = collections.defaultdict(list)

    def put(self, name: str, line: str | None) -> None:
        """Keep a line of a trial, None for a sign of life."""
        self.lines[name].append(line)

    def take(self, name: str) -> list[str | None]:
        """Hand over a trial's lines."""
        return self.lines.pop(name, [])
