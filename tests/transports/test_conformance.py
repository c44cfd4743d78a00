"""Our own transports before the suite that a stranger's transport has to pass."""

from __future__ import annotations

import pytest

from framework.testing.transports import TransportSuite


class TestMemory(TransportSuite):
    transport = "memory"
    url = "memory://conformance"


class TestSqlite(TransportSuite):
    transport = "sqlite"

    @pytest.fixture
    def broker_url(self, sqlite_url):
        return sqlite_url


class TestRedis(TransportSuite):
    transport = "redis"
    options = {"lease": 1.0}  # noqa: RUF012

    @pytest.fixture
    def broker_url(self, redis_url):
        return redis_url


class TestAmqp(TransportSuite):
    transport = "amqp"
    excused = {  # noqa: RUF012
        "test_the_time_is_named": "what is due is pushed",
        "test_others_learn_of_it": "what is due is pushed",
        "test_it_keeps_its_priority": "what is pushed comes as it comes; see test_amqp_parking",
        "test_deliveries_are_counted": "the broker counts, and leaves the message as it is",
    }

    @pytest.fixture(autouse=True)
    def at_once(self, monkeypatch):
        # How long a queue has to be there to outlive its broker's violent death is no part of the contract.
        monkeypatch.setattr("framework_transports.amqp.parking.SAFE_AFTER", 0.0)

    @pytest.fixture
    def broker_url(self, amqp_url):
        return amqp_url


class TestKombu(TransportSuite):
    """The filesystem stands for all brokers that only kombu knows."""

    transport = "kombu"
    url = "filesystem://"
    many = 300
    excused = {  # noqa: RUF012
        "test_messages_come_in_order": "a folder has no order",
        "test_the_highest_priority_comes_first": "a folder has no order",
        "test_what_is_given_back_comes_first": "a folder has no order",
        "test_no_wake_up_is_lost_in_a_race": "a folder wakes nobody: there are looks at it now and then",
        "test_deliveries_are_counted": "a folder does not count",
        "test_what_a_killed_process_had_comes_back": "a file that was fetched is gone",
        "test_a_queue_that_does_not_exist_has_no_size": "to count is to create, for kombu",
        "test_a_topic_exchange_matches_keys": "for kombu # wants a word at least",
    }

    @pytest.fixture(autouse=True)
    def folder(self, tmp_path, monkeypatch):
        for name in ("messages", "control"):
            (tmp_path / name).mkdir()
        place = str(tmp_path / "messages")
        folders = {"data_folder_in": place, "data_folder_out": place, "control_folder": str(tmp_path / "control")}
        monkeypatch.setattr(type(self), "options", {"polling_interval": 0.1, "transport_options": folders})
