"""The table ``[broker]``."""

from typing import Annotated, Any, Literal

import msgspec

from framework._config.tables.base import Natural, Seconds, Table, opt


class BrokerSettings(Table):
    """``[broker]``: the server or file where messages wait."""

    url: Annotated[
        str,
        opt(
            "URL of the broker, or several (a list, or separated by ;) that are tried in turn. Empty: the embedded "
            "broker, in the file framework.db beside the config file, else in the current directory.",
            "BROKER_URL",
            "CELERY_BROKER",
            env=("CELERY_BROKER_URL",),
            secret=True,
        ),
    ] = ""
    read_url: Annotated[
        str | None,
        opt(
            "URL of the broker that workers consume from, also used by remote control, events, queues, purge and dlq; "
            "several as for url. None: url.",
            env=("CELERY_BROKER_READ_URL",),
            secret=True,
        ),
    ] = None
    write_url: Annotated[
        str | None,
        opt(
            "URL of the broker that clients publish tasks to; several as for url. None: url.",
            env=("CELERY_BROKER_WRITE_URL",),
            secret=True,
        ),
    ] = None
    transport: Annotated[str | None, opt("Scheme, if there is no URL.", "BROKER_TRANSPORT")] = None
    transport_options: Annotated[
        dict[str, Any], opt("Options of the transport, as [transport.<name>].", "BROKER_TRANSPORT_OPTIONS")
    ] = msgspec.field(default_factory=dict)
    connection_timeout: Annotated[Seconds, opt("Seconds to wait for a connection.", "BROKER_CONNECTION_TIMEOUT")] = 4.0
    connection_retry: Annotated[bool, opt("Reconnect when the connection is lost.", "BROKER_CONNECTION_RETRY")] = True
    connection_retry_on_startup: Annotated[bool | None, opt("Retry at start, too. None: as connection_retry.")] = None
    connection_max_retries: Annotated[
        Natural | None, opt("Most attempts; then the worker stops. None: no limit.", "BROKER_CONNECTION_MAX_RETRIES")
    ] = None
    failover_strategy: Annotated[
        str | None, opt("Order of the URLs: round-robin or shuffle.", "BROKER_FAILOVER_STRATEGY")
    ] = None
    heartbeat: Annotated[Natural | None, opt("Seconds between heartbeats (AMQP); 0: none.", "BROKER_HEARTBEAT")] = 120
    use_ssl: Annotated[
        bool | dict[str, Any], opt("TLS: true, or {keyfile, certfile, ca_certs, …}.", "BROKER_USE_SSL")
    ] = False
    login_method: Annotated[str | None, opt("SASL mechanism (AMQP).", "BROKER_LOGIN_METHOD")] = None
    host: Annotated[str | None, opt("Host, if there is no URL.", "BROKER_HOST")] = None
    port: Annotated[int | None, opt("Port, if there is no URL.", "BROKER_PORT")] = None
    username: Annotated[
        str | None, opt("User, for URLs that name none. As it is, without percent-encoding.", "BROKER_USER")
    ] = None
    password: Annotated[
        str | None,
        opt("Password, for URLs that have none. As it is, without percent-encoding.", "BROKER_PASSWORD", secret=True),
    ] = None
    vhost: Annotated[str | None, opt("Virtual host, if there is no URL.", "BROKER_VHOST")] = None
    native_delayed_delivery_queue_type: Annotated[
        Literal["classic", "quorum"], opt("Type of the queues of Celery's delayed delivery (AMQP).")
    ] = "quorum"

    @property
    def reading(self) -> str:
        """The URL of the broker that workers consume from."""
        return self.read_url or self.url

    @property
    def writing(self) -> str:
        """The URL of the broker that clients publish tasks to."""
        return self.write_url or self.url
