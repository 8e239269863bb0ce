"""A mailbox for the reports of trials on a cluster. Its process imports only this module."""

import collections

from agegender import progress


class Mailbox:
    """Keeps trials' reports until the driver asks for them; an actor on the driver's node."""

    def __init__(self):
        self.messages = collections.defaultdict(list)

    def put(self, name: str, said: str | progress.Progress) -> None:
        """Store a trial's report."""
        self.messages[name].append(said)

    def take(self, name: str) -> list[str | progress.Progress]:
        """Return a trial's reports since the last call."""
        return self.messages.pop(name, [])
