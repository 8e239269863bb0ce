"""What the trials of a cluster report. The process that keeps it imports this module alone."""

import collections

from agegender import progress


class Mailbox:
    """What the trials report, until the driver asks for it; an actor on the driver's node."""

    def __init__(self):
        self.messages = collections.defaultdict(list)

    def put(self, name: str, said: str | progress.Progress) -> None:
        """Keep what a trial reports."""
        self.messages[name].append(said)

    def take(self, name: str) -> list[str | progress.Progress]:
        """Hand over what a trial reported since the last call."""
        return self.messages.pop(name, [])
