"""URLs with an account: masked, checked, completed."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable

import pytest

from framework import App
from framework.exceptions import ConfigError, FrameworkError
from framework.server_url import check, mask, with_account
from framework_drivers.redis.url import parse
from framework_transports.amqp.address import addresses
from framework_transports.kombu import KombuOptions, KombuTransport
from support import workers

SCHEMES = ("redis", "rediss", "redis+socket", "sentinel", "redis-cluster", "rediss-cluster", "amqp", "amqps", "sqs")
#: What reads the URLs of a scheme, if it is not the Redis driver.
READERS: dict[str, Callable[[str], object]] = {
    "amqp": lambda url: addresses(url, None),
    "amqps": lambda url: addresses(url, None),
    "sqs": lambda url: KombuTransport(url, KombuOptions(), {}).consumer(),
}
#: Each has a character that ends an account, or that URLs do not allow in one.
SECRETS = [
    f"{before}{character}{after}"
    for character in ("/", "#", "?", "[", "]", ";", " ", "\t", "/@", "?x=1@", ":/", "@/", "#;")
    for before, after in (("qzxvk", "jwgqx"), ("7531", "jwgqx"), ("qzxvk", "8642"), ("7531", "8642"), ("", "jwgqx"))
    # A number, and then a server with a user: that is a URL of two servers.
    if not (before.isdigit() and character == ";")
]


def shows(text: str, secret: str) -> bool:
    """Whether a piece of three characters of the secret is in `text`, its remedy left out."""
    told = text.split("percent-encode")[0]
    return any(secret[start : start + 3] in told for start in range(len(secret) - 2))


def urls(secret: str) -> list[str]:
    """Return URLs with the secret as the password, and as a part of the user."""
    accounts = [f"me:{secret}", f":{secret}", f"me:x{secret}"]
    # What follows a slash at the beginning is a path; what follows a semicolon, another server with a user of its own.
    if not re.search(r"^/|[;\s]", secret):
        accounts.append(f"{secret}:pass")
    return [f"{scheme}://{account}@host.test:999/0" for scheme, account in itertools.product(SCHEMES, accounts)]


@pytest.mark.parametrize("secret", SECRETS)
def test_nothing_of_an_account_is_shown_that_is_not_encoded(secret):
    for url in urls(secret):
        assert not shows(mask(url), secret), url
        for given in (url, f"redis://other:1/0;{url}", f"{url};other:1"):
            assert not shows(mask(given), secret), given
            with pytest.raises(ConfigError, match=r"percent-encode it .* username and password") as caught:
                check(given)
            assert not shows(str(caught.value), secret), given


@pytest.mark.parametrize("secret", SECRETS)
def test_plugins_refuse_it_by_themselves(secret):
    for url in urls(secret):
        with pytest.raises(ConfigError) as caught:
            READERS.get(url.partition(":")[0], parse)(url)
        assert not shows(str(caught.value), secret), url


@pytest.mark.parametrize("option", ["broker_url", "broker_read_url", "broker_write_url", "result_backend"])
def test_a_client_refuses_it(option):
    for secret in SECRETS:
        app = App("one", set_as_current=False)
        app.conf.update({option: f"redis://me:{secret}@host.test/0"})
        table = option.partition("_")[0]
        with pytest.raises(ConfigError, match=rf"or password_file\) under \[{table}\]") as caught:
            app.conf.settings  # noqa: B018 - computed when it is read
        assert not shows(str(caught.value), secret)


@pytest.mark.parametrize("where", ["argument", "environment", "file", "results"])
def test_the_command_line_does_not_show_it(where, tmp_path):
    secret = "qzxvk/jw#gq?xj[zq"
    url = f"amqp://me:{secret}@host.test/0"
    (tmp_path / "tasks.py").write_text('from framework import App\napp = App("tasks")\n')
    args, env = (), {}
    if where == "argument":
        args = ("-b", url)
    elif where == "environment":
        env = {"FRAMEWORK_BROKER_URL": url}
    elif where == "results":
        env = {"FRAMEWORK_RESULT_BACKEND": url.replace("amqp", "redis")}
    else:
        (tmp_path / "framework.toml").write_text(f'[broker]\nurl = "{url}"\n')
    for command in (("worker",), ("status",), ("queues",), ("report",), ("config", "show"), ("config", "check")):
        done = workers.run_command(*args, "-A", "tasks", *command, app_dir=tmp_path, env=env)
        assert done.returncode == 78, (command, done)
        assert not shows(done.stdout + done.stderr, secret), (command, done)
        assert "percent-encode" in done.stderr, (command, done)


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("redis://me:p%2Fw@host:1/0", "redis://me:********@host:1/0"),
        ("redis://me:p@:w@host:1/0", "redis://me:********@host:1/0"),
        ("redis://me@host", "redis://me@host"),
        ("redis://[::1]:6379/0", "redis://[::1]:6379/0"),
        ("amqp://a:b@[fe80::1%25eth0]:5672//", "amqp://a:********@[fe80::1%25eth0]:5672//"),
        ("redis://a:b@c;d:e@f:1", "redis://a:********@c;d:********@f:1"),
        (
            "redis+socket:///run/me@home/redis.sock?virtual_host=1",
            "redis+socket:///run/me@home/redis.sock?virtual_host=1",
        ),
        ("rediss://h/0?ssl_ca_certs=/home/me@work/ca.pem", "rediss://h/0?ssl_ca_certs=/home/me@work/ca.pem"),
        ("sqlite:////home/me@work/a;b.db", "sqlite:////home/me@work/a;b.db"),
        ("mongodb://a:b@one:1,two:2/db", "mongodb://a:********@one:1,two:2/db"),
        ("sqs://key:secret@", "sqs://key:********@"),
        ("memory://", "memory://"),
        ("", ""),
        ("no URL at all: me@work", "no URL at all: me@work"),
    ],
)
def test_what_is_right_is_taken(url, shown):
    check(url)
    assert mask(url) == shown


@pytest.mark.parametrize("url", ["redis://host:port/0", "redis://user:qzxvk2", "amqp://h:-1/"])
def test_a_port_is_a_number(url):
    with pytest.raises(ConfigError, match=r"after host: there must be a number, the port"):
        check(url)
    assert "qzx" not in mask(url)


@pytest.mark.parametrize(
    ("url", "username", "password", "full"),
    [
        ("redis://h:1/0", "me", "p/w#?[@:;%", "redis://me:p%2Fw%23%3F%5B%40%3A%3B%25@h:1/0"),
        ("redis://h:1/0", None, "pw", "redis://:pw@h:1/0"),
        ("redis://me@h:1/0", "other", "pw", "redis://me:pw@h:1/0"),
        ("redis://me:p%77@h:1/0", None, "pw", "redis://me:p%77@h:1/0"),
        ("redis://one;two:1;a:b@three", "me", "b", "redis://me:b@one;me:b@two:1;a:b@three"),
        (
            "redis+socket:///run/redis.sock?virtual_host=1",
            None,
            "pw",
            "redis+socket://:pw@/run/redis.sock?virtual_host=1",
        ),
        ("amqp://", "me", "pw", "amqp://me:pw@"),
        ("sqlite:////a/b.db", "me", "pw", "sqlite:////a/b.db"),
        ("redis://h", None, None, "redis://h"),
    ],
)
def test_an_account_from_settings(url, username, password, full):
    assert with_account(url, username, password) == full


def test_settings_of_an_account(tmp_path):
    (tmp_path / "secret").write_text("p/w\n")
    (tmp_path / "framework.toml").write_text(
        '[broker]\nurl = "redis://h/0"\nusername = "me"\npassword_file = "secret"\n'
        '[result]\nbackend = "redis://h/1"\nusername = "you"\npassword_file = "secret"\n'
    )
    (tmp_path / "tasks.py").write_text('from framework import App\napp = App("tasks")\n')
    shown = workers.run_command("config", "show", app_dir=tmp_path)
    assert "redis://me:********@h/0" in shown.stdout, shown
    assert "redis://you:********@h/1" in shown.stdout, shown
    assert "p/w" not in shown.stdout + shown.stderr
    app = App("two", set_as_current=False)
    app.conf.update(
        {"broker_host": "h", "broker_username": "me", "broker_password": "p/w", "broker_transport": "redis"}
    )
    assert app.conf.settings.broker.url == "redis://me:p%2Fw@h/"
    app.conf.update({"broker_url": "redis://me:another@h/"})
    with pytest.raises(FrameworkError, match=r"\[broker\]: there are two passwords") as caught:
        app.conf.settings  # noqa: B018 - computed when it is read
    assert "another" not in str(caught.value)
