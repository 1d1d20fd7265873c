"""The link over TLS: who must be shown, and what is said when that does not fit."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from certificates import certify, needs_openssl
from commander_here import Told, serving
from scripted_dispatcher import ScriptedDispatcher, ScriptedSession

from commander import Turn, agent
from commander.cli import main

pytestmark = needs_openssl


@agent("echo")
async def echo(turn: Turn) -> Any:
    yield turn.text


@pytest.fixture
def dispatcher(tmp_path: Path) -> Iterator[ScriptedDispatcher]:
    """One that shows a certificate and demands one."""
    certificate, key = certify(tmp_path, "dispatcher")
    worker, _ = certify(tmp_path, "worker")
    credentials = grpc.ssl_server_credentials(
        [(key.read_bytes(), certificate.read_bytes())], worker.read_bytes(), require_client_auth=True
    )
    with ScriptedDispatcher(credentials=credentials) as running:
        yield running


def test_both_sides_show_who_they_are(dispatcher: ScriptedDispatcher, tmp_path: Path) -> None:
    files = {
        "tls_ca": tmp_path / "dispatcher.pem",
        "tls_certificate": tmp_path / "worker.pem",
        "tls_key": tmp_path / "worker.key",
    }
    with serving(dispatcher.address, echo, tls=True, **files):
        ScriptedSession(dispatcher.accept(), "s", text="hello").done()


def test_a_certificate_nobody_trusts_is_no_link(
    dispatcher: ScriptedDispatcher, caplog: pytest.LogCaptureFixture
) -> None:
    told = Told(caplog)
    with serving(dispatcher.address, echo, tls=True):
        trouble = told.wait_for("no link")
    assert "UNAVAILABLE" in trouble
    assert "name the authority that signed its certificate with --tls-ca" in trouble


def test_a_file_that_is_gone_is_named(
    dispatcher: ScriptedDispatcher, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    told = Told(caplog)
    with serving(dispatcher.address, echo, tls=True, tls_ca=tmp_path / "gone.pem"):
        assert f"{tmp_path / 'gone.pem'}: No such file" in told.wait_for("no link")


@pytest.mark.parametrize("command", ["run demo", "ask hello"])
@pytest.mark.parametrize(
    ("flags", "complaint"),
    [
        ("--tls-ca @garbage.pem", "tls_ca: @garbage.pem should hold certificates in PEM"),
        (
            "--tls-certificate @garbage.pem --tls-key @worker.key",
            "tls_certificate, tls_key: @garbage.pem should be a certificate chain and @worker.key its key",
        ),
        (
            "--tls-certificate @worker.pem --tls-key @garbage.pem",
            "tls_certificate, tls_key: @worker.pem should be a certificate chain and @garbage.pem its key",
        ),
        (
            "--tls-certificate @worker.pem --tls-key @other.key",
            "tls_certificate, tls_key: @other.key is not the key of @worker.pem",
        ),
    ],
)
def test_certificates_that_can_not_be_used_are_refused_at_the_start(
    command: str, flags: str, complaint: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("worker", "other"):
        certify(tmp_path, name)
    (tmp_path / "garbage.pem").write_text("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")
    # Dialled, this is no place: what is refused is not dialled.
    words = [
        *command.split(),
        "--dispatcher",
        "127.0.0.1:1",
        "--tls",
        *flags.replace("@", f"{tmp_path}/").split(),
    ]
    assert main(words) == 2
    err = capsys.readouterr().err
    assert f"commander: {complaint.replace('@', f'{tmp_path}/')}" in err
    assert "Traceback" not in err
