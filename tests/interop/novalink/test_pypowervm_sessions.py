"""An unmodified pypowervm logs on and off: by password and by file, with good and bad credentials, and after expiry."""

from __future__ import annotations

import os
import stat
import time
from pathlib import Path

import pytest
from interop.novalink.client import Program, StepError, program
from interop.novalink.lab import Lab, lab_up

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("pypowervm")]
EXPIRY_S = 2.0


def test_a_password_over_tls_with_the_labs_ca(shared_lab: Lab) -> None:
    with program(shared_lab.endpoint["ca"]) as running:
        assert running.log_on(**shared_lab.by_password)["mc_type"] == "PVM"
        assert running.system()["name"] == "Kiruna 9"
        assert running.log_off() == {"token_afterwards": 401}


def test_a_file_over_plain_http(shared_lab: Lab) -> None:
    with program() as running:
        assert running.log_on(**shared_lab.by_file)["mc_type"] == "PVM"
        assert [part["name"] for part in running.partitions()] == ["Management", "East End", "west"]
        assert running.log_off() == {"token_afterwards": 401}


def test_a_file_needs_no_name_and_takes_any(shared_lab: Lab) -> None:
    with program() as running:
        running.log_on(**shared_lab.by_file, user="somebody")
        assert running.system()["uuid"]


def test_a_certificate_of_nobody_is_not_trusted(shared_lab: Lab) -> None:
    with program() as running, pytest.raises(StepError) as caught:
        running.log_on(**shared_lab.by_password)
    assert "SSLError" in caught.value.types


def test_without_verification_it_works_too(shared_lab: Lab) -> None:
    with program() as running:
        assert running.log_on(**shared_lab.by_password, verify=False)["mc_type"] == "PVM"


@pytest.mark.parametrize("wrong", [{"password": "no & <such> word"}, {"user": "nobody"}], ids=["password", "user"])
def test_wrong_credentials(shared_lab: Lab, wrong: dict[str, str]) -> None:
    with program(shared_lab.endpoint["ca"]) as running:
        with pytest.raises(StepError) as caught:
            running.log_on(**{**shared_lab.by_password, **wrong})
        assert "HttpUnauth" in caught.value.types
        assert caught.value.status == 401
        assert caught.value.message
        assert "no & <such>" not in caught.value.text
        running.log_on(**shared_lab.by_password)


def test_an_expired_session_logs_on_again_by_itself() -> None:
    with lab_up(more=f"session_timeout_s = {EXPIRY_S}") as lab, program(lab.endpoint["ca"]) as running:
        running.log_on(**lab.by_password)
        first = running.token()
        time.sleep(EXPIRY_S + 1)
        assert running.system()["name"] == "Kiruna 9"
        second = running.token()
        assert second != first
        assert running.raw(method="GET", path="/uom/ManagedSystem")["status"] == 200
        assert running.token() == second


def test_the_password_is_the_users_own(shared_lab: Lab) -> None:
    password_file = Path(shared_lab.endpoint["password_file"])
    assert stat.S_IMODE(password_file.stat().st_mode) == 0o600
    assert password_file.stat().st_uid == os.geteuid()
    assert shared_lab.password not in shared_lab.log()


def test_a_management_console_refuses_files() -> None:
    with lab_up(mode="hmc") as lab, program(lab.endpoint["ca"]) as running:
        assert running.log_on(**lab.by_password)["mc_type"] == "HMC"
        assert running.system()["name"] == "Kiruna 9"
        with pytest.raises(StepError, match="Local authentication not supported"):
            running.log_on(**lab.by_file)


def test_every_request_is_in_the_audit_log(shared_lab: Lab, reader: Program) -> None:
    reader.search(name="East End")
    found = [line for line in shared_lab.log().splitlines() if "/search/" in line]
    assert found
    assert "interop" in found[-1], "the memento of the client"
    assert reader.token() not in shared_lab.log()
