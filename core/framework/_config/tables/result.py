"""The table ``[result]``."""

from typing import Annotated, Any

import msgspec

from framework._config.tables.base import Seconds, Table, opt


class ResultSettings(Table):
    """``[result]``: where results are kept."""

    backend: Annotated[
        str | None,
        opt(
            "URL of the result store: redis://, rpc://, sqlite:///. None: the embedded broker's own file, "
            "else results are not kept. none://: results are not kept.",
            "CELERY_RESULT_BACKEND",
            env=("CELERY_RESULT_BACKEND",),
            secret=True,
        ),
    ] = None
    username: Annotated[str | None, opt("User, if the URL names none. As it is, without percent-encoding.")] = None
    password: Annotated[
        str | None, opt("Password, if the URL has none. As it is, without percent-encoding.", secret=True)
    ] = None
    expires: Annotated[
        Seconds, opt("Seconds a result is kept; 0: for ever.", "CELERY_TASK_RESULT_EXPIRES", "CELERY_RESULT_EXPIRES")
    ] = 86_400.0
    failure_expires: Annotated[
        Seconds | None, opt("Seconds a failure is kept. None: as expires.", "CELERY_RESULT_FAILURE_EXPIRES")
    ] = None
    serializer: Annotated[str, opt("Serializer of results.", "CELERY_RESULT_SERIALIZER")] = "json"
    compression: Annotated[str | None, opt("Compression of results.", "CELERY_RESULT_COMPRESSION")] = None
    extended: Annotated[
        bool, opt("Store name, arguments, worker and queue with a result.", "CELERY_RESULT_EXTENDED")
    ] = False
    persistent: Annotated[
        bool | None, opt("rpc: results survive a restart of the broker.", "CELERY_RESULT_PERSISTENT")
    ] = None
    chord_expires: Annotated[
        Seconds | None, opt("Seconds a chord's parts are kept. None: as expires.", "CELERY_RESULT_CHORD_EXPIRES")
    ] = None
    chord_join_timeout: Annotated[
        Seconds, opt("Seconds to wait when a chord joins its results.", "CELERY_RESULT_CHORD_JOIN_TIMEOUT")
    ] = 3.0
    chord_retry_interval: Annotated[
        Seconds, opt("Seconds between two checks of a chord.", "CELERY_RESULT_CHORD_RETRY_INTERVAL")
    ] = 1.0
    accept_content: Annotated[
        list[str] | None,
        opt(
            "Content types accepted in results. None: accept_content.",
            "RESULT_ACCEPT_CONTENT",
            "CELERY_RESULT_ACCEPT_CONTENT",
        ),
    ] = None
    backend_transport_options: Annotated[
        dict[str, Any],
        opt("Options of the result store, as [result_store.<name>].", "CELERY_RESULT_BACKEND_TRANSPORT_OPTIONS"),
    ] = msgspec.field(default_factory=dict)
