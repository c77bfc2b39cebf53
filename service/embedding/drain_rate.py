"""How fast the workers empty the queue, measured while they do it."""

# How much of the past is kept at the end of each batch: the rate shows about the last ten.
MEMORY = 0.9


class DrainRate:
    """The tokens per second of all workers together, lately.

    Time in which none of them computes does not count. Times are in seconds, of any one clock.
    """

    def __init__(self) -> None:
        self.computing = 0  # workers
        self._measured_until = 0.0
        self._tokens = 0.0
        self._seconds = 0.0

    def begin(self, now: float) -> None:
        """Count a worker that begins a batch."""
        if not self.computing:
            self._measured_until = now
        self.computing += 1

    def end(self, now: float, tokens: int) -> None:
        """Count the batch that a worker has ended, with the tokens that it computed."""
        self.computing -= 1
        self._tokens = MEMORY * self._tokens + tokens
        self._seconds = MEMORY * self._seconds + now - self._measured_until
        self._measured_until = now

    def seconds_for(self, tokens: int) -> float | None:
        """How long the workers take for this many tokens; None where nothing was measured."""
        return tokens * self._seconds / self._tokens if self._tokens else None
