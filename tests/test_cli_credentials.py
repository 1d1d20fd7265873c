"""What the client commands show of themselves, certificates and tokens, and what is said when that does not fit."""

import asyncio
import hashlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from asynchronous import PATIENCE_S, asynchronous
from certificates import certify, needs_openssl
from console_server import run_cli
from dispatcher_process import DispatcherProcess, running_dispatcher

from dispatcher.cli import main


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Holds certificates and keys: those of a dispatcher, of an operator it knows and of a stranger."""
    made = tmp_path_factory.mktemp("credentials")
    for name in ("dispatcher", "operator", "stranger"):
        certify(made, name)
    (made / "garbage.pem").write_text("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")
    return made


@pytest.fixture(scope="module")
def demanding(folder: Path) -> Iterator[DispatcherProcess]:
    """A dispatcher that wants to see a certificate."""
    flags = ("--tls-certificate", "dispatcher.pem", "--tls-key", "dispatcher.key")
    with running_dispatcher(*flags, "--tls-client-ca", "operator.pem", cwd=folder) as process:
        yield process


def shows(folder: Path, name: str) -> tuple[str, ...]:
    return ("--tls-certificate", str(folder / f"{name}.pem"), "--tls-key", str(folder / f"{name}.key"))


@needs_openssl
def test_a_dispatcher_that_demands_a_certificate_is_shown_one(
    demanding: DispatcherProcess, folder: Path
) -> None:
    @asynchronous
    async def scene() -> None:
        trusting = ("--tls-ca", str(folder / "dispatcher.pem"))
        known, bare, stranger = await asyncio.gather(
            run_cli("agents", *trusting, *shows(folder, "operator"), address=demanding.address),
            run_cli("agents", *trusting, address=demanding.address),
            run_cli("agents", *trusting, *shows(folder, "stranger"), address=demanding.address),
        )
        assert known == (0, "", "no agents: no commander is connected\n")
        assert (bare[0], bare[1]) == (6, "")
        assert "may want a client's certificate: add --tls-certificate FILE and --tls-key FILE" in bare[2]
        assert bare[2].count("\n") == 1
        assert (stranger[0], stranger[1]) == (6, "")
        assert f"may not know the certificate in {folder / 'stranger.pem'}" in stranger[2]
        assert "tls_client_ca" in stranger[2]

    scene()


@needs_openssl
def test_certificates_may_come_through_pipes(demanding: DispatcherProcess, folder: Path) -> None:
    words = ("agents", "--dispatcher", demanding.address)
    flags = (
        "--tls-ca <(cat dispatcher.pem) --tls-certificate <(cat operator.pem) --tls-key <(cat operator.key)"
    )
    ended = subprocess.run(
        ["bash", "-c", f'"$@" {flags}', "-", sys.executable, "-m", "dispatcher", *words],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
        timeout=PATIENCE_S,
    )
    assert (ended.returncode, ended.stderr) == (0, "no agents: no commander is connected\n")


@needs_openssl
@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("--tls --tls-certificate @operator.pem", "--tls-certificate needs --tls-key"),
        ("--tls --tls-key @operator.key", "--tls-key needs --tls-certificate"),
        (
            "--tls-certificate @operator.pem --tls-key @operator.key",
            "--tls-certificate has no effect without TLS: add --tls, or --tls-ca FILE",
        ),
        (
            "--tls --tls-certificate @operator.pem --tls-key @stranger.key",
            "--tls-certificate, --tls-key: @stranger.key is not the key of @operator.pem",
        ),
        (
            "--tls --tls-certificate @garbage.pem --tls-key @operator.key",
            "--tls-certificate, --tls-key: @garbage.pem should be a certificate chain and @operator.key its key",
        ),
        (
            "--tls --tls-certificate @gone.pem --tls-key @operator.key",
            "--tls-certificate: can't read @gone.pem",
        ),
        ("--tls-ca @garbage.pem", "--tls-ca: @garbage.pem should hold certificates in PEM"),
    ],
)
def test_certificates_that_do_not_fit_are_refused_with_the_flag(
    line: str, complaint: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = line.replace("@", f"{folder}/").split()
    assert main(["agents", *words]) == 2
    err = capsys.readouterr().err
    assert complaint.replace("@", f"{folder}/") in err
    assert err.count("\n") == 1


def test_a_token_that_is_not_known_is_named_by_its_file_alone(tmp_path: Path) -> None:
    digest = hashlib.sha256(b"right").hexdigest()
    tokens = tmp_path / "tokens.toml"
    tokens.write_text(f'[[tokens]]\nname = "op"\nrole = "admin"\nsha256 = "{digest}"\n')
    right, wrong = tmp_path / "right.tok", tmp_path / "wrong.tok"
    right.write_text("right\n")
    wrong.write_text("s3cret\n")

    @asynchronous
    async def scene() -> None:
        with running_dispatcher("--tokens-file", str(tokens)) as dispatcher:
            known, none, unknown = await asyncio.gather(
                run_cli("agents", "--token-file", str(right), address=dispatcher.address),
                run_cli("agents", address=dispatcher.address),
                run_cli("agents", "--token-file", str(wrong), address=dispatcher.address),
            )
        assert known[0] == 0
        assert none[0] == 5
        assert "add --token-file FILE" in none[2]
        assert unknown[0] == 5
        assert f"does not know the token in {wrong}" in unknown[2]
        assert "add --token-file" not in unknown[2]
        assert "s3cret" not in unknown[2]

    scene()
