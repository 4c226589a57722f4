"""Every transport does what ``pvnet.testing.contract`` says."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from pvnet.testing.contract import SCENARIOS, LoopbackUnderTest, MqttUnderTest, Scenario, TransportUnderTest, run
from pvnet.testing.unix import UnixUnderTest
from pvnet.transport.loopback import Faults

BAD = Faults(drop=0.1, duplicate=0.1, reorder=0.3, delay_s=0.001)

TRANSPORTS = [
    pytest.param(LoopbackUnderTest, id="loopback"),
    pytest.param(lambda: LoopbackUnderTest(BAD, seed=7), id="loopback-faults"),
    pytest.param(lambda: MqttUnderTest("mosquitto"), id="mqtt-mosquitto", marks=pytest.mark.needs("mosquitto")),
    pytest.param(lambda: MqttUnderTest("embedded"), id="mqtt-embedded"),
    pytest.param(lambda: UnixUnderTest(LoopbackUnderTest()), id="unix-loopback"),
    pytest.param(lambda: UnixUnderTest(LoopbackUnderTest(BAD, seed=8)), id="unix-loopback-faults"),
    pytest.param(
        lambda: UnixUnderTest(MqttUnderTest("mosquitto")), id="unix-mosquitto", marks=pytest.mark.needs("mosquitto")
    ),
]


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.__name__)
@pytest.mark.parametrize("transport", TRANSPORTS)
def test_contract(transport: Callable[[], TransportUnderTest], scenario: Scenario) -> None:
    run(transport(), scenario)
