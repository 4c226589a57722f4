"""pypowervm's own wrappers read our documents, and we read its requests and the recordings that it ships.

Only where PVNET_PYPOWERVM names a virtual environment that has it (as `make interop` does it); what needs none of it is
in the other tests.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
from pathlib import Path
from typing import Any

import novalink_doc_rig as rig
import pytest

from pvnet.novalink.atom import entry, feed
from pvnet.novalink.errors import RequestError, http_error
from pvnet.novalink.event_documents import Event, event_resource
from pvnet.novalink.job_documents import JobState, already_off, job_response, job_template
from pvnet.novalink.job_requests import JobRequest
from pvnet.novalink.markup import Element, parse, serialize
from pvnet.novalink.names import ATOM_NS
from pvnet.novalink.network_documents import client_network_adapter, virtual_network, virtual_switch
from pvnet.novalink.network_requests import create_adapter, create_switch, modify_adapter
from pvnet.novalink.partition_documents import logical_partition, persistent_memory_volume
from pvnet.novalink.partition_requests import create_partition, modify_partition
from pvnet.novalink.system_documents import managed_system
from pvnet.pb.v1.management_pb2 import CreateAdapter, CreateSwitch, ModifyAdapter, ModifyPartition, Processors

ENVIRONMENT = os.environ.get("PVNET_PYPOWERVM")


def _documents(folder: Path) -> None:
    seen = rig.view()
    guest = rig.guest_of(seen)
    job = JobState(7, JobRequest("PowerOff", "LogicalPartition", {"a": "b"}), "U", "COMPLETED_WITH_ERROR", 1, 2, "")
    events = (Event(1, "NEW_CLIENT"), Event(2, "MODIFY_URI", "/rest/api/uom/x", "PartitionState"))
    feeds = {
        "partitions": [logical_partition(seen, p) for p in seen.partitions],
        "adapters": [client_network_adapter(seen, guest, a) for a in guest.adapters],
        "switches": [virtual_switch(seen, s) for s in seen.switches],
        "networks": [virtual_network(seen, s, vlan) for s, vlan in seen.networks()],
        "volumes": [persistent_memory_volume(seen, guest, v) for v in guest.scm],
        "events": [event_resource(event, rig.BASE) for event in events],
    }
    entries = {
        "system": managed_system(seen),
        "guest": logical_partition(seen, guest),
        "template": job_template("LogicalPartition", "PowerOff"),
        "job": job_response(JobState(**{**_fields(job), "message": already_off("x")})),
    }
    for name, resources in feeds.items():
        (folder / name).write_bytes(feed(f"/rest/api/uom/{name}", resources, rig.BASE))
    for name, resource in entries.items():
        (folder / name).write_bytes(entry(resource, rig.BASE))
    (folder / "error").write_bytes(http_error(404, "/rest/api/uom/x", "Not found", "No <such> thing"))


def _fields(job: JobState) -> dict[str, Any]:
    return {name: getattr(job, name) for name in job.__slots__}


if ENVIRONMENT is not None:
    PYTHON = Path(ENVIRONMENT) / "bin/python"

    @pytest.fixture(scope="module")
    def oracle(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], Path]:
        """What the wrappers say of our documents, and the folder of the requests that they made of them."""
        documents, made = tmp_path_factory.mktemp("documents"), tmp_path_factory.mktemp("requests")
        _documents(documents)
        script = Path(__file__).with_name("pypowervm_oracle.py")
        done = subprocess.run([PYTHON, script, documents, made], capture_output=True, check=False, text=True)
        assert done.returncode == 0, done.stderr[-3000:]
        return json.loads(done.stdout), made

    def test_pypowervm_reads_our_documents(oracle: tuple[dict[str, Any], Path]) -> None:
        facts, _ = oracle
        capable = facts.pop("capable")
        assert capable["linux_capable"]
        assert not capable["active_lpar_mobility_capable"]
        assert "default" in facts.pop("modes")
        other = facts["switches"][1][1]
        assert other == 1
        assert all(order == sorted(order) for order in facts.pop("order"))
        assert facts == {
            "system": [rig.SYSTEM_UUID, "lab one", "8247-22L*PVNET01", 61440, 15.05],
            "migration": 0,
            "lpars": [
                [rig.MP.upper(), "mp", 1, "running", "AIX/Linux", "active", 512, "70"],
                [rig.GUEST.upper(), "Zwölf & <Co>", 2, "not activated", "AIX/Linux", "inactive", 64, "71"],
                [rig.IBMI.upper(), "ibmi", 3, "error", "OS400", "inactive", 64, "73"],
            ],
            "dedicated": [False, False, True],
            "cnas": [["02000000000A", 2, 1, 2, 0, False, True], ["02000000000B", 3, 22, 2, other, False, True]],
            "plugged": [True, True],
            "switches": [["ETHERNET0", 0, "Veb", 1], ["other", other, "Veb", 2]],
            "networks": [
                ["VLAN1-ETHERNET0", 1, 0, False, True],
                ["VLAN1-other", 1, other, False, True],
                ["VLAN22-other", 22, other, True, True],
            ],
            "volumes": [[128, 2]],
            "events": [
                ["NEW_CLIENT", "1", None, None],
                ["MODIFY_URI", "2", f"{rig.BASE}/rest/api/uom/x", "PartitionState"],
            ],
            "template": "PowerOff",
            "job": ["COMPLETED_WITH_ERROR", "7", already_off("x")],
            "error": [404, "Not found", "No <such> thing"],
        }

    def test_we_read_pypowervms_requests(oracle: tuple[dict[str, Any], Path]) -> None:
        seen = rig.view()
        guest = rig.guest_of(seen)
        made = {path.name: path.read_bytes() for path in oracle[1].iterdir()}

        created = create_partition(made["create"], seen)
        assert (created.command.label, created.command.memory_bytes) == ("new one", 1 << 30)
        assert created.command.processors.virtual == 2
        assert created.ignored == ()

        def modified(name: str) -> ModifyPartition | None:
            return modify_partition(made[name], seen, guest).command

        assert modified("same") is None
        assert modified("rename") == ModifyPartition(name="lpar2", if_revision=71, label="renamed")
        processors = Processors()
        processors.CopyFrom(guest.processors)
        processors.units = 125
        assert modified("size") == ModifyPartition(
            name="lpar2", if_revision=71, memory_bytes=96 * rig.MIB, processors=processors
        )
        rebuilt = modified("rebuild")
        assert rebuilt is not None
        assert (rebuilt.processors.dedicated, rebuilt.processors.units) == (True, 200)

        plugged = create_adapter(made["plug"], seen, guest).command
        assert plugged == CreateAdapter(partition="lpar2", slot=4, mac="02:00:00:aa:bb:cc", switch="other", vlan=22)
        moved = modify_adapter(made["vlan"], seen, guest, guest.adapters[0]).command
        assert moved == ModifyAdapter(partition="lpar2", slot=2, if_revision=72, vlan=33)
        assert create_switch(made["switch"], seen).command == CreateSwitch(label="NEW")

    @pytest.fixture(scope="module")
    def recordings() -> dict[str, Element]:
        """The documents of real servers that pypowervm ships, by name."""
        where = [PYTHON, "-c", "import pypowervm; print(*pypowervm.__path__)"]
        package = Path(subprocess.run(where, capture_output=True, check=True, text=True).stdout.strip())
        found = {}
        for path in sorted((package / "tests/data").glob("*.txt")):
            body = re.search(r"<(\w+:)?(feed|entry)[ >].*</(\w+:)?\2>", path.read_text(encoding="utf-8"), re.DOTALL)
            if body is not None and len(body.group().encode()) <= 1 << 20:
                found[path.stem] = parse(body.group().encode())
        return found

    def test_we_read_the_recordings(recordings: dict[str, Element]) -> None:
        assert len(recordings) > 50
        assert all((root.namespace, root.name in {"feed", "entry"}) == (ATOM_NS, True) for root in recordings.values())
        for root in recordings.values():
            assert parse(serialize(_plain(root))) == _plain(root)

    def test_real_partitions_could_be_made_here(recordings: dict[str, Element]) -> None:
        seen = rig.view()
        partitions = [e for e in recordings["lpar"].walk() if e.name == "LogicalPartition"]
        assert len(partitions) > 10
        made = 0
        for partition in partitions:
            data = serialize(_plain(partition))
            with pytest.raises(RequestError, match="cannot be changed"):
                modify_partition(data, seen, rig.guest_of(seen))
            try:
                command = create_partition(data, seen).command
            except RequestError as error:
                # What a new one cannot have: a long name, no memory, processors of another pool.
                why = "PartitionName: |.*DesiredMemory: ('0'|nothing)|.*SharedProcessorPoolID: "
                assert re.match(why, error.message)  # noqa: PT017
                continue
            made += 1
            assert command.label == partition.value("PartitionName")
            memory = partition.value("PartitionMemoryConfiguration", "DesiredMemory")
            assert command.memory_bytes == int(memory or 0) * rig.MIB
        assert made

    def test_ours_have_no_field_that_real_ones_have_elsewhere(recordings: dict[str, Element]) -> None:
        """Names of fields, and what they are in, are those of the recordings, as far as they have them."""
        real: dict[str, set[str]] = {}
        for root in recordings.values():
            for one in root.walk():
                for child in one.children:
                    real.setdefault(child.name, set()).add(one.name)
        seen = rig.view()
        guest = rig.guest_of(seen)
        ours = [
            managed_system(seen, "hmc"),
            *(logical_partition(seen, p) for p in seen.partitions),
            *(client_network_adapter(seen, guest, a) for a in guest.adapters),
            *(virtual_switch(seen, s) for s in seen.switches),
            *(virtual_network(seen, s, vlan) for s, vlan in seen.networks()),
        ]
        odd = {
            (one.name, child.name)
            for resource in ours
            for one in resource.content.walk()
            for child in one.children
            if child.name in real and one.name not in real[child.name]
        }
        # No recording of a system has it, but the wrapper of systems reads it there.
        assert odd == {("ManagedSystem", "AssociatedPersistentMemoryConfiguration")}


def _plain(element: Element) -> Element:
    """Return the element without attributes of other namespaces, which are never written."""
    attributes = {key: value for key, value in element.attributes.items() if not key.startswith("{")}
    children = tuple(_plain(child) for child in element.children)
    return Element(element.namespace, element.name, attributes, element.text, children)
