import pytest
from behaviour_worlds import MQTT


@pytest.fixture(scope="session", autouse=True)
def _end_brokers():
    yield
    for world in MQTT.values():
        world.close()
