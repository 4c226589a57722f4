"""Run by the Python of an environment that has pypowervm: its wrappers read our documents and make requests of them.

Arguments: a folder with documents, a folder for requests.  Prints one JSON object of what the wrappers say.
"""

import json
import sys
import warnings
from pathlib import Path
from types import SimpleNamespace

warnings.simplefilter("ignore")

from pypowervm import adapter as pvm_adapter  # noqa: E402
from pypowervm.utils import lpar_builder  # noqa: E402
from pypowervm.wrappers import http_error, job, logical_partition, managed_system, network, pmem  # noqa: E402
from pypowervm.wrappers.base_partition import BP_EL_ORDER  # noqa: E402
from pypowervm.wrappers.event import Event  # noqa: E402


class Adapter(pvm_adapter.Adapter):
    """Stands for a session, of which the wrappers only want to know what kind of server it has."""

    def __init__(self):
        self.traits_of_novalink = SimpleNamespace(has_high_slot=True, vnet_aware=False)

    @property
    def traits(self):
        return self.traits_of_novalink


def response(name):
    found = pvm_adapter.Response("GET", "/", 200, "OK", {"etag": "5"}, body=(DOCUMENTS / name).read_text())
    found.adapter = ADAPTER
    found._unmarshal_atom()
    return found


def request(name, wrapper):
    (REQUESTS / name).write_bytes(wrapper.toxmlstring())


def guest():
    return logical_partition.LPAR.wrap(response("guest"))


DOCUMENTS, REQUESTS = (Path(argument) for argument in sys.argv[1:])
ADAPTER = Adapter()
system = managed_system.System.wrap(response("system"))
lpars = logical_partition.LPAR.wrap(response("partitions"))
cnas = network.CNA.wrap(response("adapters"))
switches = network.VSwitch.wrap(response("switches"))
by_id = {switch.switch_id: switch for switch in switches}
failed = job.Job.wrap(response("job"))
error = http_error.HttpError.wrap(response("error").entry)
facts = {
    "system": [system.uuid, system.system_name, system.mtms.mtms_str, system.memory_free, system.proc_units_avail],
    "capable": system.get_capabilities(),
    "migration": system.migration_data["max_migration_ops_supported"],
    "modes": system.proc_compat_modes,
    "lpars": [[p.uuid, p.name, p.id, p.state, p.env, p.rmc_state, p.mem_config.desired, p.etag] for p in lpars],
    "order": [[BP_EL_ORDER.index(child.tag) for child in p.element if child.tag in BP_EL_ORDER] for p in lpars],
    "dedicated": [p.proc_config.has_dedicated for p in lpars],
    "cnas": [[a.mac, a.slot, a.pvid, a.lpar_id, a.vswitch_id, a.is_trunk, a.enabled] for a in cnas],
    "plugged": [a.vswitch_uri == by_id[a.vswitch_id].related_href for a in cnas],
    "switches": [[s.name, s.switch_id, s.mode, len(s.vnet_uri_list)] for s in switches],
    "networks": [
        [n.name, n.vlan, n.vswitch_id, n.tagged, n.associated_switch_uri == by_id[n.vswitch_id].related_href]
        for n in network.VNet.wrap(response("networks"))
    ],
    "volumes": [[v.size, v.assoc_partition_id] for v in pmem.VirtualPMEMVolume.wrap(response("volumes"))],
    "events": [[e.etype, e.eid, e.data, e.detail] for e in Event.wrap(response("events"))],
    "template": job.Job.wrap(response("template")).op,
    "job": [failed.job_status, failed.job_id, failed.get_job_message()],
    "error": [error.status, error.reason_code, error.message],
}

standard = lpar_builder.DefaultStandardize(system)
wanted = {"name": "new one", "memory": 1024, "vcpu": 2}
request("create", lpar_builder.LPARBuilder(ADAPTER, wanted, standard).build())
request("same", guest())
renamed = guest()
renamed.name = "renamed"
request("rename", renamed)
sized = guest()
sized.mem_config.desired = 96
sized.proc_config.shared_proc_cfg.desired_units = 1.25
request("size", sized)
dedicated = {"name": lpars[1].name, "memory": 256, "vcpu": 2, "dedicated_proc": "true"}
request("rebuild", lpar_builder.LPARBuilder(ADAPTER, dedicated, standard).rebuild(guest()))
request("plug", network.CNA.bld(ADAPTER, 22, switches[1].related_href, mac_addr="02:00:00:aa:bb:cc"))
cnas[0].pvid = 33
request("vlan", cnas[0])
request("switch", network.VSwitch.bld(ADAPTER, "NEW"))
print(json.dumps(facts))
