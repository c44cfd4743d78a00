"""Every exception of the framework, in one tree.

1. `FrameworkError`: an error of the framework, with a sentence for the user and an exit code.
2. `TaskPredicate`: raised by a task to choose its outcome (`Retry`, `Ignore`, `Reject`).
3. Outcomes stored as results (`TimeLimitExceeded`, `WorkerLostError`, …). Their `wire_module` is the module in which
   Celery clients look for the class, so that both ends raise the same class.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any, ClassVar

from framework import exitcodes


class FrameworkError(Exception):
    """Base of the framework's errors; `str(error)` is one sentence for the user, with the remedy if one is known."""

    exit_code: ClassVar[int] = exitcodes.SOFTWARE


# ---------------------------------------------------------------- configuration and start


class ConfigError(FrameworkError):
    """A setting, a file or an option is unknown or has a wrong value."""

    exit_code = exitcodes.CONFIG


class ImproperlyConfigured(ConfigError):
    """The settings contradict each other."""

    wire_module = "celery.exceptions"


class AppNotFound(ConfigError):
    """The application does not exist in the module that the user named."""


class QueueNotFound(ConfigError):
    """A queue is not defined, and `task_create_missing_queues` is off."""

    wire_module = "celery.exceptions"


class PluginError(FrameworkError):
    """A plugin cannot be used; the text names the plugin, its distribution and the remedy."""

    exit_code = exitcodes.CONFIG


class PluginNotFound(PluginError):
    """No distribution offers a plugin of that name."""


class PluginConflict(PluginError):
    """Two distributions offer a plugin of the same name."""


class PluginUnavailable(PluginError):
    """The plugin is installed, but cannot work here, for example because a library is missing."""


class PluginInvalid(PluginError):
    """The plugin cannot be imported, or does not keep the contract of its family."""


class GraphError(FrameworkError):
    """The steps cannot be ordered, or a step uses a name that it does not declare."""

    exit_code = exitcodes.CONFIG


class GraphCycle(GraphError):
    """Steps require each other in a cycle; the text lists the cycle."""


class GraphGap(GraphError):
    """A step requires a name that no step provides."""


class StepFailed(FrameworkError):
    """A step failed to start; the started steps have been stopped."""


# ---------------------------------------------------------------- broker and result store


class TransportError(FrameworkError):
    """The broker refused an operation."""

    exit_code = exitcodes.UNAVAILABLE
    #: Whether the same operation may succeed later: the server is away, or full, or cannot write at present.
    temporary: bool = False


class ConnectionLost(TransportError):
    """The broker or result store cannot be reached; a retry may succeed."""

    exit_code = exitcodes.UNREACHABLE
    temporary = True


class PublishRefused(TransportError):
    """The broker refused messages (unroutable, queue full, too large)."""

    def __init__(self, text: str = "", refused: frozenset[int] | None = None, *, temporary: bool = False) -> None:
        """`refused`: indexes of the refused messages among those published; None: all were refused.

        `temporary`: the broker may accept them later, for example when a queue is not full any more.
        """
        super().__init__(text)
        self.refused = refused
        self.temporary = temporary


OperationalError = ConnectionLost


# ---------------------------------------------------------------- messages


class MessageError(FrameworkError):
    """A message cannot become a task and moves to the dead-letter queue."""

    reason: ClassVar[str] = "invalid"


class MessageUndecodable(MessageError):
    """The body or envelope cannot be decoded."""

    reason = "undecodable"


class ContentRefused(MessageError):
    """`accept_content` does not contain the content type of the message."""

    reason = "content-refused"


class MessageTooLarge(MessageError):
    """The body is larger, or nested deeper, than the settings allow."""

    reason = "too-large"


# ---------------------------------------------------------------- outcomes that a task chooses


class TaskPredicate(FrameworkError):
    """Raised inside a task to choose its outcome; not a failure."""

    wire_module = "celery.exceptions"


class Retry(TaskPredicate):
    """The task is retried. Raised by `Task.retry`, or by the task itself."""

    def __init__(
        self,
        message: str | None = None,
        exc: BaseException | None = None,
        when: datetime | float | None = None,
        is_eager: bool = False,
        sig: Any = None,
    ) -> None:
        self.message = message
        self.exc = exc
        self.when = when
        self.is_eager = is_eager
        self.sig = sig
        super().__init__(message, exc, when)

    @property
    def is_sent(self) -> bool:
        """Whether the message of the retry has been sent; a `Retry` that a task makes by itself sends nothing."""
        return self.sig is not None and not self.is_eager

    def humanize(self) -> str:
        """Return when the task runs again: `in 10.0s`, or `at <time>`."""
        if isinstance(self.when, (int, float)):
            return f"in {self.when}s"
        return f"at {self.when}"

    def __str__(self) -> str:
        if self.message:
            return self.message
        if self.exc is not None:
            return f"Retry {self.humanize()}: {self.exc!r}"
        return f"Retry {self.humanize()}"


class Ignore(TaskPredicate):
    """Acknowledge the message and store no result."""


class Reject(TaskPredicate):
    """Reject the message; requeue it if `requeue`."""

    def __init__(self, reason: object = None, requeue: bool = False) -> None:
        self.reason = reason
        self.requeue = requeue
        super().__init__(reason, requeue)

    def __str__(self) -> str:
        return f"reject requeue={self.requeue}: {self.reason}"


# ---------------------------------------------------------------- stored outcomes


class TaskError(FrameworkError):
    """Base of the errors that a caller may get as a result."""

    wire_module = "celery.exceptions"


class SoftTimeLimitExceeded(Exception):
    """Raised inside a task at its soft time limit; a task may catch it to clean up."""

    wire_module = "billiard.exceptions"

    def __str__(self) -> str:
        return f"SoftTimeLimitExceeded{self.args!r}"


class TimeLimitExceeded(TaskError):
    """The task was stopped at its hard time limit; the argument is that limit in seconds."""

    wire_module = "billiard.exceptions"

    def __str__(self) -> str:
        return f"TimeLimitExceeded{self.args!r}"


class WorkerLostError(TaskError):
    """The process that ran the task died."""

    wire_module = "billiard.exceptions"


class Terminated(TaskError):
    """The task was terminated while it ran."""

    wire_module = "billiard.exceptions"


class TaskRevokedError(TaskError):
    """The task was revoked, terminated, or has expired; the argument is the reason."""


class NotRegistered(KeyError, TaskError):
    """The worker does not have the task; the argument is its name."""

    wire_module = "celery.exceptions"

    def __repr__(self) -> str:
        return str(self)

    def __str__(self) -> str:
        return str(self.args[0]) if self.args else ""


class AlreadyRegistered(ConfigError):
    """Two different functions have the same task name."""

    wire_module = "celery.exceptions"


class InvalidTaskError(TaskError):
    """The message is not a valid call of its task."""


class MaxRetriesExceededError(TaskError):
    """The task has reached its maximum number of retries."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.task_args: Any = kwargs.pop("task_args", ())
        self.task_kwargs: Mapping[str, Any] = kwargs.pop("task_kwargs", {})
        super().__init__(*args)


class TimeoutError(TaskError):  # noqa: A001 - Celery's name
    """A result did not arrive within the timeout."""


class IncompleteStream(TaskError):
    """A task has not ended, so its child tasks are not known yet."""


class ChordError(TaskError):
    """A task of a chord's header failed."""


class BackendError(TaskError):
    """The result store refused an operation."""


class UnknownError(TaskError):
    """A stored exception whose class does not exist in this process; the text is its name and message."""


def wire_module(exc_type: type[BaseException]) -> str:
    """Return the module in which peers look for the class `exc_type`, for most of ours `celery.exceptions`."""
    return str(getattr(exc_type, "wire_module", exc_type.__module__))
