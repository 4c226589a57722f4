"""A client of the REST service as plain as can be: one connection per request, documents as text."""

from __future__ import annotations

import http.client
import ssl
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from pvnet.runtime.endpoints import read_endpoints

WEB_NS = "http://www.ibm.com/xmlns/systems/power/firmware/web/mc/2012_10/"
WEB_TYPE = "application/vnd.ibm.powervm.web+xml; type="
UOM = "/rest/api/uom"


@dataclass
class Answer:
    status: int
    body: str
    headers: dict[str, str] = field(default_factory=dict)

    def text(self, name: str) -> str:
        """Text of the first element of this name."""
        return self.body.partition(f"<{name}>")[2].partition("<")[0]


class RestClient:
    """Talks to the service of the lab in ``directory``, by TLS unless ``url`` says otherwise."""

    def __init__(self, directory: Path, *, plain: bool = False) -> None:
        endpoint = read_endpoints(directory)["novalink"]
        assert isinstance(endpoint, dict)
        self.endpoint = endpoint
        self.url = urlsplit(endpoint["http"] if plain else endpoint["url"])
        self.context = None if plain else ssl.create_default_context(cafile=endpoint["ca"])
        self.token = ""

    def ask(self, method: str, path: str, body: bytes = b"", **headers: str) -> Answer:
        host, port = self.url.hostname or "", self.url.port
        if self.context is None:
            connection = http.client.HTTPConnection(host, port, timeout=60)
        else:
            connection = http.client.HTTPSConnection(host, port, timeout=60, context=self.context)
        given = {name.replace("_", "-"): value for name, value in headers.items()}
        if self.token:
            given["X-API-Session"] = self.token
        try:
            connection.request(method, path, body, given)
            response = connection.getresponse()
            return Answer(response.status, response.read().decode(), dict(response.getheaders()))
        finally:
            connection.close()

    def log_on(self, user: str = "", password: str | None = None) -> Answer:
        """By the lab's password unless another is given."""
        if password is None:
            password = Path(self.endpoint["password_file"]).read_text().strip()
        body = (
            f'<LogonRequest xmlns="{WEB_NS}" schemaVersion="V1_0"><UserID>{user or self.endpoint["user"]}</UserID>'
            f"<Password>{password}</Password></LogonRequest>"
        )
        answer = self.ask("PUT", "/rest/api/web/Logon", body.encode(), Content_Type=f"{WEB_TYPE}LogonRequest")
        self.token = answer.text("X-API-Session")
        return answer

    def log_on_by_file(self) -> Answer:
        body = (
            f'<LogonRequest xmlns="{WEB_NS}"><UserID>somebody</UserID>'
            "<GenerateX-API-SessionFile>true</GenerateX-API-SessionFile></LogonRequest>"
        )
        answer = self.ask("PUT", "/rest/api/web/Logon", body.encode(), Content_Type=f"{WEB_TYPE}LogonRequest")
        path = answer.text("X-API-SessionFile")
        self.token = Path(path).read_text().strip() if path else ""
        return answer

    def partitions(self) -> dict[str, tuple[str, str]]:
        """Label -> UUID and state."""
        entries = self.ask("GET", f"{UOM}/LogicalPartition").body.split("<entry>")[1:]
        answers = [Answer(200, entry) for entry in entries]
        return {a.text("PartitionName"): (a.text("PartitionUUID"), a.text("PartitionState")) for a in answers}

    def job(self, uuid: str, operation: str, /, **parameters: str) -> Answer:
        listed = "".join(
            f"<JobParameter><ParameterName>{name}</ParameterName><ParameterValue>{value}</ParameterValue></JobParameter>"
            for name, value in parameters.items()
        )
        body = (
            f'<JobRequest xmlns="{WEB_NS}"><RequestedOperation><OperationName>{operation}</OperationName>'
            f"<GroupName>LogicalPartition</GroupName></RequestedOperation><JobParameters>{listed}</JobParameters>"
            "</JobRequest>"
        )
        path = f"{UOM}/LogicalPartition/{uuid}/do/{operation}"
        return self.ask("PUT", path, body.encode(), Content_Type=f"{WEB_TYPE}JobRequest")

    def events(self, application: str = "app") -> list[tuple[str, str, str]]:
        """Type, end of the URI, detail of what one poll answers."""
        query = f"QUEUE_CLIENTKEY_METHOD=USE_APPLICATIONID&QUEUE_APPLICATIONID={application}"
        entries = self.ask("GET", f"{UOM}/Event?{query}").body.split("<entry>")[1:]
        answers = [Answer(200, entry) for entry in entries]
        return [(a.text("EventType"), a.text("EventData").rpartition("/")[2], a.text("EventDetail")) for a in answers]
