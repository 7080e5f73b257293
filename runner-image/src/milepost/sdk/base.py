"""What both kinds of context are: a run, its journal, and a place where they may be used."""

import logging

from milepost.errors import NotAwaitedError
from milepost.sdk.journal import Journal, logger
from milepost.sdk.run import RunInfo
from milepost.sdk.scope import Scope
from milepost.sdk.use import Home


class BaseContext:
    """Without I/O."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self._home = Home(journal.attempt.run)
        self.run: RunInfo = journal.attempt.run
        self.log: logging.LoggerAdapter[logging.Logger] = logging.LoggerAdapter(
            logger, {"run": self.run.id, "attempt": self.run.attempt}
        )

    def root(self) -> Scope:
        """Give the scope of the task's own body. (The runner asks for it.)"""
        return self._journal.root()

    @property
    def idempotency_key(self) -> str:
        """The key to pass on with what a step does outside: 53 letters, digits and '-', unique to this step.

        The same in every attempt, and in a run that is a retry or a redrive of this one; another one in a replay.
        Raises StepKeyError outside of a step's function.
        """
        return self._journal.idempotency_key()

    def end(self) -> None:
        """Refuse every further call. (The runner calls it, once the task and all that it spawned have ended.)"""
        self._home.ended = True

    def forgot(self, error: NotAwaitedError) -> bool:
        """Keep what was not awaited, for the next call and the end of the attempt. (`watch_unawaited` calls it.)"""
        if self._home.over:
            return False
        self._journal.forgotten = self._journal.forgotten or error
        return True
