"""What a program that uses pypowervm does, one step per line of standard input; runs in pypowervm's environment.

A line is ``{"step": NAME, "args": {...}}``; the answer is ``{"ok": RESULT}`` or ``{"error": {...}}``.  The steps use
pypowervm the way its users do (Nova's driver did most of it); nothing of it is replaced or patched.
"""

import gc
import inspect
import json
import os
import sys
import threading
import time

import shapes
from pypowervm import adapter as adp
from pypowervm import exceptions as pvmex
from pypowervm.tasks import cna as cna_tasks
from pypowervm.tasks import partition as partition_tasks
from pypowervm.tasks import power, power_opts
from pypowervm.utils import lpar_builder
from pypowervm.wrappers import cluster, event, logical_partition, managed_system, network, virtual_io_server

LPAR = logical_partition.LPAR
CNA = network.CNA
WAYS_OFF = {
    "detect": lambda opts, part: opts.soft_detect(part),
    "os": lambda opts, part: opts.os_immediate(),
    "os-normal": lambda opts, part: opts.os_normal(),
    "normal": lambda opts, part: opts.vsp_normal(),
    "hard": lambda opts, part: opts.vsp_hard(),
}


class Listener(adp.RawEventHandler):
    """Keeps all events that pypowervm's event thread hands over."""

    def __init__(self):
        self.events = []
        self.more = threading.Condition()

    def process(self, events):
        with self.more:
            self.events.extend(events)
            self.more.notify_all()


class Translated(adp.EventHandler):
    """Keeps what pypowervm makes of the events: URI and action."""

    def __init__(self):
        self.seen = []

    def process(self, events):
        self.seen.extend(events.items())


def fits(wanted, found):
    """Whether an event is the one: of the type, its URI ends so, and the detail is among its details."""
    return (
        wanted.get("type") in (None, found["EventType"])
        and (found["EventData"] or "").endswith(wanted.get("uri", ""))
        and (not wanted.get("detail") or wanted["detail"] in (found["EventDetail"] or "").split(","))
    )


class Program:
    """The steps: every method without an underscore is one."""

    def __init__(self):
        self.session = None
        self.adapter = None
        self.held = {}
        self.listener = None
        self.translated = None

    # --- sessions ---

    def log_on(self, host, port, protocol="https", user=None, password=None, verify=True):
        """Without a password: by file."""
        certpath = "/nowhere/" if verify else None
        self.session = adp.Session(
            host, user, password, auditmemento="interop", protocol=protocol, port=port, certpath=certpath
        )
        self.adapter = adp.Adapter(self.session)
        return {"mc_type": self.session.mc_type, "schema": self.session.schema_version}

    def log_off(self):
        """Drop the session, as programs do: its destructor logs off."""
        token, path = self.session._sessToken, "/rest/api/uom/ManagedSystem?group=None"
        again = adp.requests.Session()
        self.held.clear()
        self.listener = self.translated = None
        destination = self.session.dest
        self.session = self.adapter = None
        gc.collect()
        with again:
            answer = again.get(destination + path, headers={"X-API-Session": token}, verify=False)
        return {"token_afterwards": answer.status_code}

    def token(self):
        """Which session it is; tells log-ons apart."""
        return self.session._sessToken

    def raw(self, method, path, headers=None, body=""):
        """Send a request below the wrappers; errors are answers."""
        try:
            answer = self.session.request(method, "/rest/api" + path, headers=dict(headers or {}), body=body)
        except pvmex.HttpError as error:
            answer = error.response
        return {"status": answer.status, "headers": dict(answer.headers), "body": answer.body}

    # --- reading ---

    def system(self):
        """What the system's wrapper says."""
        (system,) = managed_system.System.get(self.adapter)
        one = managed_system.System.get(self.adapter, uuid=system.uuid)
        return {
            "uuid": self.adapter.sys_uuid,
            "same": one.uuid == system.uuid and one.system_name == system.system_name,
            "name": system.system_name,
            "state": system.system_state,
            "mtms": system.mtms.mtms_str,
            "memory": system.memory_total,
            "free": system.memory_free,
            "region": system.memory_region_size,
            "processors": system.proc_units,
            "free_processors": system.proc_units_avail,
            "modes": list(system.proc_compat_modes),
            "capabilities": system.get_capabilities(),
            "etag": [system.etag, one.etag],
        }

    def _facts(self, part):
        memory, processors = part.mem_config, part.proc_config
        return {
            "uuid": part.uuid,
            "partition_uuid": part.partition_uuid,
            "name": part.name,
            "id": part.id,
            "state": part.state,
            "type": part.env,
            "rmc": part.rmc_state,
            "management": part.is_mgmt_partition,
            "memory": [memory.min, memory.desired, memory.max],
            "dedicated": processors.has_dedicated,
            "units": None if processors.has_dedicated else processors.shared_proc_cfg.desired_units,
            "virtual": None if processors.has_dedicated else processors.shared_proc_cfg.desired_virtual,
            "system": part.assoc_sys_uuid,
            "slots": part.io_config.max_virtual_slots,
            "can_modify_io": part.can_modify_io()[0],
            "etag": part.etag,
        }

    def partitions(self, of_system=False):
        """The feed of all partitions, or that of the system."""
        parent = {"parent_type": managed_system.System, "parent_uuid": self.adapter.sys_uuid} if of_system else {}
        return [self._facts(part) for part in LPAR.get(self.adapter, **parent)]

    def partition(self, name):
        """One partition, found by its name and then read by its UUID."""
        return self._facts(LPAR.get(self.adapter, uuid=self._find(name).uuid))

    def _find(self, name):
        found = LPAR.search(self.adapter, name=name)
        if len(found) != 1:
            raise LookupError(f"{len(found)} partitions have the name {name!r}")
        return found[0]

    def search(self, **keys):
        """Names of the partitions that a search finds."""
        return [part.name for part in LPAR.search(self.adapter, **keys)]

    def others(self):
        """What a search for the management partition, storage and clusters gives; there are no VIOSes."""
        return {
            "management": partition_tasks.get_mgmt_partition(self.adapter).name,
            "partitions": [part.name for part in partition_tasks.get_partitions(self.adapter, mgmt=True)],
            "vios": len(virtual_io_server.VIOS.get(self.adapter)),
            "clusters": len(cluster.Cluster.get(self.adapter)),
        }

    def quick(self, name, prop):
        """A property by its quick URI."""
        part = self._find(name)
        answer = self.adapter.read("LogicalPartition", part.uuid, suffix_type="quick", suffix_parm=prop)
        return {"value": json.loads(answer.body), "type": answer.headers["Content-Type"]}

    def properties(self):
        """All that the wrappers of all resources say, by class: no property may fail on what we serve."""
        system = managed_system.System.get(self.adapter)[0]
        parent = {"parent_type": managed_system.System, "parent_uuid": system.uuid}
        parts = LPAR.get(self.adapter)
        adapters = [adapter for part in parts for adapter in CNA.get(self.adapter, parent=part)]
        switches = network.VSwitch.get(self.adapter, **parent)
        networks = network.VNet.get(self.adapter, **parent)
        wrappers = [system, *parts, *adapters, *switches, *networks]
        for part in parts:
            wrappers += [part.mem_config, part.io_config, part.capabilities, part.proc_config]
            if not part.proc_config.has_dedicated:
                wrappers.append(part.proc_config.shared_proc_cfg)
        said = {}
        for wrapper in wrappers:
            for name, value in inspect.getmembers(type(wrapper), lambda member: isinstance(member, property)):
                try:
                    shown = value.fget(wrapper)
                except (AttributeError, TypeError, ValueError, KeyError) as error:
                    shown = f"FAILED {type(error).__name__}: {error}"
                said.setdefault(type(wrapper).__name__, {}).setdefault(name, []).append(str(shown))
        return said

    # --- ETags ---

    def hold(self, name, key="held"):
        """Keep a wrapper for later steps."""
        self.held[key] = LPAR.get(self.adapter, uuid=self._find(name).uuid)
        return self._facts(self.held[key])

    def refresh(self, key="held"):
        """Refresh a wrapper; the same object means that the server said 304."""
        before = self.held[key]
        self.held[key] = before.refresh()
        return {"same": self.held[key] is before, **self._facts(self.held[key])}

    def refresh_feed_entries(self):
        """Refresh the entries of a feed, which have the ETags that stand in the feed; how many were unchanged."""
        parts = LPAR.get(self.adapter)
        return [len(parts), sum(part.refresh() is part for part in parts)]

    # --- power ---

    def power_on(self, name):
        """Power on and wait for the job."""
        started = time.monotonic()
        power.PowerOp.start(self._find(name), timeout=60)
        return {"seconds": time.monotonic() - started}

    def power_off(self, name, how="detect", restart=False):
        """Power off in one of the ways that there are."""
        part = self._find(name)
        opts = WAYS_OFF[how](power_opts.PowerOffOpts(), part).restart(value=restart)
        power.PowerOp.stop(part, opts=opts, timeout=60)
        return str(opts)

    def power_off_progressive(self, name):
        """What Nova does: the soft ways first."""
        power.power_off_progressive(self._find(name), timeout=60)

    def job(self, name, operation, parameters=None):
        """Run a job by hand; how it ended, with all of its results."""
        from pypowervm.wrappers import job

        part = self._find(name)
        wrapper = job.Job.wrap(self.adapter.read(LPAR.schema_type, part.uuid, suffix_type="do", suffix_parm=operation))
        wrapper.add_job_parameters_to_existing(
            *(job.Job.create_job_parameter(key, value) for key, value in (parameters or {}).items())
        )
        wrapper.entry = self.adapter.create_job(wrapper.entry.element, "LogicalPartition", part.uuid).entry
        wrapper.poll_while_status(["RUNNING", "NOT_STARTED"], 60, False)
        done = {"status": wrapper.job_status, "message": wrapper.get_job_message(), "id": wrapper.job_id}
        wrapper.delete_job()
        return done

    # --- events ---

    def listen(self):
        """Start pypowervm's event thread."""
        self.listener, self.translated = Listener(), Translated()
        self.session.get_event_listener().subscribe(self.listener)
        self.session.get_event_listener().subscribe(self.translated)

    def unlisten(self):
        """Stop it; how long that took.  Not by its ``shutdown``, which forgets every other handler."""
        started = time.monotonic()
        for handler in (self.listener, self.translated):
            self.session.get_event_listener().unsubscribe(handler)
        for thread in threading.enumerate():
            if isinstance(thread, adp._EventPollThread):
                thread.join(30)
        return time.monotonic() - started

    def events(self, wanted=(), after=0, timeout=30.0):
        """Wait until there are events that fit, one each; all since number ``after``."""
        deadline = time.monotonic() + timeout
        with self.listener.more:
            while not all(any(fits(want, found) for found in self.listener.events[after:]) for want in wanted):
                if not self.listener.more.wait(deadline - time.monotonic()):
                    raise TimeoutError(f"wanted {wanted}, have {self.listener.events[after:]}")
            return {"events": self.listener.events[after:], "count": len(self.listener.events)}

    def translated_events(self):
        """What a plain event handler was told: URI and action."""
        return self.translated.seen

    def send_event(self, data, detail):
        """Push an event of one's own to all listeners."""
        return event.Event.bld(self.adapter, data, detail).create().etype

    # --- changes ---

    def rename(self, name, to):
        """Give a partition another name."""
        part = self._find(name)
        part.name = to
        updated = part.update()
        return {"before": part.etag, **self._facts(updated)}

    def update_held(self, name, key="held"):
        """Rename by a wrapper that was read earlier."""
        self.held[key].name = name
        self.held[key] = self.held[key].update()
        return self._facts(self.held[key])

    def memory(self, name, desired):
        """Change the desired memory, in MiB."""
        part = self._find(name)
        part.mem_config.desired = desired
        return self._facts(part.update())

    def set_read_only(self, name, prop, value):
        """Change what no client may change."""
        part = self._find(name)
        part.set_parm_value(prop, value)
        return self._facts(part.update())

    def create(self, **attributes):
        """Create a partition with pypowervm's builder."""
        system = managed_system.System.get(self.adapter)[0]
        builder = lpar_builder.LPARBuilder(self.adapter, attributes, lpar_builder.DefaultStandardize(system))
        made = builder.build().create(parent=system)
        return self._facts(made)

    def create_at_root(self, **attributes):
        """As Nova did it: the partition's own collection."""
        system = managed_system.System.get(self.adapter)[0]
        builder = lpar_builder.LPARBuilder(self.adapter, attributes, lpar_builder.DefaultStandardize(system))
        return self._facts(builder.build().create())

    def resize(self, name, **attributes):
        """Change a partition with the builder."""
        system = managed_system.System.get(self.adapter)[0]
        part = self._find(name)
        builder = lpar_builder.LPARBuilder(
            self.adapter, {"name": name, **attributes}, lpar_builder.DefaultStandardize(system)
        )
        return self._facts(builder.rebuild(part).update())

    def delete(self, name):
        """Delete a partition."""
        self._find(name).delete()

    def delete_held(self, key="held"):
        """Delete by a wrapper that was read earlier."""
        self.held[key].delete()

    def restore(self, uuid):
        """Undo what a test did to the lab: the partition with this UUID is the one that tests change."""
        for part in LPAR.get(self.adapter):
            if part.name == "west":
                power.PowerOp.start(part, timeout=60)
            elif part.uuid == uuid:
                power.PowerOp.stop(part, opts=power_opts.PowerOffOpts().vsp_hard(), timeout=60)
                off = part.refresh()
                off.name, off.mem_config.desired = "East End", 64
                off.update()
                for one in CNA.get(self.adapter, parent=part):
                    if one.slot != 4:
                        one.delete()
            elif not part.is_mgmt_partition:
                power.PowerOp.stop(part, opts=power_opts.PowerOffOpts().vsp_hard(), timeout=60)
                part.refresh().delete()
        for switch in self._switches():
            if switch.name != "ETHERNET0":
                switch.refresh().delete()

    # --- network ---

    def _switches(self):
        return network.VSwitch.get(self.adapter, parent_type=managed_system.System, parent_uuid=self.adapter.sys_uuid)

    def _adapter_facts(self, adapter):
        return {
            "uuid": adapter.uuid,
            "slot": adapter.slot,
            "mac": adapter.mac,
            "vlan": adapter.pvid,
            "switch": adapter.vswitch_id,
            "lpar_id": adapter.lpar_id,
            "enabled": adapter.enabled,
            "trunk": adapter.is_trunk,
            "location": adapter.loc_code,
            "etag": adapter.etag,
        }

    def adapters(self, name):
        """The network adapters of a partition."""
        return [self._adapter_facts(one) for one in CNA.get(self.adapter, parent=self._find(name))]

    def create_adapter(self, name, vlan, switch="ETHERNET0", **more):
        """Create one with pypowervm's task; see ``crt_cna`` for what else it takes."""
        made = cna_tasks.crt_cna(self.adapter, None, self._find(name).uuid, vlan, vswitch=switch, **more)
        return self._adapter_facts(made)

    def move_adapter(self, name, slot, vlan):
        """Connect an adapter to another VLAN."""
        (found,) = [one for one in CNA.get(self.adapter, parent=self._find(name)) if one.slot == slot]
        found.pvid = vlan
        return self._adapter_facts(found.update())

    def free_vlan(self, name, slot, switch="ETHERNET0"):
        """Have pypowervm connect an adapter to a VLAN that nobody uses."""
        (found,) = [one for one in CNA.get(self.adapter, parent=self._find(name)) if one.slot == slot]
        plane = cna_tasks._find_or_create_vswitch(self.adapter, switch, False)
        return self._adapter_facts(cna_tasks.assign_free_vlan(self.adapter, None, plane, found))

    def delete_adapter(self, name, slot):
        """Delete the adapter in a slot."""
        (found,) = [one for one in CNA.get(self.adapter, parent=self._find(name)) if one.slot == slot]
        found.delete()

    def trunks(self, name):
        """The trunk adapters that belong to a partition's adapters."""
        return [
            trunk.uuid
            for one in CNA.get(self.adapter, parent=self._find(name))
            for trunk in cna_tasks.find_trunks(self.adapter, one)
        ]

    def networks(self):
        """Switches and virtual networks."""
        parent = {"parent_type": managed_system.System, "parent_uuid": self.adapter.sys_uuid}
        switches = self._switches()
        names = {switch.related_href: switch.name for switch in switches}
        networks = network.VNet.get(self.adapter, **parent)
        return {
            "switches": [{"name": one.name, "id": one.switch_id, "mode": one.mode} for one in switches],
            "networks": [
                {
                    "switch": names.get(one.associated_switch_uri),
                    "vlan": one.vlan,
                    "name": one.name,
                    "tagged": one.tagged,
                }
                for one in networks
            ],
            "links": sorted(link for switch in switches for link in switch.vnet_uri_list),
            "hrefs": sorted(one.href for one in networks),
        }

    def create_switch(self, name):
        """Create a virtual switch."""
        made = network.VSwitch.bld(self.adapter, name).create(
            parent_type=managed_system.System, parent_uuid=self.adapter.sys_uuid
        )
        return {"name": made.name, "id": made.switch_id, "uuid": made.uuid}

    def delete_switch(self, name):
        """Delete a virtual switch."""
        (found,) = [switch for switch in self._switches() if switch.name == name]
        found.delete()

    # --- shapes ---

    def shapes(self):
        """How the documents that are served differ from the samples that pypowervm ships."""
        system, part = self.adapter.sys_uuid, partition_tasks.get_mgmt_partition(self.adapter).uuid
        bodies = {
            "ManagedSystem": self._body("GET", "/uom/ManagedSystem"),
            "LogicalPartition": self._body("GET", "/uom/LogicalPartition"),
            "ClientNetworkAdapter": [
                body
                for one in LPAR.get(self.adapter)
                for body in self._body("GET", f"/uom/LogicalPartition/{one.uuid}/ClientNetworkAdapter")
            ],
            "VirtualSwitch": self._body("GET", f"/uom/ManagedSystem/{system}/VirtualSwitch"),
            "VirtualNetwork": self._body("GET", f"/uom/ManagedSystem/{system}/VirtualNetwork"),
            "JobRequest": self._body("GET", f"/uom/LogicalPartition/{part}/do/PowerOff"),
            "HttpErrorResponse": self._body("GET", "/uom/LogicalPartition/00000000-0000-0000-0000-000000000000"),
            "JobResponse": [self._answered(part)],
            "Event": self._body(
                "GET", "/uom/Event?QUEUE_CLIENTKEY_METHOD=USE_APPLICATIONID&QUEUE_APPLICATIONID=shapes"
            ),
        }
        return {kind: shapes.differences(kind, served) for kind, served in bodies.items()}

    def _answered(self, uuid):
        """The answer to a job: power on what is on already."""
        template = self.adapter.read("LogicalPartition", uuid, suffix_type="do", suffix_parm="PowerOn")
        return self.adapter.create_job(template.entry.element, "LogicalPartition", uuid).body

    def _body(self, method, path):
        answer = self.raw(method, path, headers={"Accept": "application/atom+xml"})
        return [answer["body"]] if answer["body"] else []


def describe(error):
    """An exception as a document: its class and those above it, its text, and what the server answered."""
    response = getattr(error, "response", None)
    told = getattr(error, "her_wrap", None)
    return {
        "types": [kind.__name__ for kind in type(error).__mro__],
        "text": str(error),
        "status": getattr(response, "status", None),
        "reason_code": told.reason_code if told else None,
        "message": told.message if told else None,
    }


def main():
    program = Program()
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print is no answer
    for line in sys.stdin:
        asked = json.loads(line)
        try:
            answer = {"ok": getattr(program, asked["step"])(**asked["args"])}
        except Exception as error:  # noqa: BLE001 - the test judges it
            answer = {"error": describe(error)}
        out.write(json.dumps(answer) + "\n")
        out.flush()
    os._exit(0)  # pypowervm's event thread would wait for its last answer


if __name__ == "__main__":
    main()
