"""What clients of the NovaLink service send: documents, searches, parameters of jobs."""

from __future__ import annotations

from collections.abc import Callable
from random import Random

import novalink_doc_rig as rig
from fuzz.engine import TEXT, Mutator
from fuzz.seeds import Seeds
from fuzz.target import Target

from pvnet.novalink.atom import entry
from pvnet.novalink.errors import RequestError, http_error
from pvnet.novalink.job_documents import job_template
from pvnet.novalink.job_requests import job_request, power_command
from pvnet.novalink.logon_requests import logon_request
from pvnet.novalink.markup import parse, serialize
from pvnet.novalink.names import WEB_NS
from pvnet.novalink.network_documents import client_network_adapter, virtual_switch
from pvnet.novalink.network_requests import create_adapter, create_switch, modify_adapter
from pvnet.novalink.partition_documents import logical_partition
from pvnet.novalink.partition_requests import create_partition, modify_partition
from pvnet.novalink.search import LENGTH_MAX, search

NEW = (
    rig.field("PartitionName", "new"),
    rig.field("PartitionMemoryConfiguration/DesiredMemory", "64"),
    rig.field("PartitionProcessorConfiguration/SharedProcessorConfiguration/DesiredProcessingUnits", "0.5"),
    rig.field("PartitionProcessorConfiguration/SharedProcessorConfiguration/DesiredVirtualProcessors", "1"),
)
LOGON = f'<LogonRequest xmlns="{WEB_NS}"><UserID>me</UserID><Password>x</Password></LogonRequest>'.encode()
SEARCHES = (
    b"(PartitionName=='mp')",
    b"(PartitionID!=2&&PartitionState=='running')",
    b"((PartitionID%3E1)||PartitionName=='%20%27')",
)
SEARCH_WORDS = (b"==", b"!=", b"<", b"&&", b"||", b"(", b")", b"'", b"%27", b"%28", b"%", b"PartitionID", b"1e999999")
XML_WORDS = (
    *(b"<!DOCTYPE a [<!ENTITY b 'c'>]>", b"&b;", b"<![CDATA[", b"]]>", b"<!--", b"xmlns:uom=''", b"xmlns=''", b"uom:"),
    *(b'href="http://["', b'href="/a"', b"</", b"/>", b"\xff\xfe", b"&#x110000;", b"&#55296;", b"true", b"-1", b"1e9"),
    *(b"NaN", b"PartitionName", b"DesiredMemory", b"HasDedicatedProcessors", b"<uom:PartitionID>1</uom:PartitionID>"),
)


class Documents(Target):
    """Each is a command or an error of the service; what can be read can be written and read again."""

    def __init__(self, seeds: Seeds) -> None:
        super().__init__(seeds)
        self._view = view = rig.view()
        self._guest = guest = rig.guest_of(view)
        self._resources = [logical_partition(view, p) for p in view.partitions]
        self._search = Mutator(SEARCHES, SEARCH_WORDS, TEXT)
        self._xml = Mutator(
            (
                LOGON,
                entry(job_template("LogicalPartition", "PowerOff"), rig.BASE),
                rig.document("LogicalPartition", *NEW),
                *(serialize(resource.content, rig.BASE) for resource in self._resources),
                serialize(client_network_adapter(view, guest, guest.adapters[0]).content, rig.BASE),
                serialize(virtual_switch(view, view.switches[0]).content),
            ),
            XML_WORDS,
            TEXT,
        )

    def make(self, random: Random) -> bytes:
        if random.random() < 0.2:
            return b"S" + self._search.make(random)
        return b"D" + self._xml.make(random)

    def run(self, data: bytes) -> None:
        if data[:1] == b"S":
            self._refusable(lambda: search(data[1 : LENGTH_MAX * 2].decode(errors="replace"), self._resources))
            return
        body, view, guest = data[1:], self._view, self._guest
        for read in (
            lambda: logon_request(body),
            lambda: power_command(job_request(body, "LogicalPartition", "PowerOff"), "x"),
            lambda: create_partition(body, view),
            lambda: modify_partition(body, view, guest),
            lambda: create_adapter(body, view, guest),
            lambda: modify_adapter(body, view, guest, guest.adapters[0]),
            lambda: create_switch(body, view),
        ):
            self._refusable(read)
        assert view == rig.view()

    def _refusable(self, read: Callable[[], object]) -> None:
        refused = None
        try:
            read()
        except RequestError as error:
            refused = error
        if refused is not None:
            self.refused += 1
            assert refused.status in {400, 404, 409}
            assert len(refused.message) < 4000
            parse(http_error(refused.status, "/x", refused.reason, refused.message))
