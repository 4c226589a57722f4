from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Management(_message.Message):
    __slots__ = ("token", "list_partitions", "show_partition", "power_on", "power_off", "issue_hcall", "show_status", "shut_down", "scm_inject", "finish_flush", "vbus", "switch", "ping", "devcall", "mdev", "mdev_assign", "tap", "show_system", "watch_changes", "create_partition", "modify_partition", "delete_partition", "list_switches", "create_switch", "delete_switch", "create_adapter", "modify_adapter", "delete_adapter", "use_topology", "device_socket")
    TOKEN_FIELD_NUMBER: _ClassVar[int]
    LIST_PARTITIONS_FIELD_NUMBER: _ClassVar[int]
    SHOW_PARTITION_FIELD_NUMBER: _ClassVar[int]
    POWER_ON_FIELD_NUMBER: _ClassVar[int]
    POWER_OFF_FIELD_NUMBER: _ClassVar[int]
    ISSUE_HCALL_FIELD_NUMBER: _ClassVar[int]
    SHOW_STATUS_FIELD_NUMBER: _ClassVar[int]
    SHUT_DOWN_FIELD_NUMBER: _ClassVar[int]
    SCM_INJECT_FIELD_NUMBER: _ClassVar[int]
    FINISH_FLUSH_FIELD_NUMBER: _ClassVar[int]
    VBUS_FIELD_NUMBER: _ClassVar[int]
    SWITCH_FIELD_NUMBER: _ClassVar[int]
    PING_FIELD_NUMBER: _ClassVar[int]
    DEVCALL_FIELD_NUMBER: _ClassVar[int]
    MDEV_FIELD_NUMBER: _ClassVar[int]
    MDEV_ASSIGN_FIELD_NUMBER: _ClassVar[int]
    TAP_FIELD_NUMBER: _ClassVar[int]
    SHOW_SYSTEM_FIELD_NUMBER: _ClassVar[int]
    WATCH_CHANGES_FIELD_NUMBER: _ClassVar[int]
    CREATE_PARTITION_FIELD_NUMBER: _ClassVar[int]
    MODIFY_PARTITION_FIELD_NUMBER: _ClassVar[int]
    DELETE_PARTITION_FIELD_NUMBER: _ClassVar[int]
    LIST_SWITCHES_FIELD_NUMBER: _ClassVar[int]
    CREATE_SWITCH_FIELD_NUMBER: _ClassVar[int]
    DELETE_SWITCH_FIELD_NUMBER: _ClassVar[int]
    CREATE_ADAPTER_FIELD_NUMBER: _ClassVar[int]
    MODIFY_ADAPTER_FIELD_NUMBER: _ClassVar[int]
    DELETE_ADAPTER_FIELD_NUMBER: _ClassVar[int]
    USE_TOPOLOGY_FIELD_NUMBER: _ClassVar[int]
    DEVICE_SOCKET_FIELD_NUMBER: _ClassVar[int]
    token: int
    list_partitions: ListPartitions
    show_partition: ShowPartition
    power_on: PowerOn
    power_off: PowerOff
    issue_hcall: IssueHcall
    show_status: ShowStatus
    shut_down: ShutDown
    scm_inject: ScmInject
    finish_flush: FinishFlush
    vbus: VbusAdmin
    switch: SwitchAdmin
    ping: NetPing
    devcall: VbusDevcall
    mdev: MdevAdmin
    mdev_assign: MdevAssign
    tap: Tap
    show_system: ShowSystem
    watch_changes: WatchChanges
    create_partition: CreatePartition
    modify_partition: ModifyPartition
    delete_partition: DeletePartition
    list_switches: ListSwitches
    create_switch: CreateSwitch
    delete_switch: DeleteSwitch
    create_adapter: CreateAdapter
    modify_adapter: ModifyAdapter
    delete_adapter: DeleteAdapter
    use_topology: UseTopology
    device_socket: DeviceSocket
    def __init__(self, token: _Optional[int] = ..., list_partitions: _Optional[_Union[ListPartitions, _Mapping]] = ..., show_partition: _Optional[_Union[ShowPartition, _Mapping]] = ..., power_on: _Optional[_Union[PowerOn, _Mapping]] = ..., power_off: _Optional[_Union[PowerOff, _Mapping]] = ..., issue_hcall: _Optional[_Union[IssueHcall, _Mapping]] = ..., show_status: _Optional[_Union[ShowStatus, _Mapping]] = ..., shut_down: _Optional[_Union[ShutDown, _Mapping]] = ..., scm_inject: _Optional[_Union[ScmInject, _Mapping]] = ..., finish_flush: _Optional[_Union[FinishFlush, _Mapping]] = ..., vbus: _Optional[_Union[VbusAdmin, _Mapping]] = ..., switch: _Optional[_Union[SwitchAdmin, _Mapping]] = ..., ping: _Optional[_Union[NetPing, _Mapping]] = ..., devcall: _Optional[_Union[VbusDevcall, _Mapping]] = ..., mdev: _Optional[_Union[MdevAdmin, _Mapping]] = ..., mdev_assign: _Optional[_Union[MdevAssign, _Mapping]] = ..., tap: _Optional[_Union[Tap, _Mapping]] = ..., show_system: _Optional[_Union[ShowSystem, _Mapping]] = ..., watch_changes: _Optional[_Union[WatchChanges, _Mapping]] = ..., create_partition: _Optional[_Union[CreatePartition, _Mapping]] = ..., modify_partition: _Optional[_Union[ModifyPartition, _Mapping]] = ..., delete_partition: _Optional[_Union[DeletePartition, _Mapping]] = ..., list_switches: _Optional[_Union[ListSwitches, _Mapping]] = ..., create_switch: _Optional[_Union[CreateSwitch, _Mapping]] = ..., delete_switch: _Optional[_Union[DeleteSwitch, _Mapping]] = ..., create_adapter: _Optional[_Union[CreateAdapter, _Mapping]] = ..., modify_adapter: _Optional[_Union[ModifyAdapter, _Mapping]] = ..., delete_adapter: _Optional[_Union[DeleteAdapter, _Mapping]] = ..., use_topology: _Optional[_Union[UseTopology, _Mapping]] = ..., device_socket: _Optional[_Union[DeviceSocket, _Mapping]] = ...) -> None: ...

class ListPartitions(_message.Message):
    __slots__ = ("first",)
    FIRST_FIELD_NUMBER: _ClassVar[int]
    first: int
    def __init__(self, first: _Optional[int] = ...) -> None: ...

class ShowPartition(_message.Message):
    __slots__ = ("name",)
    NAME_FIELD_NUMBER: _ClassVar[int]
    name: str
    def __init__(self, name: _Optional[str] = ...) -> None: ...

class PowerOn(_message.Message):
    __slots__ = ("name",)
    NAME_FIELD_NUMBER: _ClassVar[int]
    name: str
    def __init__(self, name: _Optional[str] = ...) -> None: ...

class PowerOff(_message.Message):
    __slots__ = ("name", "mode", "restart", "timeout_ms")
    class Mode(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        NORMAL: _ClassVar[PowerOff.Mode]
        GUEST: _ClassVar[PowerOff.Mode]
        IMMEDIATE: _ClassVar[PowerOff.Mode]
    NORMAL: PowerOff.Mode
    GUEST: PowerOff.Mode
    IMMEDIATE: PowerOff.Mode
    NAME_FIELD_NUMBER: _ClassVar[int]
    MODE_FIELD_NUMBER: _ClassVar[int]
    RESTART_FIELD_NUMBER: _ClassVar[int]
    TIMEOUT_MS_FIELD_NUMBER: _ClassVar[int]
    name: str
    mode: PowerOff.Mode
    restart: bool
    timeout_ms: int
    def __init__(self, name: _Optional[str] = ..., mode: _Optional[_Union[PowerOff.Mode, str]] = ..., restart: bool = ..., timeout_ms: _Optional[int] = ...) -> None: ...

class ShowSystem(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class WatchChanges(_message.Message):
    __slots__ = ("after", "wait_ms")
    AFTER_FIELD_NUMBER: _ClassVar[int]
    WAIT_MS_FIELD_NUMBER: _ClassVar[int]
    after: int
    wait_ms: int
    def __init__(self, after: _Optional[int] = ..., wait_ms: _Optional[int] = ...) -> None: ...

class CreatePartition(_message.Message):
    __slots__ = ("name", "label", "lpar_id", "uuid", "memory_bytes", "min_memory_bytes", "max_memory_bytes", "processors", "type")
    NAME_FIELD_NUMBER: _ClassVar[int]
    LABEL_FIELD_NUMBER: _ClassVar[int]
    LPAR_ID_FIELD_NUMBER: _ClassVar[int]
    UUID_FIELD_NUMBER: _ClassVar[int]
    MEMORY_BYTES_FIELD_NUMBER: _ClassVar[int]
    MIN_MEMORY_BYTES_FIELD_NUMBER: _ClassVar[int]
    MAX_MEMORY_BYTES_FIELD_NUMBER: _ClassVar[int]
    PROCESSORS_FIELD_NUMBER: _ClassVar[int]
    TYPE_FIELD_NUMBER: _ClassVar[int]
    name: str
    label: str
    lpar_id: int
    uuid: str
    memory_bytes: int
    min_memory_bytes: int
    max_memory_bytes: int
    processors: Processors
    type: str
    def __init__(self, name: _Optional[str] = ..., label: _Optional[str] = ..., lpar_id: _Optional[int] = ..., uuid: _Optional[str] = ..., memory_bytes: _Optional[int] = ..., min_memory_bytes: _Optional[int] = ..., max_memory_bytes: _Optional[int] = ..., processors: _Optional[_Union[Processors, _Mapping]] = ..., type: _Optional[str] = ...) -> None: ...

class ModifyPartition(_message.Message):
    __slots__ = ("name", "if_revision", "label", "memory_bytes", "min_memory_bytes", "max_memory_bytes", "processors")
    NAME_FIELD_NUMBER: _ClassVar[int]
    IF_REVISION_FIELD_NUMBER: _ClassVar[int]
    LABEL_FIELD_NUMBER: _ClassVar[int]
    MEMORY_BYTES_FIELD_NUMBER: _ClassVar[int]
    MIN_MEMORY_BYTES_FIELD_NUMBER: _ClassVar[int]
    MAX_MEMORY_BYTES_FIELD_NUMBER: _ClassVar[int]
    PROCESSORS_FIELD_NUMBER: _ClassVar[int]
    name: str
    if_revision: int
    label: str
    memory_bytes: int
    min_memory_bytes: int
    max_memory_bytes: int
    processors: Processors
    def __init__(self, name: _Optional[str] = ..., if_revision: _Optional[int] = ..., label: _Optional[str] = ..., memory_bytes: _Optional[int] = ..., min_memory_bytes: _Optional[int] = ..., max_memory_bytes: _Optional[int] = ..., processors: _Optional[_Union[Processors, _Mapping]] = ...) -> None: ...

class DeletePartition(_message.Message):
    __slots__ = ("name", "if_revision")
    NAME_FIELD_NUMBER: _ClassVar[int]
    IF_REVISION_FIELD_NUMBER: _ClassVar[int]
    name: str
    if_revision: int
    def __init__(self, name: _Optional[str] = ..., if_revision: _Optional[int] = ...) -> None: ...

class ListSwitches(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class CreateSwitch(_message.Message):
    __slots__ = ("label",)
    LABEL_FIELD_NUMBER: _ClassVar[int]
    label: str
    def __init__(self, label: _Optional[str] = ...) -> None: ...

class DeleteSwitch(_message.Message):
    __slots__ = ("name", "if_revision")
    NAME_FIELD_NUMBER: _ClassVar[int]
    IF_REVISION_FIELD_NUMBER: _ClassVar[int]
    name: str
    if_revision: int
    def __init__(self, name: _Optional[str] = ..., if_revision: _Optional[int] = ...) -> None: ...

class CreateAdapter(_message.Message):
    __slots__ = ("partition", "slot", "mac", "switch", "vlan")
    PARTITION_FIELD_NUMBER: _ClassVar[int]
    SLOT_FIELD_NUMBER: _ClassVar[int]
    MAC_FIELD_NUMBER: _ClassVar[int]
    SWITCH_FIELD_NUMBER: _ClassVar[int]
    VLAN_FIELD_NUMBER: _ClassVar[int]
    partition: str
    slot: int
    mac: str
    switch: str
    vlan: int
    def __init__(self, partition: _Optional[str] = ..., slot: _Optional[int] = ..., mac: _Optional[str] = ..., switch: _Optional[str] = ..., vlan: _Optional[int] = ...) -> None: ...

class ModifyAdapter(_message.Message):
    __slots__ = ("partition", "slot", "if_revision", "mac", "switch", "vlan")
    PARTITION_FIELD_NUMBER: _ClassVar[int]
    SLOT_FIELD_NUMBER: _ClassVar[int]
    IF_REVISION_FIELD_NUMBER: _ClassVar[int]
    MAC_FIELD_NUMBER: _ClassVar[int]
    SWITCH_FIELD_NUMBER: _ClassVar[int]
    VLAN_FIELD_NUMBER: _ClassVar[int]
    partition: str
    slot: int
    if_revision: int
    mac: str
    switch: str
    vlan: int
    def __init__(self, partition: _Optional[str] = ..., slot: _Optional[int] = ..., if_revision: _Optional[int] = ..., mac: _Optional[str] = ..., switch: _Optional[str] = ..., vlan: _Optional[int] = ...) -> None: ...

class DeleteAdapter(_message.Message):
    __slots__ = ("partition", "slot", "if_revision")
    PARTITION_FIELD_NUMBER: _ClassVar[int]
    SLOT_FIELD_NUMBER: _ClassVar[int]
    IF_REVISION_FIELD_NUMBER: _ClassVar[int]
    partition: str
    slot: int
    if_revision: int
    def __init__(self, partition: _Optional[str] = ..., slot: _Optional[int] = ..., if_revision: _Optional[int] = ...) -> None: ...

class UseTopology(_message.Message):
    __slots__ = ("topology",)
    TOPOLOGY_FIELD_NUMBER: _ClassVar[int]
    topology: bytes
    def __init__(self, topology: _Optional[bytes] = ...) -> None: ...

class DeviceSocket(_message.Message):
    __slots__ = ("uri", "remove")
    URI_FIELD_NUMBER: _ClassVar[int]
    REMOVE_FIELD_NUMBER: _ClassVar[int]
    uri: str
    remove: bool
    def __init__(self, uri: _Optional[str] = ..., remove: bool = ...) -> None: ...

class IssueHcall(_message.Message):
    __slots__ = ("opcode", "args", "retry_busy")
    OPCODE_FIELD_NUMBER: _ClassVar[int]
    ARGS_FIELD_NUMBER: _ClassVar[int]
    RETRY_BUSY_FIELD_NUMBER: _ClassVar[int]
    opcode: int
    args: _containers.RepeatedScalarFieldContainer[int]
    retry_busy: bool
    def __init__(self, opcode: _Optional[int] = ..., args: _Optional[_Iterable[int]] = ..., retry_busy: bool = ...) -> None: ...

class ShowStatus(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ShutDown(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ScmInject(_message.Message):
    __slots__ = ("partition", "drc", "kind", "health_bits", "health_valid", "opcode", "rc", "error", "count")
    class Kind(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        KIND_UNSPECIFIED: _ClassVar[ScmInject.Kind]
        HEALTH: _ClassVar[ScmInject.Kind]
        HEALTH_OWN: _ClassVar[ScmInject.Kind]
        RETURN_CODE: _ClassVar[ScmInject.Kind]
        STORAGE_READ: _ClassVar[ScmInject.Kind]
        STORAGE_WRITE: _ClassVar[ScmInject.Kind]
        STORAGE_FLUSH: _ClassVar[ScmInject.Kind]
    KIND_UNSPECIFIED: ScmInject.Kind
    HEALTH: ScmInject.Kind
    HEALTH_OWN: ScmInject.Kind
    RETURN_CODE: ScmInject.Kind
    STORAGE_READ: ScmInject.Kind
    STORAGE_WRITE: ScmInject.Kind
    STORAGE_FLUSH: ScmInject.Kind
    PARTITION_FIELD_NUMBER: _ClassVar[int]
    DRC_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    HEALTH_BITS_FIELD_NUMBER: _ClassVar[int]
    HEALTH_VALID_FIELD_NUMBER: _ClassVar[int]
    OPCODE_FIELD_NUMBER: _ClassVar[int]
    RC_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    COUNT_FIELD_NUMBER: _ClassVar[int]
    partition: str
    drc: int
    kind: ScmInject.Kind
    health_bits: int
    health_valid: int
    opcode: int
    rc: int
    error: int
    count: int
    def __init__(self, partition: _Optional[str] = ..., drc: _Optional[int] = ..., kind: _Optional[_Union[ScmInject.Kind, str]] = ..., health_bits: _Optional[int] = ..., health_valid: _Optional[int] = ..., opcode: _Optional[int] = ..., rc: _Optional[int] = ..., error: _Optional[int] = ..., count: _Optional[int] = ...) -> None: ...

class FinishFlush(_message.Message):
    __slots__ = ("drc", "token")
    DRC_FIELD_NUMBER: _ClassVar[int]
    TOKEN_FIELD_NUMBER: _ClassVar[int]
    drc: int
    token: int
    def __init__(self, drc: _Optional[int] = ..., token: _Optional[int] = ...) -> None: ...

class VbusAdmin(_message.Message):
    __slots__ = ("verb", "bus", "device", "node", "attributes", "force")
    class Verb(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        VERB_UNSPECIFIED: _ClassVar[VbusAdmin.Verb]
        SHOW: _ClassVar[VbusAdmin.Verb]
        BUS_CREATE: _ClassVar[VbusAdmin.Verb]
        BUS_REMOVE: _ClassVar[VbusAdmin.Verb]
        DEVICE_CREATE: _ClassVar[VbusAdmin.Verb]
        DEVICE_REMOVE: _ClassVar[VbusAdmin.Verb]
        DEVICE_ATTACH: _ClassVar[VbusAdmin.Verb]
        DEVICE_DETACH: _ClassVar[VbusAdmin.Verb]
        DEVICE_SET: _ClassVar[VbusAdmin.Verb]
        JOIN: _ClassVar[VbusAdmin.Verb]
        LEAVE: _ClassVar[VbusAdmin.Verb]
        CLASSES: _ClassVar[VbusAdmin.Verb]
    VERB_UNSPECIFIED: VbusAdmin.Verb
    SHOW: VbusAdmin.Verb
    BUS_CREATE: VbusAdmin.Verb
    BUS_REMOVE: VbusAdmin.Verb
    DEVICE_CREATE: VbusAdmin.Verb
    DEVICE_REMOVE: VbusAdmin.Verb
    DEVICE_ATTACH: VbusAdmin.Verb
    DEVICE_DETACH: VbusAdmin.Verb
    DEVICE_SET: VbusAdmin.Verb
    JOIN: VbusAdmin.Verb
    LEAVE: VbusAdmin.Verb
    CLASSES: VbusAdmin.Verb
    class AttributesEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    VERB_FIELD_NUMBER: _ClassVar[int]
    BUS_FIELD_NUMBER: _ClassVar[int]
    DEVICE_FIELD_NUMBER: _ClassVar[int]
    CLASS_FIELD_NUMBER: _ClassVar[int]
    NODE_FIELD_NUMBER: _ClassVar[int]
    ATTRIBUTES_FIELD_NUMBER: _ClassVar[int]
    FORCE_FIELD_NUMBER: _ClassVar[int]
    verb: VbusAdmin.Verb
    bus: str
    device: str
    node: str
    attributes: _containers.ScalarMap[str, str]
    force: bool
    def __init__(self, verb: _Optional[_Union[VbusAdmin.Verb, str]] = ..., bus: _Optional[str] = ..., device: _Optional[str] = ..., node: _Optional[str] = ..., attributes: _Optional[_Mapping[str, str]] = ..., force: bool = ..., **kwargs) -> None: ...

class SwitchAdmin(_message.Message):
    __slots__ = ("verb", "switch", "port")
    class Verb(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        VERB_UNSPECIFIED: _ClassVar[SwitchAdmin.Verb]
        SHOW: _ClassVar[SwitchAdmin.Verb]
        PORT_ADD: _ClassVar[SwitchAdmin.Verb]
        PORT_REMOVE: _ClassVar[SwitchAdmin.Verb]
    VERB_UNSPECIFIED: SwitchAdmin.Verb
    SHOW: SwitchAdmin.Verb
    PORT_ADD: SwitchAdmin.Verb
    PORT_REMOVE: SwitchAdmin.Verb
    VERB_FIELD_NUMBER: _ClassVar[int]
    SWITCH_FIELD_NUMBER: _ClassVar[int]
    PORT_FIELD_NUMBER: _ClassVar[int]
    verb: SwitchAdmin.Verb
    switch: str
    port: str
    def __init__(self, verb: _Optional[_Union[SwitchAdmin.Verb, str]] = ..., switch: _Optional[str] = ..., port: _Optional[str] = ...) -> None: ...

class VbusDevcall(_message.Message):
    __slots__ = ("device", "version", "func", "data")
    DEVICE_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    FUNC_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    device: int
    version: int
    func: int
    data: bytes
    def __init__(self, device: _Optional[int] = ..., version: _Optional[int] = ..., func: _Optional[int] = ..., data: _Optional[bytes] = ...) -> None: ...

class MdevAdmin(_message.Message):
    __slots__ = ("verb", "name", "parent", "type", "attributes", "force", "path", "data", "host", "partition", "region", "offset", "length")
    class Verb(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        VERB_UNSPECIFIED: _ClassVar[MdevAdmin.Verb]
        SHOW: _ClassVar[MdevAdmin.Verb]
        PARENT_REGISTER: _ClassVar[MdevAdmin.Verb]
        PARENT_UNREGISTER: _ClassVar[MdevAdmin.Verb]
        CREATE: _ClassVar[MdevAdmin.Verb]
        REMOVE: _ClassVar[MdevAdmin.Verb]
        START: _ClassVar[MdevAdmin.Verb]
        SHUTDOWN: _ClassVar[MdevAdmin.Verb]
        SET: _ClassVar[MdevAdmin.Verb]
        TREE_READ: _ClassVar[MdevAdmin.Verb]
        TREE_WRITE: _ClassVar[MdevAdmin.Verb]
        ATTACH: _ClassVar[MdevAdmin.Verb]
        DETACH: _ClassVar[MdevAdmin.Verb]
        MIGRATE: _ClassVar[MdevAdmin.Verb]
        PEEK: _ClassVar[MdevAdmin.Verb]
        ASSIGN: _ClassVar[MdevAdmin.Verb]
        DRIVERS: _ClassVar[MdevAdmin.Verb]
        EVENTS: _ClassVar[MdevAdmin.Verb]
    VERB_UNSPECIFIED: MdevAdmin.Verb
    SHOW: MdevAdmin.Verb
    PARENT_REGISTER: MdevAdmin.Verb
    PARENT_UNREGISTER: MdevAdmin.Verb
    CREATE: MdevAdmin.Verb
    REMOVE: MdevAdmin.Verb
    START: MdevAdmin.Verb
    SHUTDOWN: MdevAdmin.Verb
    SET: MdevAdmin.Verb
    TREE_READ: MdevAdmin.Verb
    TREE_WRITE: MdevAdmin.Verb
    ATTACH: MdevAdmin.Verb
    DETACH: MdevAdmin.Verb
    MIGRATE: MdevAdmin.Verb
    PEEK: MdevAdmin.Verb
    ASSIGN: MdevAdmin.Verb
    DRIVERS: MdevAdmin.Verb
    EVENTS: MdevAdmin.Verb
    class AttributesEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    VERB_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    PARENT_FIELD_NUMBER: _ClassVar[int]
    TYPE_FIELD_NUMBER: _ClassVar[int]
    ATTRIBUTES_FIELD_NUMBER: _ClassVar[int]
    FORCE_FIELD_NUMBER: _ClassVar[int]
    PATH_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    HOST_FIELD_NUMBER: _ClassVar[int]
    PARTITION_FIELD_NUMBER: _ClassVar[int]
    REGION_FIELD_NUMBER: _ClassVar[int]
    OFFSET_FIELD_NUMBER: _ClassVar[int]
    LENGTH_FIELD_NUMBER: _ClassVar[int]
    verb: MdevAdmin.Verb
    name: str
    parent: str
    type: str
    attributes: _containers.ScalarMap[str, str]
    force: bool
    path: str
    data: bytes
    host: str
    partition: str
    region: int
    offset: int
    length: int
    def __init__(self, verb: _Optional[_Union[MdevAdmin.Verb, str]] = ..., name: _Optional[str] = ..., parent: _Optional[str] = ..., type: _Optional[str] = ..., attributes: _Optional[_Mapping[str, str]] = ..., force: bool = ..., path: _Optional[str] = ..., data: _Optional[bytes] = ..., host: _Optional[str] = ..., partition: _Optional[str] = ..., region: _Optional[int] = ..., offset: _Optional[int] = ..., length: _Optional[int] = ...) -> None: ...

class Tap(_message.Message):
    __slots__ = ("path", "snaplen")
    PATH_FIELD_NUMBER: _ClassVar[int]
    SNAPLEN_FIELD_NUMBER: _ClassVar[int]
    path: str
    snaplen: int
    def __init__(self, path: _Optional[str] = ..., snaplen: _Optional[int] = ...) -> None: ...

class MdevAssign(_message.Message):
    __slots__ = ("name", "host", "release")
    NAME_FIELD_NUMBER: _ClassVar[int]
    HOST_FIELD_NUMBER: _ClassVar[int]
    RELEASE_FIELD_NUMBER: _ClassVar[int]
    name: str
    host: str
    release: bool
    def __init__(self, name: _Optional[str] = ..., host: _Optional[str] = ..., release: bool = ...) -> None: ...

class NetPing(_message.Message):
    __slots__ = ("address", "count", "payload_bytes", "interval_ms", "timeout_ms")
    ADDRESS_FIELD_NUMBER: _ClassVar[int]
    COUNT_FIELD_NUMBER: _ClassVar[int]
    PAYLOAD_BYTES_FIELD_NUMBER: _ClassVar[int]
    INTERVAL_MS_FIELD_NUMBER: _ClassVar[int]
    TIMEOUT_MS_FIELD_NUMBER: _ClassVar[int]
    address: str
    count: int
    payload_bytes: int
    interval_ms: int
    timeout_ms: int
    def __init__(self, address: _Optional[str] = ..., count: _Optional[int] = ..., payload_bytes: _Optional[int] = ..., interval_ms: _Optional[int] = ..., timeout_ms: _Optional[int] = ...) -> None: ...

class ManagementReply(_message.Message):
    __slots__ = ("token", "status", "text", "partitions", "next", "rc", "outs", "status_json", "field", "revision", "system", "switches", "changes", "missed")
    class Status(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        OK: _ClassVar[ManagementReply.Status]
        NOT_FOUND: _ClassVar[ManagementReply.Status]
        CONFLICT: _ClassVar[ManagementReply.Status]
        FAILED: _ClassVar[ManagementReply.Status]
        NOT_SUPPORTED: _ClassVar[ManagementReply.Status]
        MALFORMED: _ClassVar[ManagementReply.Status]
        STALE: _ClassVar[ManagementReply.Status]
        INVALID: _ClassVar[ManagementReply.Status]
    OK: ManagementReply.Status
    NOT_FOUND: ManagementReply.Status
    CONFLICT: ManagementReply.Status
    FAILED: ManagementReply.Status
    NOT_SUPPORTED: ManagementReply.Status
    MALFORMED: ManagementReply.Status
    STALE: ManagementReply.Status
    INVALID: ManagementReply.Status
    TOKEN_FIELD_NUMBER: _ClassVar[int]
    STATUS_FIELD_NUMBER: _ClassVar[int]
    TEXT_FIELD_NUMBER: _ClassVar[int]
    PARTITIONS_FIELD_NUMBER: _ClassVar[int]
    NEXT_FIELD_NUMBER: _ClassVar[int]
    RC_FIELD_NUMBER: _ClassVar[int]
    OUTS_FIELD_NUMBER: _ClassVar[int]
    STATUS_JSON_FIELD_NUMBER: _ClassVar[int]
    FIELD_FIELD_NUMBER: _ClassVar[int]
    REVISION_FIELD_NUMBER: _ClassVar[int]
    SYSTEM_FIELD_NUMBER: _ClassVar[int]
    SWITCHES_FIELD_NUMBER: _ClassVar[int]
    CHANGES_FIELD_NUMBER: _ClassVar[int]
    MISSED_FIELD_NUMBER: _ClassVar[int]
    token: int
    status: ManagementReply.Status
    text: str
    partitions: _containers.RepeatedCompositeFieldContainer[Partition]
    next: int
    rc: int
    outs: _containers.RepeatedScalarFieldContainer[int]
    status_json: str
    field: str
    revision: int
    system: System
    switches: _containers.RepeatedCompositeFieldContainer[Switch]
    changes: _containers.RepeatedCompositeFieldContainer[Change]
    missed: bool
    def __init__(self, token: _Optional[int] = ..., status: _Optional[_Union[ManagementReply.Status, str]] = ..., text: _Optional[str] = ..., partitions: _Optional[_Iterable[_Union[Partition, _Mapping]]] = ..., next: _Optional[int] = ..., rc: _Optional[int] = ..., outs: _Optional[_Iterable[int]] = ..., status_json: _Optional[str] = ..., field: _Optional[str] = ..., revision: _Optional[int] = ..., system: _Optional[_Union[System, _Mapping]] = ..., switches: _Optional[_Iterable[_Union[Switch, _Mapping]]] = ..., changes: _Optional[_Iterable[_Union[Change, _Mapping]]] = ..., missed: bool = ...) -> None: ...

class System(_message.Message):
    __slots__ = ("name", "uuid", "machine_type", "model", "serial", "memory_bytes", "free_memory_bytes", "memory_region_bytes", "processor_units", "free_processor_units", "revision", "max_partitions", "lab")
    NAME_FIELD_NUMBER: _ClassVar[int]
    UUID_FIELD_NUMBER: _ClassVar[int]
    MACHINE_TYPE_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    SERIAL_FIELD_NUMBER: _ClassVar[int]
    MEMORY_BYTES_FIELD_NUMBER: _ClassVar[int]
    FREE_MEMORY_BYTES_FIELD_NUMBER: _ClassVar[int]
    MEMORY_REGION_BYTES_FIELD_NUMBER: _ClassVar[int]
    PROCESSOR_UNITS_FIELD_NUMBER: _ClassVar[int]
    FREE_PROCESSOR_UNITS_FIELD_NUMBER: _ClassVar[int]
    REVISION_FIELD_NUMBER: _ClassVar[int]
    MAX_PARTITIONS_FIELD_NUMBER: _ClassVar[int]
    LAB_FIELD_NUMBER: _ClassVar[int]
    name: str
    uuid: str
    machine_type: str
    model: str
    serial: str
    memory_bytes: int
    free_memory_bytes: int
    memory_region_bytes: int
    processor_units: int
    free_processor_units: int
    revision: int
    max_partitions: int
    lab: str
    def __init__(self, name: _Optional[str] = ..., uuid: _Optional[str] = ..., machine_type: _Optional[str] = ..., model: _Optional[str] = ..., serial: _Optional[str] = ..., memory_bytes: _Optional[int] = ..., free_memory_bytes: _Optional[int] = ..., memory_region_bytes: _Optional[int] = ..., processor_units: _Optional[int] = ..., free_processor_units: _Optional[int] = ..., revision: _Optional[int] = ..., max_partitions: _Optional[int] = ..., lab: _Optional[str] = ...) -> None: ...

class Switch(_message.Message):
    __slots__ = ("name", "label", "uuid", "mtu", "revision")
    NAME_FIELD_NUMBER: _ClassVar[int]
    LABEL_FIELD_NUMBER: _ClassVar[int]
    UUID_FIELD_NUMBER: _ClassVar[int]
    MTU_FIELD_NUMBER: _ClassVar[int]
    REVISION_FIELD_NUMBER: _ClassVar[int]
    name: str
    label: str
    uuid: str
    mtu: int
    revision: int
    def __init__(self, name: _Optional[str] = ..., label: _Optional[str] = ..., uuid: _Optional[str] = ..., mtu: _Optional[int] = ..., revision: _Optional[int] = ...) -> None: ...

class Change(_message.Message):
    __slots__ = ("revision", "kind", "object", "name", "slot", "uuid", "detail", "state")
    class Kind(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        KIND_UNSPECIFIED: _ClassVar[Change.Kind]
        ADDED: _ClassVar[Change.Kind]
        MODIFIED: _ClassVar[Change.Kind]
        REMOVED: _ClassVar[Change.Kind]
    KIND_UNSPECIFIED: Change.Kind
    ADDED: Change.Kind
    MODIFIED: Change.Kind
    REMOVED: Change.Kind
    class Object(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        OBJECT_UNSPECIFIED: _ClassVar[Change.Object]
        SYSTEM: _ClassVar[Change.Object]
        PARTITION: _ClassVar[Change.Object]
        ADAPTER: _ClassVar[Change.Object]
        SWITCH: _ClassVar[Change.Object]
    OBJECT_UNSPECIFIED: Change.Object
    SYSTEM: Change.Object
    PARTITION: Change.Object
    ADAPTER: Change.Object
    SWITCH: Change.Object
    REVISION_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    OBJECT_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    SLOT_FIELD_NUMBER: _ClassVar[int]
    UUID_FIELD_NUMBER: _ClassVar[int]
    DETAIL_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    revision: int
    kind: Change.Kind
    object: Change.Object
    name: str
    slot: int
    uuid: str
    detail: str
    state: Partition.State
    def __init__(self, revision: _Optional[int] = ..., kind: _Optional[_Union[Change.Kind, str]] = ..., object: _Optional[_Union[Change.Object, str]] = ..., name: _Optional[str] = ..., slot: _Optional[int] = ..., uuid: _Optional[str] = ..., detail: _Optional[str] = ..., state: _Optional[_Union[Partition.State, str]] = ...) -> None: ...

class Partition(_message.Message):
    __slots__ = ("name", "lpar_id", "state", "management", "memory_bytes", "pid", "restarts", "label", "uuid", "min_memory_bytes", "max_memory_bytes", "current_memory_bytes", "processors", "type", "adapters", "scm", "revision", "text", "guest_ready")
    class State(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        OFF: _ClassVar[Partition.State]
        STARTING: _ClassVar[Partition.State]
        RUNNING: _ClassVar[Partition.State]
        STOPPING: _ClassVar[Partition.State]
        FAILED: _ClassVar[Partition.State]
    OFF: Partition.State
    STARTING: Partition.State
    RUNNING: Partition.State
    STOPPING: Partition.State
    FAILED: Partition.State
    NAME_FIELD_NUMBER: _ClassVar[int]
    LPAR_ID_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    MANAGEMENT_FIELD_NUMBER: _ClassVar[int]
    MEMORY_BYTES_FIELD_NUMBER: _ClassVar[int]
    PID_FIELD_NUMBER: _ClassVar[int]
    RESTARTS_FIELD_NUMBER: _ClassVar[int]
    LABEL_FIELD_NUMBER: _ClassVar[int]
    UUID_FIELD_NUMBER: _ClassVar[int]
    MIN_MEMORY_BYTES_FIELD_NUMBER: _ClassVar[int]
    MAX_MEMORY_BYTES_FIELD_NUMBER: _ClassVar[int]
    CURRENT_MEMORY_BYTES_FIELD_NUMBER: _ClassVar[int]
    PROCESSORS_FIELD_NUMBER: _ClassVar[int]
    TYPE_FIELD_NUMBER: _ClassVar[int]
    ADAPTERS_FIELD_NUMBER: _ClassVar[int]
    SCM_FIELD_NUMBER: _ClassVar[int]
    REVISION_FIELD_NUMBER: _ClassVar[int]
    TEXT_FIELD_NUMBER: _ClassVar[int]
    GUEST_READY_FIELD_NUMBER: _ClassVar[int]
    name: str
    lpar_id: int
    state: Partition.State
    management: bool
    memory_bytes: int
    pid: int
    restarts: int
    label: str
    uuid: str
    min_memory_bytes: int
    max_memory_bytes: int
    current_memory_bytes: int
    processors: Processors
    type: str
    adapters: _containers.RepeatedCompositeFieldContainer[Adapter]
    scm: _containers.RepeatedCompositeFieldContainer[ScmVolume]
    revision: int
    text: str
    guest_ready: bool
    def __init__(self, name: _Optional[str] = ..., lpar_id: _Optional[int] = ..., state: _Optional[_Union[Partition.State, str]] = ..., management: bool = ..., memory_bytes: _Optional[int] = ..., pid: _Optional[int] = ..., restarts: _Optional[int] = ..., label: _Optional[str] = ..., uuid: _Optional[str] = ..., min_memory_bytes: _Optional[int] = ..., max_memory_bytes: _Optional[int] = ..., current_memory_bytes: _Optional[int] = ..., processors: _Optional[_Union[Processors, _Mapping]] = ..., type: _Optional[str] = ..., adapters: _Optional[_Iterable[_Union[Adapter, _Mapping]]] = ..., scm: _Optional[_Iterable[_Union[ScmVolume, _Mapping]]] = ..., revision: _Optional[int] = ..., text: _Optional[str] = ..., guest_ready: bool = ...) -> None: ...

class Processors(_message.Message):
    __slots__ = ("dedicated", "units", "min_units", "max_units", "virtual", "min_virtual", "max_virtual", "uncapped", "weight")
    DEDICATED_FIELD_NUMBER: _ClassVar[int]
    UNITS_FIELD_NUMBER: _ClassVar[int]
    MIN_UNITS_FIELD_NUMBER: _ClassVar[int]
    MAX_UNITS_FIELD_NUMBER: _ClassVar[int]
    VIRTUAL_FIELD_NUMBER: _ClassVar[int]
    MIN_VIRTUAL_FIELD_NUMBER: _ClassVar[int]
    MAX_VIRTUAL_FIELD_NUMBER: _ClassVar[int]
    UNCAPPED_FIELD_NUMBER: _ClassVar[int]
    WEIGHT_FIELD_NUMBER: _ClassVar[int]
    dedicated: bool
    units: int
    min_units: int
    max_units: int
    virtual: int
    min_virtual: int
    max_virtual: int
    uncapped: bool
    weight: int
    def __init__(self, dedicated: bool = ..., units: _Optional[int] = ..., min_units: _Optional[int] = ..., max_units: _Optional[int] = ..., virtual: _Optional[int] = ..., min_virtual: _Optional[int] = ..., max_virtual: _Optional[int] = ..., uncapped: bool = ..., weight: _Optional[int] = ...) -> None: ...

class Adapter(_message.Message):
    __slots__ = ("slot", "uuid", "mac", "switch", "vlan", "device", "address", "revision")
    SLOT_FIELD_NUMBER: _ClassVar[int]
    UUID_FIELD_NUMBER: _ClassVar[int]
    MAC_FIELD_NUMBER: _ClassVar[int]
    SWITCH_FIELD_NUMBER: _ClassVar[int]
    VLAN_FIELD_NUMBER: _ClassVar[int]
    DEVICE_FIELD_NUMBER: _ClassVar[int]
    ADDRESS_FIELD_NUMBER: _ClassVar[int]
    REVISION_FIELD_NUMBER: _ClassVar[int]
    slot: int
    uuid: str
    mac: str
    switch: str
    vlan: int
    device: str
    address: str
    revision: int
    def __init__(self, slot: _Optional[int] = ..., uuid: _Optional[str] = ..., mac: _Optional[str] = ..., switch: _Optional[str] = ..., vlan: _Optional[int] = ..., device: _Optional[str] = ..., address: _Optional[str] = ..., revision: _Optional[int] = ...) -> None: ...

class ScmVolume(_message.Message):
    __slots__ = ("drc", "size_bytes", "block_bytes", "label_bytes", "type", "uuid")
    DRC_FIELD_NUMBER: _ClassVar[int]
    SIZE_BYTES_FIELD_NUMBER: _ClassVar[int]
    BLOCK_BYTES_FIELD_NUMBER: _ClassVar[int]
    LABEL_BYTES_FIELD_NUMBER: _ClassVar[int]
    TYPE_FIELD_NUMBER: _ClassVar[int]
    UUID_FIELD_NUMBER: _ClassVar[int]
    drc: int
    size_bytes: int
    block_bytes: int
    label_bytes: int
    type: str
    uuid: str
    def __init__(self, drc: _Optional[int] = ..., size_bytes: _Optional[int] = ..., block_bytes: _Optional[int] = ..., label_bytes: _Optional[int] = ..., type: _Optional[str] = ..., uuid: _Optional[str] = ...) -> None: ...
