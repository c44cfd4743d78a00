"""What is pushed onto a queue is seen waiting there, on every broker."""

from __future__ import annotations

from support import queues


def test_pushed_messages_wait(broker_url, rabbit_server):
    assert queues.waiting(broker_url, "q") == 0
    if broker_url.startswith("amqp"):
        with rabbit_server.connect(broker_url.rsplit("/", 1)[1]) as connection:
            connection.channel().queue_declare("q", durable=True, auto_delete=False)
    for _ in range(3):
        queues.push(
            broker_url, b"[[], {}, {}]", {"task": "t", "id": "i"}, queue="q", properties={"correlation_id": "i"}
        )
    assert queues.waiting(broker_url, "q") == 3
